"""A finished run of FBANK on a tiny synthetic corpus, and copies of it to change and damage."""

import shutil

import pytest

from tests.superb.running.command import command
from tests.synthetic_corpus import SHORT_SETTINGS, make_corpus


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a corpus and a finished run of FBANK, and what the run printed."""
    folder = tmp_path_factory.mktemp("finished")
    make_corpus(folder / "corpus")
    with pytest.MonkeyPatch.context() as there:
        there.chdir(folder)
        there.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return folder, command("-u", "fbank", "-o", SHORT_SETTINGS)


@pytest.fixture
def finished(trained, monkeypatch):
    """The same, with its folder as the current one; not to be changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained[0] / "cache"))
    monkeypatch.chdir(trained[0])
    return trained


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """A copy of that folder to work in; its run can be repeated, changed and damaged."""
    shutil.copytree(finished[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return lambda *options: command("-u", "fbank", "-o", SHORT_SETTINGS, *options)
