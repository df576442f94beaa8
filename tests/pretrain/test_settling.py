"""In the last steps of a run, masks are those of the export, gates are fixed, and weights are still trained."""

import shutil

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.pretrain.logging import read_log
from tests.pretrain.test_interruption import trajectory

OPTIONS = ("-o", "runner.total_steps=5,,sparsity.settle_fraction=0.6,,sparsity.target.share=0.4")


@pytest.fixture(scope="module")
def finished(recipe):
    return recipe.train(recipe.root / "settled", *OPTIONS)


def state(folder, step):
    return checkpoint.load_checkpoint(folder / f"states-{step}.ckpt")


def test_gates_and_multipliers_are_fixed_and_weights_are_trained(finished):
    before, drawn, *settling = (state(finished, step) for step in (1, 2, 3, 4, 5))
    for part in ("Gates", "Lagrangian"):
        assert any(not torch.equal(before[part][name], value) for name, value in drawn[part].items())
        for later in settling:
            assert all(torch.equal(later[part][name], value) for name, value in drawn[part].items())
    last, *earlier = (later["Student"]["layers.0.feed_forward.fc1.weight"] for later in reversed(settling))
    assert all(not torch.equal(last, weight) for weight in earlier)


def test_the_masks_are_those_of_the_export(finished):
    log = read_log(finished)
    means = [line["mask_means"] for line in log]
    assert means[2] == means[3] == means[4] and means[1] != means[2]
    encoder, card = load_encoder(finished / "export")
    kept = [len(layer.ffn) / encoder.config.ffn_dim for layer in encoder.spec.layers]
    assert card["sparsity"]["realised"] == log[-1]["export_sparsity"] == log[2]["export_sparsity"]
    assert [round(share, 6) for share in kept] != [1.0] * 3


def test_a_run_resumes_within_this_phase_bit_for_bit(recipe, finished, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "log.jsonl", "states-4.ckpt"):
        shutil.copy(finished / name, run)
    recipe.train(run, *OPTIONS, "-a")
    assert trajectory(run) == trajectory(finished)
    assert model_hash(run / "export") == model_hash(finished / "export")


def test_without_this_phase_masks_are_drawn_to_the_end(recipe, tmp_path):
    options = OPTIONS[1].replace("settle_fraction=0.6", "settle_fraction=0.0")
    means = [line["mask_means"] for line in read_log(recipe.train(tmp_path / "drawn", "-o", options))]
    assert means[2] != means[3] != means[4]
