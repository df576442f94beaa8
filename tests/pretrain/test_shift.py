"""Runs in which a shift of all gates holds the target, in place of the Lagrangian."""

import shutil

import pytest

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.pretrain.logging import read_log
from tests.pretrain.test_interruption import trajectory

OPTIONS = (
    "-o",
    "runner.total_steps=6,,sparsity.control=shift,,sparsity.target.share=0.5,,sparsity.warmup_fraction=0.5",
)


@pytest.fixture(scope="module")
def finished(recipe):
    return recipe.train(recipe.root / "shifted", *OPTIONS)


def test_the_expected_sparsity_is_the_target_at_every_step_without_multipliers(finished):
    log = read_log(finished)
    assert [line["target_sparsity"] for line in log][:3] == pytest.approx([0.5 / 3, 1 / 3, 0.5])
    drawn = log[1:4]  # the first step begins with open gates, and the last ones settle
    assert [line["expected_sparsity"] for line in drawn] == pytest.approx(
        [line["target_sparsity"] for line in drawn], abs=2e-3
    )
    assert not any("lambda1" in line for line in log)
    assert not checkpoint.load_checkpoint(finished / "states-4.ckpt")["Lagrangian"]
    assert load_encoder(finished / "export")[1]["sparsity"]["realised"] == pytest.approx(0.5, abs=0.01)


def test_a_run_resumes_bit_for_bit(recipe, finished, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "log.jsonl", "states-3.ckpt"):
        shutil.copy(finished / name, run)
    recipe.train(run, *OPTIONS, "-a")
    assert trajectory(run) == trajectory(finished)
    assert model_hash(run / "export") == model_hash(finished / "export")


def test_it_is_for_hard_concrete_gates(recipe, tmp_path):
    with pytest.raises(UserError, match=r"`sparsity.control` is shift, which is for `gates`, but `self_pinching`"):
        recipe.train(tmp_path / "run", "-o", "self_pinching.kinds=[int],,sparsity.control=shift")
