"""Models by URL: checkpoints and archives arrive complete, and no archive writes outside its folder."""

import functools
import http.server
import io
import logging
import os
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import model_hash
from s3prl_pruned.upstream.download import fetch_model
from s3prl_pruned.upstream.load import load_model


@pytest.fixture(autouse=True)
def cache(tmp_path, hub):
    """s3prl's download cache, in a temporary folder."""
    from s3prl.util import download

    before = download.get_dir()
    download.set_dir(tmp_path / "cache")
    yield tmp_path / "cache"
    download.set_dir(before)


@pytest.fixture
def archive(tmp_path, exported):
    """Make a zip or tar.gz of the export; returns its file:// URL."""

    def make(kind, root="export"):
        base = shutil.make_archive(
            str(tmp_path / f"model-{kind}"), kind, exported.parent if root else exported, root or None
        )
        return f"file://{base}"

    return make


def zip_of(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return f"file://{path}"


@pytest.mark.parametrize("kind, root", [("zip", "export"), ("gztar", "export"), ("zip", None), ("tar", None)])
def test_an_archived_export_is_unpacked_beside_the_cached_file(archive, cache, exported, kind, root):
    folder = fetch_model(archive(kind, root))
    assert folder.parent == cache.resolve()
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert model_hash(folder) == model_hash(exported)
    load_model(folder)


def test_a_checkpoint_is_used_as_it_is(cache, pruned_checkpoint):
    path = fetch_model(f"file://{pruned_checkpoint}")
    assert path.parent == cache.resolve() and path.read_bytes() == pruned_checkpoint.read_bytes()


@pytest.fixture
def server(exported, tmp_path):
    """A web server on this machine; yields its folder and address."""
    root = tmp_path / "served"
    root.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=root)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield root, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_the_hub_entry_takes_urls_over_http_and_refresh_fetches_anew(
    hub, server, cache, pruned_checkpoint, recipe, relative_differences
):
    root, address = server
    shutil.copy(pruned_checkpoint, root / "states-3.ckpt")
    url = f"{address}/states-3.ckpt?download=true"
    first = hub.wavlm_pruned_url(ckpt=url, model_config=None, refresh=False)
    wav = torch.linspace(-0.5, 0.5, 8000)
    with torch.no_grad():
        states = first.eval()([wav])["hidden_states"]
        local, other = (
            hub.wavlm_pruned_local(ckpt=str(path)).eval()([wav])["hidden_states"]
            for path in (pruned_checkpoint, recipe.teacher)
        )
    assert max(relative_differences(states, local)) <= 2e-5 < 0.01 < max(relative_differences(states, other))

    (root / "states-3.ckpt").write_bytes(b"something else now")
    assert hub.wavlm_pruned_url(ckpt=url, refresh=False).model_hash == first.model_hash, "from the cache"
    for cached in cache.glob("*.ckpt*true"):
        os.utime(cached, (0, 0))  # s3prl does not refresh a file of the last two seconds
    with pytest.raises(UserError, match="truncated, or is no torch checkpoint"):
        hub.wavlm_pruned_url(ckpt=url, refresh=True)


def test_a_failed_download_is_one_clear_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="nothing.zip: cannot be downloaded.*-k for an upstream"):
        fetch_model(f"file://{tmp_path}/nothing.zip")


@pytest.mark.parametrize("name", ["../config.json", "/tmp/config.json", "a/../../config.json", "..\\config.json"])
def test_a_member_that_points_outside_is_refused(tmp_path, cache, name):
    url = zip_of(tmp_path / "evil.zip", {name: "{}", "model.safetensors": "x"})
    with pytest.raises(UserError, match="points outside the archive. Nothing was unpacked"):
        fetch_model(url)
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".zip"]


def test_a_link_in_a_tar_is_not_followed(tmp_path):
    path = tmp_path / "link.tar"
    with tarfile.open(path, "w") as file:
        link = tarfile.TarInfo("config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        file.addfile(link)
        weights = tarfile.TarInfo("model.safetensors")
        weights.size = 1
        file.addfile(weights, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="must hold one exported folder"):
        fetch_model(f"file://{path}")


def test_other_files_of_an_archive_are_not_unpacked_and_a_warning_says_so(tmp_path, exported, caplog):
    members = {f"m/{path.name}": path.read_bytes() for path in exported.iterdir()}
    url = zip_of(tmp_path / "more.zip", {**members, "m/code.py": "raise SystemExit", "setup.py": "raise SystemExit"})
    with caplog.at_level(logging.WARNING):
        folder = fetch_model(url)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "has 5 files, of which only" in caplog.text


@pytest.mark.parametrize(
    "members",
    [
        {"notes.txt": "x"},
        {"config.json": "{}"},
        {"a/config.json": "{}", "b/config.json": "{}", "a/model.safetensors": ""},
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path, members):
    with pytest.raises(UserError, match="must hold one exported folder"):
        fetch_model(zip_of(tmp_path / "other.zip", members))


def test_a_truncated_archive_is_refused_and_leaves_no_folder(archive, tmp_path, cache):
    whole = archive("gztar").removeprefix("file://")
    content = Path(whole).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cut.tar.gz: is damaged"):
        fetch_model(f"file://{tmp_path}/cut.tar.gz")
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_zip_whose_content_is_damaged_is_refused(archive, tmp_path, cache):
    whole = archive("zip").removeprefix("file://")
    content = bytearray(Path(whole).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    (tmp_path / "damaged.zip").write_bytes(content)
    with pytest.raises(UserError, match="damaged.zip: is damaged"):
        fetch_model(f"file://{tmp_path}/damaged.zip")
    assert not [path for path in cache.iterdir() if path.is_dir()]
