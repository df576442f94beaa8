"""Distillation with self-pinching gates in the common training loop: the exported structure is the one counted."""

import itertools
import shutil

import pytest
import torch

from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.models import families
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.finish import masked_student
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.recipes import MODEL_FILE, RUNNER_FILE, load_recipe
from s3prl_pruned.pretrain.resolve import RECIPES
from s3prl_pruned.sparsity.counts import prunable_weights, sparsity
from s3prl_pruned.sparsity.expected import reachable_sparsity

UNITS = "self_pinching.kinds=[head,int],,optimizer.gate_lr=0.25,,runner.total_steps=4"
WEIGHTS = "self_pinching.kinds=[attention_weights,ffn_weights],,optimizer.gate_lr=0.15,,runner.total_steps=4"


@pytest.fixture(scope="module", params=[UNITS, WEIGHTS], ids=["units", "weights"])
def run(request, recipe):
    name = "pinched-units" if request.param == UNITS else "pinched-weights"
    return recipe.train(recipe.root / name, "-o", request.param), request.param


def test_the_realised_sparsity_is_the_counted_one_and_that_of_the_exported_weights(run):
    folder, options = run
    encoder, provenance = load_encoder(folder / "export")
    last = read_log(folder)[-1]
    realised = provenance["sparsity"]["realised"]
    assert realised == provenance["sparsity"]["expected"] == pytest.approx(last["realised_sparsity"], abs=1e-9)
    assert 0.05 < realised < 0.99, "something was pruned"
    assert realised == pytest.approx(sparsity(weights_left(encoder), encoder.config), abs=1e-9)
    if options == UNITS:  # by hand: whole heads and dimensions, and nothing else
        config = encoder.config
        for layer in encoder.spec.layers:
            assert all(len(head.qk) == len(head.vo) == config.head_dim for head in layer.heads)
        kept = sum(4 * config.head_dim * len(layer.heads) + 2 * len(layer.ffn) for layer in encoder.spec.layers)
        dense = config.num_layers * (4 * config.embed_dim + 2 * config.ffn_dim)
        assert realised == pytest.approx(1 - kept / dense)
        assert last["remaining"]["ffn"] == [len(layer.ffn) / config.ffn_dim for layer in encoder.spec.layers]
    else:
        assert prunable_weights(encoder.config, encoder.spec) == prunable_weights(
            encoder.config, type(encoder.spec).dense(encoder.config)
        )
        card = (folder / "export" / "README.md").read_text()
        assert f"{weights_left(encoder):,}" in card, "the card counts weights that are not zero"
    assert (
        "Xu et al. 2025" in provenance["method"] and "Xu et al. 2025" in (folder / "export" / "README.md").read_text()
    )


def test_the_hard_count_of_a_step_is_in_the_log_and_the_masks_are_0_and_1(run):
    folder, _ = run
    lines = read_log(folder)
    first, *later = [line["expected_sparsity"] for line in lines]
    assert first == 0 and min(later) > 0 and max(later) > 0.05
    for before, after in itertools.pairwise(lines):  # the masks after one step are those of the next
        assert after["expected_sparsity"] == pytest.approx(before["realised_sparsity"], abs=1e-6)
    _, final, _ = masked_student(folder / "states-4.ckpt")
    masks = [*final.masks.values(), *final.matrices.values()]
    assert {float(value) for z in masks for value in z.unique()} == {0.0, 1.0}


def test_a_resumed_run_ends_like_an_uninterrupted_one(run, recipe, tmp_path):
    folder, options = run
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    for path in (again / "states-4.ckpt", again / "states-3.ckpt"):
        path.unlink()
    shutil.rmtree(again / "export")
    recipe.train(again, "-o", options, "-a")
    assert model_hash(again / "export") == model_hash(folder / "export")
    assert [line["distill"] for line in read_log(again)] == [line["distill"] for line in read_log(folder)]


def test_an_export_is_an_upstream_of_s3prl(run):
    import s3prl_pruned

    s3prl_pruned.register()
    import s3prl.hub

    folder, _ = run
    upstream = s3prl.hub.wavlm_pruned_local(str(folder / "export"))
    states = upstream([0.1 * torch.randn(16_000), 0.1 * torch.randn(9_000)])["hidden_states"]
    assert len(states) == 4 and all(state.shape == states[0].shape and torch.isfinite(state).all() for state in states)


def test_an_export_is_pruned_further_but_not_to_a_lower_sparsity(run, recipe, tmp_path):
    folder, _ = run
    pruned, provenance = load_encoder(folder / "export")
    spec = pruned.spec
    more = ["--teacher", str(folder / "export"), "-o", UNITS]
    if provenance["sparsity"]["realised"] > 0.1 and spec != type(spec).dense(pruned.config):
        with pytest.raises(
            UserError, match=r"is already pruned to 0\.\d+; gates of the kinds .* reach 0\.\d+ to 1.0000"
        ):
            recipe.train(tmp_path / "less", *more[:-1], UNITS + ",,sparsity.target_sparsity=0.01")
    encoder, _ = load_encoder(recipe.train(tmp_path / "more", *more) / "export")
    for before, after in zip(spec.layers, encoder.spec.layers):
        assert set(after.ffn) <= set(before.ffn) and {h.index for h in after.heads} <= {h.index for h in before.heads}


def test_rates_out_of_reach_name_the_range(recipe, tmp_path):
    with pytest.raises(
        UserError,
        match=r"`sparsity.target.share` is 0.8, but gates of the kinds \['int'\] reach 0\.\d+ at most .*"
        r"\(from 0.0000\)",
    ):
        recipe.train(tmp_path / "run", "-o", "self_pinching.kinds=[int]")
    base = families.wavlm_base()
    for kinds, most in ((["int"], 2 / 3), (["head"], 1 / 3), (["head", "int"], 1.0), (["ffn_weights"], 2 / 3)):
        config = from_dict(ModelConfig, {"self_pinching": {"kinds": kinds}}, "x").self_pinching
        assert reachable_sparsity(base, config) == pytest.approx(most)


def test_the_recipes_have_the_papers_numbers():
    for name, rate in (("self_pinching_s80", 1e-4), ("self_pinching_embedded", 0.01)):
        model = from_dict(ModelConfig, load_recipe(RECIPES / name / MODEL_FILE, MODEL_FILE), name)
        runner = from_dict(RunnerConfig, load_recipe(RECIPES / name / RUNNER_FILE, RUNNER_FILE), name)
        assert model.sparsity.goal == 0.8 and runner.optimizer.gate_lr == rate
        pinching = model.self_pinching
        assert (pinching.initial_temperature, pinching.final_temperature) == (0.5, 0.01) and pinching.kinds == (
            "head",
            "int",
        )
