"""Checkpoints of versions with one log_alpha parameter per slot are resumed and exported without any difference."""

import shutil

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.formats.folder import model_hash
from s3prl_pruned.pretrain.finish import export_checkpoint
from tests.pretrain.test_interruption import trajectory

KINDS = ("-o", "gates.kinds=[mha,qk,vo,head,ffn,int,conv],,runner.total_steps=4")


@pytest.fixture(scope="module")
def finished(recipe):
    return recipe.train(recipe.root / "of-slots", *KINDS)


def older(state):
    """The state as version 0.1 wrote it: the optimiser of the gates has a parameter per slot."""
    weights, gates, multipliers = state["Optimizers"]
    sizes = [len(log_alpha) for log_alpha in state["Gates"].values()]
    (whole,), (group,) = gates["state"].values(), gates["param_groups"]
    moments = {name: whole[name].split(sizes) for name in ("exp_avg", "exp_avg_sq")}
    parts = {
        number: {"step": whole["step"].clone(), **{name: of[number].clone() for name, of in moments.items()}}
        for number in range(len(sizes))
    }
    gates = {"state": parts, "param_groups": [{**group, "params": list(parts)}]}
    del state["Target_Sparsity"]
    return {**state, "Optimizers": [weights, gates, multipliers]}


def test_state_dicts_name_each_slot(finished):
    state = checkpoint.load_checkpoint(finished / "states-2.ckpt")
    names = list(state["Gates"])
    kinds = ("mha", "qk", "vo", "head", "ffn", "int")
    assert names == [
        *(f"layers.{i}.z_{kind}.log_alpha" for i in range(3) for kind in kinds),
        *(f"cnn.{i}.log_alpha" for i in range(7)),
    ]
    assert all(log_alpha.dim() == 1 for log_alpha in state["Gates"].values())


def test_a_run_resumes_from_an_old_checkpoint_bit_for_bit(recipe, finished, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "log.jsonl"):
        shutil.copy(finished / name, run)
    state = older(checkpoint.load_checkpoint(finished / "states-2.ckpt"))
    assert len(state["Optimizers"][1]["state"]) == 3 * 6 + 7
    checkpoint.save_checkpoint(run / "states-2.ckpt", state)
    recipe.train(run, *KINDS, "-a")
    assert trajectory(run) == trajectory(finished)
    assert model_hash(run / "export") == model_hash(finished / "export")


def test_another_order_of_the_moments_would_be_noticed(recipe, finished, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "log.jsonl"):
        shutil.copy(finished / name, run)
    state = older(checkpoint.load_checkpoint(finished / "states-2.ckpt"))
    of_gates = state["Optimizers"][1]["state"]
    of_gates[1], of_gates[2] = of_gates[2], of_gates[1]  # z_qk and z_vo of the first layer, of the same size
    checkpoint.save_checkpoint(run / "states-2.ckpt", state)
    recipe.train(run, *KINDS, "-a")
    gates = [checkpoint.load_checkpoint(folder / "states-4.ckpt")["Gates"] for folder in (run, finished)]
    assert not torch.equal(*(of["layers.0.z_qk.log_alpha"] for of in gates))


def test_an_old_checkpoint_is_exported(finished, tmp_path):
    state = older(checkpoint.load_checkpoint(finished / "states-4.ckpt"))
    checkpoint.save_checkpoint(tmp_path / "states-4.ckpt", state)
    export_checkpoint(tmp_path / "states-4.ckpt", tmp_path / "export")
    assert model_hash(tmp_path / "export") == model_hash(finished / "export")
