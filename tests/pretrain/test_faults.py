"""NaN, too little memory and a changed recipe: nothing is skipped silently, and bad weights are never saved."""

import math
import os
import random
import shutil
import signal
import time

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import model_hash
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.trainer import Trainer
from tests.pretrain.test_interruption import assert_same_to_rounding, start, trajectory

FOUR = "runner.total_steps=4,,runner.save_step=1"


def poison(monkeypatch, steps, value=math.nan):
    """Make the loss of these steps `value`, inside the objective, so that gradients are bad too."""
    real, calls = LayerDistillation.forward, []

    def forward(self, *args):
        calls.append(None)
        return real(self, *args) * (value if len(calls) in steps else 1.0)

    monkeypatch.setattr(LayerDistillation, "forward", forward)


def parameters(path):
    state = checkpoint.load_checkpoint(path)
    return {
        f"{part}.{name}": value for part in ("Student", "Gates", "Lagrangian") for name, value in state[part].items()
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_is_named_counted_and_changes_nothing(recipe, tmp_path, monkeypatch, caplog, value):
    poison(monkeypatch, {2}, value)
    run = recipe.train(tmp_path / "run", "-o", FOUR)
    assert "step 2 is skipped (1 skipped so far): distill is" in caplog.text
    assert [line["bad_steps"] for line in read_log(run)] == [0, 1, 1, 1]
    assert [math.isfinite(line["distill"]) for line in read_log(run)] == [True, False, True, True]
    first, second, third = (parameters(run / f"states-{step}.ckpt") for step in (1, 2, 3))
    assert all(torch.equal(first[name], second[name]) for name in first), "a skipped step changes nothing"
    assert not all(torch.equal(second[name], third[name]) for name in second), "then training continues"
    assert all(torch.isfinite(value).all() for value in parameters(run / "latest").values())


def test_bad_steps_beyond_the_limit_stop_the_run_and_earlier_checkpoints_are_good(recipe, tmp_path, monkeypatch):
    poison(monkeypatch, {3, 4})
    with pytest.raises(
        UserError, match=r"step 4: distill is nan.*`max_bad_steps` allows 1 such steps, and this is number 2"
    ):
        recipe.train(tmp_path / "run", "-o", f"{FOUR},,runner.max_bad_steps=1")
    assert checkpoint.newest(tmp_path / "run").name == "states-3.ckpt"
    assert all(torch.isfinite(value).all() for value in parameters(tmp_path / "run" / "latest").values())
    assert not (tmp_path / "run" / "export").exists()


def test_the_count_of_bad_steps_survives_a_resume(recipe, tmp_path, monkeypatch):
    poison(monkeypatch, {2})
    run = recipe.train(tmp_path / "run", "-o", FOUR)
    shutil.rmtree(run / "export")
    for step in (3, 4):
        (run / f"states-{step}.ckpt").unlink()
    poison(monkeypatch, {1})  # step 3
    with pytest.raises(UserError, match="allows 1 such steps, and this is number 2"):
        recipe.train(run, "-a", "-o", f"{FOUR},,runner.max_bad_steps=1")


def test_weights_that_are_not_finite_are_never_saved(recipe, tmp_path, monkeypatch):
    real = Trainer.start

    def ruin(self, batches):
        real(self, batches)
        if self.step == 2:
            with torch.no_grad():
                next(self.expert.model.student.layers.parameters())[0] = math.nan

    monkeypatch.setattr(Trainer, "start", ruin)
    with pytest.raises(UserError, match="step 2: student.layers.0.* is not finite, so nothing is saved"):
        recipe.train(tmp_path / "run", "-o", FOUR)
    assert (tmp_path / "run" / "latest").resolve().name == "states-1.ckpt"


def test_out_of_memory_stops_with_what_to_lower_and_skips_nothing(recipe, tmp_path, monkeypatch):
    real = LayerDistillation.forward

    def forward(self, *args):
        torch.empty(2**46)  # refused by torch's allocator
        return real(self, *args)

    monkeypatch.setattr(LayerDistillation, "forward", forward)
    with pytest.raises(UserError) as refusal:
        recipe.train(tmp_path / "run", "-o", FOUR)
    for part in (
        "out of memory",
        "`datarc.train_batch_size` = 2 utterances",
        "gradient_accumulate_steps",
        "gradient_checkpointing",
        "No step was skipped",
    ):
        assert part in str(refusal.value)
    assert not list((tmp_path / "run").glob("states-*"))


def test_other_runtime_errors_are_not_called_out_of_memory(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(LayerDistillation, "forward", lambda self, *args: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        recipe.train(tmp_path / "run", "-o", FOUR)


@pytest.mark.parametrize("workers", [0, 2])
def test_undecodable_audio_stops_the_run_with_one_clear_error(recipe, tmp_path, workers):
    corpus = tmp_path / "corpus"
    shutil.copytree(recipe.corpus, corpus)
    for path in corpus.glob("tone-[0-3].flac"):
        path.write_bytes(path.read_bytes()[:3000])  # with an intact header
    with pytest.raises(UserError) as refusal:
        recipe.train(
            tmp_path / "run", "--corpus", str(corpus), "-o", f"{FOUR},,pretrain_expert.datarc.num_workers={workers}"
        )
    assert str(refusal.value).startswith(
        "the training corpus: 1 of 7 audio files cannot be read, and at most 1 % may be left out"
    )
    assert "Traceback" not in str(refusal.value) and "tone-" in str(refusal.value)


def test_latest_is_complete_at_every_moment_and_can_be_resumed(recipe, tmp_path):
    run = recipe.train(tmp_path / "run", "-o", f"{FOUR},,runner.max_keep=1")
    assert (run / "latest").is_symlink() and os.readlink(run / "latest") == "states-4.ckpt"
    assert [path.name for path in run.glob("states-*")] == ["states-4.ckpt"]
    shutil.rmtree(run / "export")
    recipe.train(run, "-a", "-o", f"{FOUR},,runner.max_keep=1")
    assert (run / "export").is_dir()


@pytest.fixture
def unfinished(recipe, tmp_path):
    run = recipe.train(tmp_path / "unfinished", "-o", FOUR)
    shutil.rmtree(run / "export")
    (run / "states-4.ckpt").unlink()
    return run


@pytest.mark.parametrize("how", ["-a", "-e"])
def test_a_recipe_changed_on_resume_is_refused_and_the_difference_shown(recipe, unfinished, how):
    change = ("-o", "optimizer.lr=0.5")
    with pytest.raises(UserError, match="runner.optimizer.lr: 0.001 there, 0.5 wanted"):
        if how == "-a":
            recipe.train(unfinished, "-a", "-o", f"{FOUR},,optimizer.lr=0.5")
        else:
            from s3prl_pruned.pretrain.command import main

            main(["-u", "wavlm_pruned_distill", "-e", str(unfinished), "--device", "cpu", *change])


def test_settings_without_effect_on_results_may_change_on_resume(recipe, unfinished):
    whole = recipe.train(unfinished.parent / "whole", "-o", FOUR)
    recipe.train(
        unfinished,
        "-a",
        "-o",
        "runner.total_steps=4,,runner.save_step=3,,runner.max_keep=2,,runner.gradient_checkpointing=true",
    )
    assert_same_to_rounding(unfinished, whole)


def test_gradient_checkpointing_computes_the_same_run(recipe, tmp_path):
    plain = recipe.train(tmp_path / "plain", "-o", FOUR)  # with dropout
    checkpointed = recipe.train(tmp_path / "checkpointed", "-o", f"{FOUR},,runner.gradient_checkpointing=true")
    assert_same_to_rounding(checkpointed, plain)
    other = recipe.train(tmp_path / "other", "-o", f"{FOUR},,student.activation_dropout=0.11")
    with pytest.raises(AssertionError):
        assert_same_to_rounding(other, plain)


def test_bfloat16_trains_on_a_cpu_too(recipe, tmp_path):
    losses = [line["distill"] for line in read_log(recipe.train(tmp_path / "bf16", "-o", f"{FOUR},,runner.bf16=true"))]
    exact = [line["distill"] for line in read_log(recipe.train(tmp_path / "fp32", "-o", FOUR))]
    assert losses == pytest.approx(exact, rel=0.1) and losses != exact


def test_a_line_of_the_log_has_all_keys(recipe, tmp_path):
    line = read_log(recipe.train(tmp_path / "run", "-o", FOUR))[-1]
    for name in (
        "distill distill_layer_3 sparsity_penalty expected_sparsity realised_sparsity target_sparsity lambda1 lambda2 "
        "lr gradient_norm gate_gradient_norm audio_seconds_per_second memory_gib bad_steps"
    ).split():  # fmt: skip
        assert math.isfinite(line[name]), name
    assert set(line["remaining"]) == {"heads", "qk", "vo", "ffn"} and set(line["mask_means"]) == {
        "z_mha",
        "z_qk",
        "z_vo",
        "z_ffn",
        "z_int",
    }
    assert all(len(values) == 3 for values in line["remaining"].values())
    assert line["memory_gib"] > 0.05 and line["audio_seconds_per_second"] > 0


# --- kill -9 -------------------------------------------------------------------------------------------------------

KILLED = ("-o", "runner.total_steps=150,,runner.save_step=2,,runner.max_keep=3")


@pytest.fixture(scope="module")
def whole(recipe):
    return recipe.train(recipe.root / "never-killed", *KILLED)


def kill_while(recipe, run, *, saving):
    """Start or resume `run`, and kill it at a random moment or inside a save; False if it ended before."""
    before = {path.name for path in run.glob("states-*")}
    process = start(recipe, run, "-a", *KILLED)
    deadline = time.monotonic() + 120
    while (
        {path.name for path in run.glob("states-*")} <= before
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    if saving:
        while not list(run.glob(".*.tmp")) and process.poll() is None and time.monotonic() < deadline:
            pass
    else:
        time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def killed_and_resumed(recipe, whole, run, kills):
    number = sum(kill_while(recipe, run, saving=i % 2 == 1) for i in range(kills))
    if not (run / "export").is_dir():
        recipe.train(run, "-a", *KILLED)
    assert trajectory(run) == trajectory(whole)
    assert model_hash(run / "export") == model_hash(whole / "export")
    return number


def test_after_several_kills_also_while_saving_a_run_ends_bit_for_bit_the_same(recipe, whole, tmp_path):
    assert killed_and_resumed(recipe, whole, tmp_path / "run", 3) == 3


@pytest.mark.slow
def test_twenty_kills_change_no_bit(recipe, whole, tmp_path):
    number = sum(killed_and_resumed(recipe, whole, tmp_path / f"run-{i}", 5) for i in range(5))
    assert number >= 20
