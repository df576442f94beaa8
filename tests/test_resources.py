"""Recipes and task settings are found in a clone, and inside an installed package."""

import pytest

from s3prl_pruned import resources


def test_a_clone_has_them_beside_the_package():
    assert (resources.recipes() / "embedded" / "config_model.yaml").is_file()
    assert (resources.settings() / "asr.yaml").is_file()
    assert resources.recipes().parent == resources.settings().parent == resources.PACKAGE.parent


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    package = tmp_path / "s3prl_pruned"
    for name in ("upstream_configs", "downstream_runs"):
        (package / name).mkdir(parents=True)
    monkeypatch.setattr(resources, "PACKAGE", package)
    assert resources.recipes() == package / "upstream_configs"
    assert resources.settings() == package / "downstream_runs"


@pytest.mark.parametrize("name", ["upstream_configs/best_embedded/latency_table.json", "downstream_runs/asr.yaml"])
def test_a_file_of_theirs_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resources.existing(name) == resources.PACKAGE.parent / name
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert not resources.existing(name).is_absolute(), "a file that is there as it is named comes first"
    for other in ("elsewhere/table.json", "/upstream_configs/x", ""):
        assert str(resources.existing(other)) == (other or ".")
