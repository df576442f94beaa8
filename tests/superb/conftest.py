"""Commands run in their own folder, as typed, with cached lists below it."""

import contextlib
import io

import pytest

from s3prl_pruned.superb.running import run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """An empty working directory for the module, with its own cache; restored afterwards."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def command(workplace):
    """Run the command line on FBANK; returns what it printed."""

    def call(*options):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            run.main(["-u", "fbank", "--device", "cpu", *map(str, options)])
        return printed.getvalue()

    return call
