"""`--dry-run` finds problems that would stop a run, estimates its time, and writes nothing."""

import shutil

import pytest

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.pretrain import dry_run as module
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.trainer import Trainer


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_it_takes_the_runs_first_steps_estimates_and_writes_nothing(recipe, tmp_path, capsys):
    before = listing(tmp_path)
    assert recipe.train(tmp_path / "run", "--dry-run") is None
    assert listing(tmp_path) == before
    said = capsys.readouterr().out
    for part in (
        "teacher: ",
        ": 7 utterances",
        "for 3 steps",
        "200,000 steps as in the paper",
        "GiB free",
        "nothing was written",
    ):
        assert part in said, part
    run = recipe.train(tmp_path / "run")
    first = ", ".join(f"{line['distill']:.4g}" for line in read_log(run))
    assert f"first losses: {first}" in said


def test_the_reported_size_of_a_checkpoint_is_that_of_the_file(recipe, tmp_path, capsys):
    run = recipe.train(tmp_path / "run")
    state = checkpoint.load_checkpoint(run / "latest")
    assert checkpoint.size(state) == pytest.approx((run / "latest").stat().st_size, rel=0.01)


def test_a_disk_too_small_for_the_checkpoints_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 10**6))
    with pytest.raises(UserError, match=r"`runner.max_keep` = 20 checkpoints of .* GiB are free. Free space, lower"):
        recipe.train(tmp_path / "run", "--dry-run")
    assert not (tmp_path / "run").exists()


def test_every_file_of_a_manifest_is_checked(recipe, tmp_path):
    from s3prl_pruned.data.prepare import prepare

    copy = tmp_path / "corpus"
    shutil.copytree(recipe.corpus, copy)
    prepare(copy, tmp_path / "list.jsonl")
    recipe.train(tmp_path / "run", "--dry-run", "--corpus", str(tmp_path / "list.jsonl"))
    (copy / "tone-3.flac").unlink()
    with pytest.raises(UserError, match="tone-3.flac: no such file"):
        recipe.train(tmp_path / "run", "--dry-run", "--corpus", str(tmp_path / "list.jsonl"))


@pytest.mark.parametrize("more", ["", ",,runner.gradient_accumulate_steps=2"])
def test_it_tries_the_largest_batch_of_the_run(recipe, tmp_path, monkeypatch, capsys, more):
    seen = []
    real = Trainer.start

    def start(self, batches):
        seen.append((self.step + 1, [tuple(batch[0].shape) for batch in batches]))
        return real(self, batches)

    monkeypatch.setattr(Trainer, "start", start)
    longer = "runner.total_steps=40,,pretrain_expert.datarc.max_seconds=0.7"
    recipe.train(tmp_path / "run", "--dry-run", "-o", longer + more)
    said = capsys.readouterr().out
    tried, each = seen[-1][1], 1 + bool(more)
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5] and len(tried) == each
    seen.clear()
    recipe.train(tmp_path / "run", "-o", longer + more)
    largest = max(shape for _, shapes in seen for shape in shapes)
    assert tried == [largest] * each
    assert f"with the largest batch of the run, 2 x {largest[1] / 16_000:.2f} s" in said
    assert "estimated GPU memory for that batch, in float16: 0." in said


def test_a_short_run_stays_within_its_schedules(recipe, tmp_path, monkeypatch):
    steps = []
    real = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda self, batches: steps.append(self.step + 1) or real(self, batches))
    recipe.train(tmp_path / "run", "--dry-run")
    assert steps == [1, 2, 3, 3]
