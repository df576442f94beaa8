"""Where a corpus is: the command line takes precedence over the environment, and that over paths.yaml."""

from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.running import make_run
from s3prl_pruned.superb.running.options import make_parser
from s3prl_pruned.superb.tasks.paths import corpus_of, read_paths, s3prl_checkout
from tests.superb_corpora import make_fluent_commands
from tests.synthetic_corpus import make_corpus


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("S3PRL_PRUNED_ASR_CORPUS", raising=False)
    return tmp_path


def found(*options):
    return make_run.make_run(make_parser().parse_args(["-u", "fbank", *options]))


def test_the_command_wins_over_the_environment_and_that_over_the_file(here, monkeypatch):
    for name in ("given", "variable", "listed"):
        make_corpus(here / name)
    assert found("-d", "asr").embedded
    Path("paths.yaml").write_text("asr: listed\n")
    assert found("-d", "asr").corpus == Path("listed") and not found("-d", "asr").embedded
    monkeypatch.setenv("S3PRL_PRUNED_ASR_CORPUS", str(here / "variable"))
    assert found("-d", "asr").corpus == here / "variable"
    assert found("-d", "asr", "--corpus", "given").corpus == Path("given")
    assert found("-d", "asr", "-o", "config.downstream_expert.datarc.libri_root=given").corpus == Path("given")


def test_a_corpus_that_is_named_anywhere_is_read_with_the_benchmarks_settings(here):
    make_corpus(here / "listed")
    Path("paths.yaml").write_text("asr: listed\n")
    assert found("-d", "asr").config["runner"]["total_steps"] == 200_000


def test_paths_are_relative_to_their_file(here):
    make_fluent_commands(here / "elsewhere" / "fsc")
    (here / "elsewhere" / "mine.yaml").write_text("ic: fsc\n")
    assert found("-d", "ic", "--paths", "elsewhere/mine.yaml").corpus == Path("elsewhere/fsc")


def test_a_task_without_a_corpus_says_where_to_get_it_and_how_to_name_it(here):
    with pytest.raises(
        UserError,
        match=r"-d ks .keyword spotting. needs the corpus Speech Commands v0.01 .* available at http.* "
        r"by --corpus DIR, `ks: DIR` in paths.yaml, S3PRL_PRUNED_KS_CORPUS, or -o config.downstream_expert.data",
    ):
        found("-d", "ks")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("asrr: /data\n", "paths.yaml: asrr: no such task. Did you mean `asr`"),
        ("asr: [1]\n", "paths.yaml: asr: must be a path, but is .1."),
    ],
)
def test_a_paths_file_with_another_key_is_refused(here, text, message):
    Path("paths.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_paths(None)


def test_a_named_paths_file_must_exist(here):
    with pytest.raises(UserError, match="absent.yaml"):
        read_paths("absent.yaml")
    assert corpus_of(TASKS["asr"], None, read_paths(None)) is None


def test_a_checkout_of_s3prl_is_taken_by_its_own_folder_or_the_package_in_it(here):
    (here / "checkout" / "s3prl" / "downstream").mkdir(parents=True)
    Path("paths.yaml").write_text("s3prl_root: checkout\n")
    assert s3prl_checkout("checkout", read_paths(None)) == Path("checkout/s3prl")
    assert s3prl_checkout("checkout/s3prl", read_paths(None)) == Path("checkout/s3prl")
    assert s3prl_checkout(None, read_paths(None)) == Path("checkout/s3prl")
    with pytest.raises(UserError, match="--s3prl-root cache: must be a checkout of s3prl"):
        s3prl_checkout("cache", read_paths(None))
