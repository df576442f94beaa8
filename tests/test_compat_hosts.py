"""Which s3prl is there is told right, and none or two at once is one clear error before anything is patched."""

import importlib
import sys

import pytest

import s3prl_pruned
from s3prl_pruned import compat
from s3prl_pruned.command_line import command_line
from s3prl_pruned.compat import Host
from s3prl_pruned.config import UserError


@pytest.fixture
def path(monkeypatch, tmp_path):
    """Puts folders in place of the whole `sys.path`, with no s3prl imported."""
    monkeypatch.delitem(sys.modules, "s3prl", raising=False)

    def put(*names):
        monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in names])
        importlib.invalidate_caches()

    return put


def install(folder, name, version, *, recorded=True):
    """What pip leaves: the module, and metadata that say whose it is (an editable installation's do not)."""
    module = folder / "s3prl"
    module.mkdir(parents=True, exist_ok=True)
    (module / "__init__.py").write_text("")
    (module / "version.txt").write_text(f"{version}\n")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("s3prl/__init__.py,,\n" if recorded else "__editable__.s3prl.pth,,\n")


@pytest.mark.parametrize("name", ["s3prl", "espnet-s3prl"])
def test_a_host_has_its_distributions_name_and_version(path, tmp_path, name):
    install(tmp_path / "site", name, "1.2.3")
    path("site", "site")  # a folder may be on the path twice
    assert compat.host() == Host(name, "1.2.3") and str(compat.host()) == f"{name} 1.2.3"
    assert "s3prl" not in sys.modules, "nothing was imported to tell"


def test_the_host_of_these_tests_is_the_one_whose_code_runs():
    compat.apply()
    import s3prl

    name, version = str(compat.host()).split()
    assert name in ("s3prl", "espnet-s3prl")
    # the fork writes 2026.05.14 in its code and 2026.5.14 in its metadata
    assert [int(part) for part in version.split(".")] == [int(part) for part in s3prl.__version__.split(".")]


def test_a_clone_on_the_path_is_a_host_whatever_is_installed_elsewhere(path, tmp_path):
    install(tmp_path / "site", "espnet-s3prl", "2.0")
    (tmp_path / "clone" / "s3prl").mkdir(parents=True)
    (tmp_path / "clone" / "s3prl" / "__init__.py").write_text("")
    path("clone", "site")
    assert compat.host() == Host("s3prl", "unknown")
    (tmp_path / "clone" / "s3prl" / "version.txt").write_text("0.4.19\n")
    assert compat.host() == Host("s3prl", "0.4.19")
    path("site", "clone")
    assert compat.host() == Host("espnet-s3prl", "2.0")


def test_an_editable_installation_has_its_distributions_name(path, tmp_path):
    install(tmp_path / "site", "espnet-s3prl", "2.0", recorded=False)
    path("site")
    assert compat.host() == Host("espnet-s3prl", "2.0")


def test_both_in_different_folders_are_not_mixed(path, tmp_path):
    install(tmp_path / "mine", "espnet-s3prl", "2.0")
    install(tmp_path / "systems", "s3prl", "0.4.18")
    path("mine", "systems")
    assert compat.host() == Host("espnet-s3prl", "2.0")


def none(folder):
    folder.mkdir()


def mixed(folder):
    install(folder, "s3prl", "0.4.18")
    install(folder, "espnet-s3prl", "2.0")


def half_gone(folder):
    """As `pip uninstall s3prl` leaves a mixture: the files of both are gone, folders with other files are not."""
    install(folder, "espnet-s3prl", "2.0")
    (folder / "s3prl" / "__init__.py").unlink()


ERRORS = {
    none: r"^s3prl: must be installed, .* but is not\. Type `pip install s3prl`, or `pip install espnet-s3prl`",
    mixed: r"^s3prl: .* one of them may be installed, but s3prl 0\.4\.18 and espnet-s3prl 2\.0 are, and their "
    r"files are mixed\. Type `pip uninstall -y s3prl espnet-s3prl`, then",
    half_gone: r"^s3prl: espnet-s3prl 2\.0 must be importable since pip lists it, but its files are gone\. Type `pip",
}


@pytest.mark.parametrize(("make", "rule"), ERRORS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_none_or_two_hosts_are_one_clear_error_and_nothing_is_patched(path, tmp_path, monkeypatch, capsys, make, rule):
    make(tmp_path / "site")
    path("site")
    monkeypatch.setattr(compat, "WORKAROUNDS", {"never": lambda: pytest.fail("patched all the same")})
    for call in (compat.apply, s3prl_pruned.register):
        with pytest.raises(UserError, match=rule):
            call()
    with pytest.raises(SystemExit) as stop:
        command_line(compat.apply)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: s3prl: ")


def test_what_lists_the_hosts_tells_none_and_two_without_an_error(path, tmp_path):
    none(tmp_path / "none")
    path("none")
    assert compat.installed_hosts() == []
    mixed(tmp_path / "both")
    path("both")
    assert compat.installed_hosts() == [Host("s3prl", "0.4.18"), Host("espnet-s3prl", "2.0")]
