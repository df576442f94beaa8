"""Runs whose export has units in multiples, or whole heads: their results, also when resumed, and wrong settings."""

import shutil

import pytest

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.logging import read_log
from tests.pretrain.test_interruption import trajectory

COMMON = "runner.total_steps=5,,sparsity.settle_fraction=0.6,,sparsity.target.share=0.4,,sparsity.tolerance=0.02"
EVEN = ("-o", f"{COMMON},,gates.dims_multiple=2")


@pytest.fixture(scope="module")
def even(recipe):
    return recipe.train(recipe.root / "even", *EVEN)


def test_every_count_of_the_export_is_a_multiple_and_weights_were_trained_with_it(even):
    encoder, card = load_encoder(even / "export")
    layers, log = encoder.spec.layers, read_log(even)
    sizes = [len(dims) for layer in layers for head in layer.heads for dims in (head.qk, head.vo)]
    sizes += [len(layer.ffn) for layer in layers]
    assert not any(size % 2 for size in sizes) and any(size not in (0, 6, 20) for size in sizes)
    assert card["sparsity"]["realised"] == log[-1]["export_sparsity"] == log[2]["export_sparsity"]
    assert log[2]["mask_means"] == log[4]["mask_means"] != log[1]["mask_means"]
    assert card["sparsity"]["inert_share"] == 0
    assert card["method"].endswith(", units in multiples of 2")
    text = (even / "export" / "README.md").read_text()
    assert "units in multiples of 2" in text and "recipe.model.gates.dims_multiple: 2" in text


def test_until_the_masks_are_rounded_the_run_equals_one_without_multiples(recipe, even):
    """Multiples only affect the rounding and the last steps with fixed masks."""
    free = recipe.train(recipe.root / "free", "-o", COMMON)
    losses = [[line["distill"] for line in read_log(folder)] for folder in (even, free)]
    assert losses[0][:2] == losses[1][:2] and losses[0][2:] != losses[1][2:]
    assert "multiples" not in load_encoder(free / "export")[1]["method"]


def test_whole_heads(recipe):
    folder = recipe.train(recipe.root / "heads", "-o", f"{COMMON},,gates.dims_multiple=head,,optimizer.gate_lr=4")
    encoder, card = load_encoder(folder / "export")
    dims = tuple(range(encoder.config.head_dim))
    heads = [head for layer in encoder.spec.layers for head in layer.heads]
    assert 0 < len(heads) < 12 and all(head.qk == head.vo == dims for head in heads)
    assert card["method"].endswith(", whole heads") and "z_head" in read_log(folder)[-1]["mask_means"]


def test_a_resumed_run_ends_like_an_uninterrupted_one_and_refuses_other_multiples(recipe, even, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "log.jsonl", "states-4.ckpt"):
        shutil.copy(even / name, run)
    with pytest.raises(UserError, match="dims_multiple"):
        recipe.train(run, "-o", COMMON, "-a")
    recipe.train(run, *EVEN, "-a")
    assert trajectory(run) == trajectory(even)
    assert model_hash(run / "export") == model_hash(even / "export")


def test_a_self_pinched_ffn(recipe):
    options = "self_pinching.dims_multiple=2,,optimizer.gate_lr=0.25,,runner.total_steps=3"
    folder = recipe.train(recipe.root / "pinched-multiple", "-o", options)
    encoder, card = load_encoder(folder / "export")
    sizes = [len(layer.ffn) for layer in encoder.spec.layers]
    assert not any(size % 2 for size in sizes) and set(sizes) != {20}
    assert card["sparsity"]["realised"] == pytest.approx(read_log(folder)[-1]["realised_sparsity"], abs=1e-9)
    assert card["method"].endswith(", units in multiples of 2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gates.dims_multiple=8", "has query/key dimensions in groups of 6, of which no such multiple can stay"),
        ("gates.dims_multiple=4,,gates.kinds=[int]", "layer 0 has 6 query/key dimensions in a group, and no gate"),
        ("gates.dims_multiple=3", "gates.dims_multiple: must be one of 2, 4, 8, 16, 32, head, but is 3"),
        ("gates.dims_multiple=2,,self_pinching.kinds=[int]", "`self_pinching` is set. Leave it out. `self_pinching`"),
        ("gates.dims_multiple=head,,compress.techniques=[heads]", "`compress` is set. Leave it out."),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(recipe, tmp_path, change, message):
    with pytest.raises(UserError) as error:
        recipe.train(tmp_path / "run", "-o", change)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_gates_are_refused_in_a_second_stage():
    with pytest.raises(UserError, match="`gates` would have no effect"):
        from_dict(ModelConfig, {"student_export": "some/export", "gates": {"dims_multiple": 8}}, "here")
