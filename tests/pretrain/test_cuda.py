"""Training on a GPU: runs resume bit for bit, the CPU never waits, and losses are those of a CPU."""

import shutil

import pytest
import torch

from s3prl_pruned.formats.folder import model_hash
from s3prl_pruned.pretrain.logging import read_log
from tests.pretrain.test_interruption import trajectory
from tests.pretrain.test_waits import KINDS, batches_of, trainer_of

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_resumes_bit_for_bit(recipe, tmp_path, precision, compiled):
    options = (
        f"runner.total_steps=8,,runner.save_step=4,,runner.{precision}=true,,runner.compile={str(compiled).lower()}"
    )
    whole = recipe.train(tmp_path / "whole", "--device", "cuda", "-o", options)
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    shutil.rmtree(run / "export")
    (run / "states-8.ckpt").unlink()
    recipe.train(run, "--device", "cuda", "-a", "-o", options)
    assert trajectory(run) == trajectory(whole)
    assert model_hash(run / "export") == model_hash(whole / "export")


@pytest.mark.parametrize("kind", ["the paper's", "a pruned CNN, towards MACs", "fixed pairs", "self-pinching"])
def test_a_step_waits_for_nothing(recipe, kind):
    """By torch's warnings about synchronising calls; copies are only read once they have arrived."""
    trainer = trainer_of(recipe, KINDS[kind], device="cuda", bf16=True, ema_decay=0.9)
    for _ in range(3):
        trainer.advance(batches_of(6_000, 6_000))
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.start(batches_of(6_000, 6_000))
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert trainer.finished(wait=True)


def test_the_losses_equal_those_of_a_cpu(recipe, tmp_path):
    options = (
        "runner.fp16=false,,student.dropout=0,,student.attention_dropout=0,,student.activation_dropout=0,,"
        "runner.total_steps=4"
    )
    runs = [recipe.train(tmp_path / device, "--device", device, "-o", options) for device in ("cuda", "cpu")]
    ours, theirs = ([line["distill"] for line in read_log(run)] for run in runs)
    assert ours == pytest.approx(theirs, rel=1e-4), "fp32, rounded in another order for a few steps"
