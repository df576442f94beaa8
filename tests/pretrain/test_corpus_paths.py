"""An unfinished run resumes with its corpus or teacher under another path, if the content is the same."""

import json
import shutil

import pytest
import torch

from benchmarks.synthetic_audio import write_synthetic_corpus
from s3prl_pruned.checkpoint import load_checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.data.prepare import prepare
from s3prl_pruned.formats import microsoft
from s3prl_pruned.models.dummies import random_encoder
from s3prl_pruned.pretrain.resolve import parse_arguments, resolve
from tests.tiny_run import TinyRecipe, tiny_wavlm


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A recipe and a finished run of it."""
    tiny = TinyRecipe(tmp_path_factory.mktemp("paths"))
    return tiny, tiny.train(tiny.root / "run")


def interrupted(run, folder):
    """The run as it was after its first step."""
    shutil.copytree(
        run[1], folder, symlinks=True, ignore=shutil.ignore_patterns("export", "states-[23].ckpt", "latest")
    )
    return folder


def assert_goes_on_to_the_same_end(run, folder, *more):
    tiny, whole = run
    tiny.train(folder, *more, "-a")
    ours, theirs = (load_checkpoint(each / "states-3.ckpt")["Student"] for each in (folder, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_resumes_with_another_spelling_of_corpus_and_teacher(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run[0].root)
    assert_goes_on_to_the_same_end(
        run, interrupted(run, tmp_path / "run"), "--corpus", "corpus/", "--teacher", "./teacher.pt"
    )


@pytest.mark.parametrize("form", ["copy", "manifest", "link"])
def test_a_run_resumes_with_a_moved_or_listed_corpus_and_the_same_batches(run, tmp_path, form):
    other = tmp_path / ("list.jsonl" if form == "manifest" else "elsewhere")
    if form == "copy":
        shutil.copytree(run[0].corpus, other)
    elif form == "manifest":
        prepare(run[0].corpus, other)
    else:
        other.symlink_to(run[0].corpus)
    assert_goes_on_to_the_same_end(run, interrupted(run, tmp_path / "run"), "--corpus", str(other))


def test_other_speech_is_refused_with_what_is_allowed(run, tmp_path):
    write_synthetic_corpus(tmp_path / "other", lengths=[9_000] * 7)
    for folder in (interrupted(run, tmp_path / "run"), run[1]):  # the finished one, too
        with pytest.raises(UserError, match="datarc.corpus: .*With a moved or copied corpus a run continues if all"):
            run[0].train(folder, "--corpus", str(tmp_path / "other"), "-a")


def test_a_run_resumes_with_a_moved_teacher_but_not_with_another(run, tmp_path):
    moved, other = tmp_path / "moved.pt", tmp_path / "other.pt"
    shutil.copy(run[0].teacher, moved)
    assert_goes_on_to_the_same_end(run, interrupted(run, tmp_path / "run"), "--teacher", str(moved))
    run[0].train(run[1], "--teacher", str(moved))  # finished: nothing to do
    torch.save(microsoft.checkpoint(random_encoder(tiny_wavlm(), seed=9)), other)
    for teacher in (str(other), "random"):
        with pytest.raises(
            UserError, match="model.teacher: .*With a moved or copied teacher a run continues if the file"
        ):
            run[0].train(interrupted(run, tmp_path / teacher.replace("/", "-")), "--teacher", teacher, "-a")
    with pytest.raises(UserError, match="`teacher` must be one of"):
        run[0].train(interrupted(run, tmp_path / "gone"), "--teacher", str(tmp_path / "gone.pt"), "-a")


def test_a_run_resumes_with_a_warning_if_its_corpus_changed(run, tmp_path, caplog):
    folder = interrupted(run, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "speech": "of another day"}))
    run[0].train(folder, "-a")
    assert "the corpus has changed since this run began" in caplog.text


def test_a_run_without_a_record_of_its_speech_resumes(run, tmp_path, caplog):
    folder = interrupted(run, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    del record["speech"]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="datarc.corpus"):
        run[0].train(folder, "--corpus", str(tmp_path), "-a")
    run[0].train(folder, "-a")
    assert "the corpus has changed" not in caplog.text


@pytest.mark.parametrize("recipe", ["embedded", "wavlm_base_s80"])
def test_a_list_is_used_completely_even_if_the_recipe_names_sets(tmp_path, recipe):
    (tmp_path / "list.csv").write_text("file_path,length\n")
    line = ["-u", "wavlm_pruned_distill", "--recipe", recipe, "--corpus", str(tmp_path / "list.csv")]
    assert resolve(parse_arguments(line)).runner.pretrain_expert.datarc.sets is None
    named = resolve(parse_arguments([*line, "-o", "pretrain_expert.datarc.sets=[mine]"]))
    assert named.runner.pretrain_expert.datarc.sets == ("mine",), "sets named by the user are not dropped silently"
