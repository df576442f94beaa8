"""Runs that also prune CNN and positional convolution: training, resuming, export, and use as an s3prl upstream."""

import shutil

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.formats.registry import read
from s3prl_pruned.pretrain.finish import masked_student
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.report.figures import mask_averages
from s3prl_pruned.upstream.expert import UpstreamExpert
from tests.pretrain.test_interruption import trajectory

KINDS = ("-o", "gates.kinds=[mha,qk,vo,ffn,int,conv,pos],,gates.initial_by_kind.pos=-1,,runner.total_steps=4")
FROZEN = (KINDS[0], KINDS[1] + ",,student.feature_grad_mult=0")


@pytest.fixture(scope="module")
def finished(recipe):
    return recipe.train(recipe.root / "pruned_cnn", *KINDS)


def test_the_export_has_fewer_channels_and_meets_the_target_with_the_cnn_counted(finished):
    encoder, provenance = load_encoder(finished / "export")
    kept = [layer.conv.out_channels for layer in encoder.feature_extractor.layers]
    assert kept == [len(channels) for channels in encoder.spec.channels] and sum(kept) < sum(
        c for c, _, _ in encoder.config.conv_layers
    )
    groups = encoder.spec.position_groups
    conv = encoder.positional_convolution.conv
    assert len(groups) == (conv.groups if groups else 0) < encoder.config.pos_conv_groups
    assert provenance["sparsity"]["realised"] == pytest.approx(0.8, abs=0.01)
    card = (finished / "export" / "README.md").read_text()
    assert "Channels of the CNN's layers: " in card
    assert f"Groups of the positional convolution: {len(groups)} of {encoder.config.pos_conv_groups}." in card


def test_the_log_has_the_kept_shares_of_the_cnn_and_the_positional_convolution(finished):
    line = read_log(finished)[-1]
    student, final, _ = masked_student(finished / "states-4.ckpt")
    assert len(line["mask_means"]["z_conv"]) == len(line["remaining"]["channels"]) == len(student.config.conv_layers)
    assert all(0 < share <= 1 for share in line["remaining"]["channels"])
    assert len(line["mask_means"]["z_pos"]) == 1 and 0 <= line["remaining"]["position_groups"][0] <= 1
    assert student.positional_convolution.z_pos is final.masks[0, "z_pos"]
    assert student.feature_extractor.layers[0].z_conv is final.masks[0, "z_conv"]
    labels = [
        text.get_text() for text in mask_averages(read_log(finished), "log", None).axes[0].get_legend().get_texts()
    ]
    assert all(any(of in label for label in labels) for of in ("CNN channels", "groups of the positional convolution"))


def test_a_resumed_run_takes_the_same_steps(recipe, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    for step in (3, 4):
        (tmp_path / "run" / f"states-{step}.ckpt").unlink()
    recipe.train(tmp_path / "run", *KINDS, "-a")
    assert trajectory(tmp_path / "run") == trajectory(finished)
    assert model_hash(tmp_path / "run" / "export") == model_hash(finished / "export")


def test_the_upstream_returns_the_states_of_the_masked_student(finished, relative_differences):
    student, _, _ = masked_student(finished / "states-4.ckpt")
    wav = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = UpstreamExpert(finished / "export").eval()([wav])["hidden_states"]
        assert max(relative_differences(found, student(wav[None]).hidden_states)) <= 2e-5


def test_with_a_frozen_cnn_only_its_masks_are_learned(recipe, tmp_path):
    state = checkpoint.load_checkpoint(recipe.train(tmp_path / "run", *FROZEN) / "latest")
    teacher = read(recipe.teacher).encoder.feature_extractor.state_dict()
    assert all(torch.equal(state["Student"][f"feature_extractor.{name}"], value) for name, value in teacher.items())
    gates = {name: value for name, value in state["Gates"].items() if name.startswith("cnn.")}
    assert len(gates) == 7 and all((value != 4.605).any() for value in gates.values())
    assert (state["Gates"]["positional_convolution.log_alpha"] != -1).any()
