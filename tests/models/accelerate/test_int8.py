"""int8 linear maps against float64, and a whole small encoder against its fp32 self."""

import copy
import warnings

import pytest
import torch
from torch import nn

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import WEIGHTS, load_encoder, relative_difference, save_encoder
from s3prl_pruned.models.accelerate.int8 import Int8Convolution, Int8Linear, quantize_int8
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.models.families import wavlm_embedded
from s3prl_pruned.pretrain.conversion import convert
from s3prl_pruned.sparsity.counts import parameters
from s3prl_pruned.timing.shapes import conc
from s3prl_pruned.upstream.expert import UpstreamExpert

WHOLE_MODEL_ERROR = 0.06
"""Of `wavlm_embedded`'s shape with the random weights below, over all hidden states: 0.051 dense, 0.045 cut.

Trained weights differ.
"""
ANOTHER_STEP = 5e-3
"""Where fp32 rounds otherwise, as with weights at another place in memory, a value may take the next of 127 steps."""


def hand_quantised(linear, x):
    """The same rule in float64, row by row and output by output."""
    weight, y = linear.weight.double(), torch.empty(len(x), linear.out_features, dtype=torch.float64)
    for i, row in enumerate(x.double()):
        for j, column in enumerate(weight):
            a, b = row.abs().max() / 127, column.abs().max() / 127
            y[i, j] = ((row / a).round() * (column / b).round()).sum() * a * b + linear.bias[j]
    return y


@torch.no_grad()
def test_a_linear_map_follows_its_rule():
    torch.manual_seed(0)
    linear, x = nn.Linear(37, 21), torch.randn(9, 37)
    found = Int8Linear(linear.weight, linear.bias)(x)
    expected = hand_quantised(linear, x)
    assert (found - expected).abs().max() < 1e-5
    with torch.no_grad():
        linear.weight[3, 5] += 0.1
    assert (found - hand_quantised(linear, x)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("shape", [(249, 768, 156), (49, 64, 2), (1, 614, 768), (7, 24, 24)])
def test_a_linear_map_is_within_the_rounding_of_its_two_scales(shape):
    """Each factor is off by half a step: at most K * (|w| a + |x| b) / 2 in all, far less on the average."""
    rows, features, outputs = shape
    torch.manual_seed(0)
    linear, x = nn.Linear(features, outputs), torch.randn(2, rows, features)
    found, exact = Int8Linear(linear.weight, linear.bias)(x), linear(x)
    assert found.shape == exact.shape
    a = x.abs().amax(-1, keepdim=True) / 127
    b = linear.weight.abs().amax(-1) / 127
    bound = (linear.weight.abs().sum(-1) * a + x.abs().sum(-1, keepdim=True) * b + features * a * b / 2) / 2
    assert ((found - exact).abs() <= bound + 1e-5).all()
    assert (found - exact).norm() / exact.norm() < 0.02


def test_a_row_of_zeros_gives_the_bias():
    linear = nn.Linear(40, 30)
    assert torch.equal(Int8Linear(linear.weight, linear.bias)(torch.zeros(2, 40)), linear.bias.detach().expand(2, 30))


@torch.no_grad()
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (5, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_is_its_linear_map_over_windows(kernel, stride, bias):
    torch.manual_seed(0)
    conv, x = nn.Conv1d(32, 48, kernel, stride=stride, bias=bias), torch.randn(50, 32)
    exact = conv(x.T)[0:].T  # (windows, C_out)
    found = Int8Convolution(conv)(x)
    assert found.shape == exact.shape
    assert 0 < (found - exact).norm() / exact.norm() < 0.02
    x[20] *= 1000  # windows without the loud frame keep their own scale
    quiet = slice(0, (20 - kernel) // stride)
    assert (Int8Convolution(conv)(x)[quiet] - exact[quiet]).norm() / exact[quiet].norm() < 0.02


@torch.no_grad()
@pytest.mark.parametrize("structure", ["dense", "conc"])
def test_a_whole_encoder_stays_near_its_fp32_self(structure):
    config = wavlm_embedded()
    encoder = random_encoder(config, seed=0, spec=conc(config) if structure == "conc" else None)
    small = quantize_int8(encoder)
    wavs, lengths = (
        0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)),
        torch.tensor([16_000, 9_000]),
    )
    expected = encoder(wavs, lengths).hidden_states
    error = relative_difference(small(wavs, lengths).hidden_states, expected)
    assert 0 < error < WHOLE_MODEL_ERROR
    worse = copy.deepcopy(small)
    next(m for m in worse.modules() if isinstance(m, Int8Linear)).scale *= 1.5
    assert relative_difference(worse(wavs, lengths).hidden_states, expected) > WHOLE_MODEL_ERROR


@torch.no_grad()
def test_ragged_heads_channels_and_empty_sublayers_are_quantised_too():
    config = tiny_base(embed_dim=64, ffn_dim=96, conv_layers=((24, 10, 5), (40, 3, 2), (40, 2, 2)))
    for seed in range(4):
        spec = random_spec(config, seed=seed, channels=seed > 0, positions=seed > 1)
        encoder = random_encoder(config, seed=seed, spec=spec)
        wavs = torch.randn(1, 2000)
        found, expected = quantize_int8(encoder)(wavs).hidden_states, encoder(wavs).hidden_states
        assert all(torch.isfinite(state).all() for state in found)
        assert float((found[0] - expected[0]).norm() / expected[0].norm()) < WHOLE_MODEL_ERROR  # CNN and projection


def test_the_source_is_left_as_it_is_and_nothing_warns():
    encoder = random_encoder(tiny_base(embed_dim=64, ffn_dim=96), seed=0)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = quantize_int8(encoder)
    assert any(isinstance(m, Int8Linear) for m in small.modules())
    assert not any(isinstance(m, Int8Linear) for m in encoder.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_training_with_it_is_refused():
    small = quantize_int8(random_encoder(tiny_base(), seed=0))
    with pytest.raises(UserError, match="inference"):
        small(torch.randn(1, 2000))  # gradients are on


def test_an_encoder_that_cannot_be_quantised_is_refused():
    encoder = random_encoder(tiny_base(), seed=0)
    with pytest.raises(UserError, match="training mode"):
        quantize_int8(encoder.train())
    with pytest.raises(UserError, match="torch.bfloat16 on cpu"):
        quantize_int8(encoder.eval().bfloat16())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_audio_is_refused(dtype):
    small = quantize_int8(random_encoder(tiny_base(), seed=0))
    with pytest.raises(UserError, match="on fp32 audio"):
        small(torch.randn(1, 2000, dtype=dtype))


@torch.no_grad()
def test_a_folder_holds_it_in_fewer_bytes_and_gives_the_same_states(tmp_path):
    config = wavlm_embedded()
    small = quantize_int8(random_encoder(config, seed=0, spec=conc(config)))
    save_encoder(tmp_path / "int8", small, {})
    save_encoder(tmp_path / "fp32", random_encoder(config, seed=0, spec=conc(config)), {})
    with pytest.raises(UserError, match="is for inference only"):
        load_encoder(tmp_path / "int8")
    loaded, _ = load_encoder(tmp_path / "int8", for_inference=True)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in small.state_dict().items())
    wavs = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    expected = small(wavs).hidden_states
    assert relative_difference(loaded(wavs).hidden_states, expected) < ANOTHER_STEP
    next(m for m in loaded.modules() if isinstance(m, Int8Linear)).scale *= 1.5
    assert relative_difference(loaded(wavs).hidden_states, expected) > 5 * ANOTHER_STEP
    assert loaded.num_parameters() == sum(parameters(config, small.spec).values())
    # the positional convolution, a third of this small model, stays fp32
    assert (tmp_path / "int8" / WEIGHTS).stat().st_size < 0.6 * (tmp_path / "fp32" / WEIGHTS).stat().st_size


def test_the_command_quantises_says_the_error_and_refuses_other_formats(tmp_path):
    save_encoder(
        tmp_path / "fp32",
        random_encoder(tiny_base(embed_dim=64, ffn_dim=96), seed=0),
        {"teacher_note": "random teacher"},
    )
    about = convert(tmp_path / "fp32", tmp_path / "int8", "folder", int8=True)
    assert "int8: hidden states differ by" in about
    expert = UpstreamExpert(tmp_path / "int8")
    assert expert.teacher_note == "random teacher"
    with torch.no_grad():
        assert len(expert.eval()([torch.randn(2000)])["hidden_states"]) == 4
    with pytest.raises(UserError, match="this project's folder only"):
        convert(tmp_path / "int8", tmp_path / "int8.onnx", "onnx")
    with pytest.raises(UserError, match="int8 already"):
        convert(tmp_path / "int8", tmp_path / "again", "folder", int8=True)
    assert not (tmp_path / "int8.onnx").exists() and not (tmp_path / "again").exists()
