"""A run may keep a moving average of its weights: it follows its formula, is judged, exported, and resumes exactly."""

import itertools
import shutil

import pytest
import torch
from torch import nn

from s3prl_pruned import checkpoint
from s3prl_pruned.compressors.magnitude import load_plain_state, plain_state, prune_weights
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.export.masks import export_compact, zero_weights
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.models.dummies import random_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.pretrain.average import WeightAverage
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.finish import masked_student
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.objectives import head_files
from tests.pretrain.test_faults import poison
from tests.pretrain.test_interruption import trajectory
from tests.tiny_asr import Asr
from tests.tiny_run import tiny_wavlm

DECAY = 0.4
OPTIONS = f"runner.ema_decay={DECAY},,runner.total_steps=4,,optimizer.lr=0.01,,sparsity.target.share=0.5"
OTHERS = {
    "pinched units": ",,self_pinching.kinds=[head,int],,optimizer.gate_lr=0.25",
    "pinched weights": ",,self_pinching.kinds=[attention_weights,ffn_weights],,optimizer.gate_lr=0.15",
    "magnitude": ",,compress.techniques=[magnitude],,compress.rounds=2,,sparsity.tolerance=0.03",
}


def share(step):
    """What a step's weights count, by the formula: at most 1 - decay, more at the beginning."""
    return 1 - min(DECAY, (1 + step) / (10 + step))


def state(folder, step):
    return checkpoint.load_checkpoint(folder / f"states-{step}.ckpt")


@pytest.fixture(scope="module")
def averaged(recipe):
    return recipe.train(recipe.root / "averaged", "-o", OPTIONS)


def test_it_is_the_formulas(averaged):
    """In float64, from the weights in every checkpoint; fp32 rounds each of the four steps once or twice."""
    states, moved = [state(averaged, step) for step in (1, 2, 3, 4)], 0
    started = {"Student": random_encoder(tiny_wavlm(), seed=0).state_dict()}
    first = states[0]["Average"]["Distillation"]["projection.weight"].double()
    of_first = states[0]["Distillation"]["projection.weight"].double()
    started["Distillation"] = {"projection.weight": (first - share(1) * of_first) / (1 - share(1))}
    for part, weights in started.items():
        for name, weight in weights.items():
            expected = weight.double()
            for step, each in enumerate(states, start=1):
                expected = expected + share(step) * (each[part][name].double() - expected)
            found = states[-1]["Average"][part][name].double()
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, msg=name)
            moved += not torch.allclose(states[-1][part][name].double(), expected, rtol=1e-4, atol=1e-5)
    assert moved > 50, "the weights themselves would not do"


def test_it_changes_nothing_of_the_training(recipe, averaged, tmp_path):
    without = recipe.train(tmp_path / "without", "-o", OPTIONS.partition(",,")[2])
    for ours, theirs in zip(trajectory(averaged), trajectory(without), strict=True):
        assert ours == theirs
    ours, theirs = state(averaged, 4), state(without, 4)
    for part in ("Student", "Gates"):
        assert all(torch.equal(ours[part][name], value) for name, value in theirs[part].items())
    assert "Average" not in theirs and "ema_decay" not in theirs["Config"]["runner"]
    assert model_hash(averaged / "export") != model_hash(without / "export")


def test_the_export_is_the_average_under_the_masks_of_the_gates(averaged, tmp_path):
    last = state(averaged, 4)
    shape = from_dict(EncoderConfig, last["Encoder_Config"], "")
    student = SpeechEncoder(shape).eval()
    student.load_state_dict(last["Average"]["Student"])
    _, final, _ = masked_student(averaged / "states-4.ckpt")
    expected = export_compact(student, final.masks, final.spec).state_dict()
    found, card = load_encoder(averaged / "export")
    assert all(torch.equal(found.state_dict()[name], value) for name, value in expected.items())
    del last["Average"]
    checkpoint.save_checkpoint(tmp_path / "states-4.ckpt", last)
    _, same, _ = masked_student(tmp_path / "states-4.ckpt")
    assert same.spec == final.spec and all(torch.equal(z, final.masks[slot]) for slot, z in same.masks.items())
    assert "0.4" in card["weights"] and "weights" not in masked_student(tmp_path / "states-4.ckpt")[2]


@pytest.mark.parametrize("technique", OTHERS)
def test_other_methods_export_it_under_the_masks_of_the_weights_that_were_trained(recipe, tmp_path, technique):
    run = recipe.train(tmp_path / "run", "-o", OPTIONS + OTHERS[technique])
    last = state(run, 4)
    _, final, _ = masked_student(run / "states-4.ckpt")
    student = SpeechEncoder(from_dict(EncoderConfig, last["Encoder_Config"], "")).eval()
    student.load_state_dict(last["Average"]["Student"])
    zero_weights(student, final.matrices)
    found = load_encoder(run / "export")[0].state_dict()
    for name, value in export_compact(student, final.masks, final.spec).state_dict().items():
        assert torch.equal(found[name], value), name
    assert read_log(run)[-1]["export_parameters"] == sum(value.numel() for value in found.values())
    if technique == "magnitude":
        for path, mask in last["Weight_Masks"].items():
            live, average = (of[f"{path}.weight"] for of in (last["Student"], last["Average"]["Student"]))
            assert not average[~mask].any() and not torch.equal(live, average)


@pytest.mark.parametrize("more", ["", *OTHERS.values()], ids=["hard concrete", *OTHERS])
def test_a_run_goes_on_bit_for_bit(recipe, tmp_path, more):
    options = ("-o", OPTIONS + more)
    whole = recipe.train(tmp_path / "whole", *options)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "log.jsonl", "states-2.ckpt"):
        shutil.copy(whole / name, run)
    recipe.train(run, *options, "-a")
    assert trajectory(run) == trajectory(whole)
    assert model_hash(run / "export") == model_hash(whole / "export")
    ours, theirs = (state(folder, 4)["Average"] for folder in (run, whole))
    for part in theirs:
        assert all(torch.equal(ours[part][name], value) for name, value in theirs[part].items())


def test_a_recogniser_is_exported_with_the_average_of_its_head(recipe, tmp_path):
    asr = Asr(tmp_path, recipe.teacher)
    run = asr.train(tmp_path / "run", "-o", f"runner.ema_decay={DECAY},,runner.total_steps=2,,runner.save_step=1")
    last = state(run, 2)
    assert not torch.equal(last["Head"]["projection.weight"], last["Average"]["Head"]["projection.weight"])
    first = state(run, 1)["Average"]["Head"]["projection.weight"].double()
    expected = first + share(2) * (last["Head"]["projection.weight"].double() - first)
    torch.testing.assert_close(last["Average"]["Head"]["projection.weight"].double(), expected, rtol=1e-6, atol=1e-7)
    (run / "states-2.ckpt").replace(run / "with.ckpt")
    with_average = head_files(run / "with.ckpt")
    checkpoint.save_checkpoint(run / "states-2.ckpt", {**last, **last["Average"]})
    assert with_average == head_files(run / "states-2.ckpt")


def test_a_step_that_changes_nothing_leaves_it():
    weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    average = WeightAverage([weight], 0.999)
    weight.data += 1
    average.update(1, unless=torch.ones(()))
    with average.in_place():
        assert weight.tolist() == [1.0, 2.0]
    average.update(1, unless=torch.zeros(()))
    with average.in_place():
        assert weight.tolist() == pytest.approx([1 + 9 / 11, 2 + 9 / 11], abs=1e-7)
    assert weight.tolist() == [2.0, 3.0]
    assert [average.decay_at(step) for step in (1, 10**4, 10**9)] == [2 / 11, 0.999, 0.999]
    assert all(a < b for a, b in itertools.pairwise(average.decay_at(step) for step in range(1, 100)))


def test_a_bad_step_leaves_it(recipe, tmp_path, monkeypatch):
    poison(monkeypatch, steps={3})
    run = recipe.train(tmp_path / "run", "-o", OPTIONS)
    before, after = (state(run, step)["Average"]["Student"] for step in (2, 3))
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(not torch.equal(state(run, 4)["Average"]["Student"][name], value) for name, value in after.items())


def test_pruned_weights_go_into_a_state_and_back():
    encoder, other = (random_encoder(tiny_wavlm(), seed=seed) for seed in (0, 1))
    for each in (encoder, other):
        prune_weights(each, 2000)
    wanted = {name: value.clone() for name, value in plain_state(encoder).items()}
    load_plain_state(other, wanted)
    linear, twin = (each.layers[0].feed_forward.fc1 for each in (encoder, other))
    assert torch.equal(twin.weight_orig, wanted["layers.0.feed_forward.fc1.weight"])
    assert torch.equal(twin.weight, twin.weight_orig * twin.weight_mask) and linear.weight.any()


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 2])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(UserError, match="`ema_decay` must be between 0 and 1, or null, but is"):
        from_dict(RunnerConfig, {"runner": {"ema_decay": decay}}, "recipe")


def test_records_of_runs_without_it_are_what_they_were():
    assert "ema_decay" not in to_dict(RunnerConfig())["runner"]
    assert to_dict(from_dict(RunnerConfig, {"runner": {"ema_decay": 0.999}}, ""))["runner"]["ema_decay"] == 0.999
