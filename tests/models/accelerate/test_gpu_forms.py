"""What a GPU uses instead of the reference: forms of the positional convolution, blocks of queries, one kernel."""

import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.models.accelerate import accelerate, of_teacher, positions
from s3prl_pruned.models.accelerate.attention import attend_in_blocks
from s3prl_pruned.models.accelerate.fused_attention import attend_fused
from s3prl_pruned.models.accelerate.paths import Derived, Path
from s3prl_pruned.models.accelerate.positions import FORMS, convolve
from s3prl_pruned.models.components import WeightNormConv1d, toeplitz, weight_norm
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families

SHAPES = tiny_families()


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 20),
    block=st.sampled_from([8, 24, 1024]),
    frames=st.integers(1, 50),
    groups=st.sampled_from([1, 2, 4]),
    form=st.sampled_from(FORMS),
)
def test_every_form_has_the_values_and_gradients_of_conv1d(kernel, block, frames, groups, form):
    conv = WeightNormConv1d(8, kernel, groups=groups).double()
    torch.nn.init.normal_(conv.bias)
    path = Path(max_frames=None, positions=form, block=block, cnn_frames=0)
    x = torch.randn(3, frames, 8, dtype=torch.float64, requires_grad=True)
    weights = [x, *conv.parameters()]
    expected = conv(x.transpose(1, 2))[..., :frames].transpose(1, 2)
    found = convolve(conv, x, Derived(), path)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, weights, direction), torch.autograd.grad(expected, weights, direction), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_weight_norm_is_torchs():
    direction = torch.randn(8, 4, 6, dtype=torch.float64, requires_grad=True)
    magnitude = torch.rand(1, 1, 6, dtype=torch.float64, requires_grad=True)
    found, expected = weight_norm(direction, magnitude), torch._weight_norm(direction, magnitude, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    along = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, [direction, magnitude], along),
        torch.autograd.grad(expected, [direction, magnitude], along),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", ["wavlm_base", "data2vec_base"])
def test_training_takes_the_form_that_is_said_for_its_device(shape, form, monkeypatch):
    encoder = random_encoder(SHAPES[shape], seed=0).double().train()
    wavs = torch.randn(2, 2000).double()
    expected = encoder(wavs).hidden_states[-1]
    monkeypatch.setattr(positions, "TRAINING", {"cpu": Path(max_frames=None, positions=form, cnn_frames=0)})
    seen = []
    monkeypatch.setattr(positions, "convolve", lambda *args: seen.append(args[3].positions) or convolve(*args))
    found = accelerate(encoder)(wavs).hidden_states[-1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert set(seen) == {form}


def test_a_teacher_uses_only_the_training_path(monkeypatch):
    teacher = of_teacher(random_encoder(SHAPES["wavlm_base"], seed=0))
    seen = []
    monkeypatch.setattr(positions, "convolve", lambda *args: seen.append(args[3].positions) or convolve(*args))
    with torch.no_grad():
        teacher(torch.randn(1, 2000))
        assert not seen  # a CPU trains on the reference
        monkeypatch.setattr(positions, "TRAINING", {"cpu": Path(max_frames=None, positions="unfold", cnn_frames=0)})
        teacher(torch.randn(1, 2000))
    assert seen == ["unfold"]


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_comes_out_as_it_went_in(form):
    conv = WeightNormConv1d(8, 6, groups=2)
    x = torch.randn(2, 30, 8)
    path = Path(max_frames=None, positions=form, cnn_frames=0)
    expected = conv(x.transpose(1, 2))[..., :30].transpose(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(conv, x, Derived(), path)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)  # 8 bits


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 40),
    scores=st.sampled_from([1, 100, 2**28]),
    biased=st.booleans(),
    gated=st.booleans(),
    padded=st.booleans(),
)
def test_blocks_of_queries_are_the_whole_attention(frames, scores, biased, gated, padded):
    query, key = torch.randn(2, 2, 3, frames, 5, dtype=torch.float64)
    value = torch.randn(2, 3, frames, 4, dtype=torch.float64)
    bias = torch.randn(3, 2 * frames - 1, dtype=torch.float64) if biased else None
    gates = torch.rand(2, 3, frames, 1, dtype=torch.float64) if biased and gated else None
    padding = torch.arange(frames) >= torch.tensor([[frames], [max(1, frames // 2)]]) if padded else None
    found = attend_in_blocks(
        query, key, value, scale=0.3, bias=bias, gates=gates, padding=padding, scores_at_a_time=scores
    )
    expected = query @ key.transpose(-1, -2) * 0.3
    if bias is not None:
        at = torch.arange(frames) - torch.arange(frames)[:, None] + frames - 1
        expected = expected + (bias[:, at] if gates is None else gates * bias[:, at])
    if padding is not None:
        expected = expected.masked_fill(padding[:, None, None, :], float("-inf"))
    torch.testing.assert_close(found, expected.softmax(-1) @ value, rtol=0, atol=1e-12)


def random_attention(seed):
    """An attention of ragged heads, states, padding and bias by distance."""
    config = SHAPES["wavlm_base"]
    encoder = random_encoder(config, seed=seed, spec=random_spec(config, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    layers = [layer.attention for layer in encoder.layers if layer.attention and layer.attention.vo_heads.sizes]
    x = torch.randn(2, 70, config.embed_dim, generator=generator)
    padding = torch.arange(70) >= torch.tensor([[70], [33]])
    return layers, x, padding, encoder.relative_position.by_distance(70).detach()


def check_the_kernel(device, dtype, limit):
    """`attend_fused` against the reference in float64, with and without bias and padding."""
    compared = 0
    for seed in range(4):
        layers, x, padding, bias = random_attention(seed)
        for attention, hidden, by_distance in product(layers, (None, padding), (None, bias)):
            exact, states = copy.deepcopy(attention).double(), x.double()
            full = None if by_distance is None else toeplitz(by_distance.double())
            moved = copy.deepcopy(attention).to(device, dtype)
            with torch.no_grad():
                projected = [exact.q_proj(states), exact.k_proj(states), exact.v_proj(states)]
                expected = exact.context(*projected, states, full, hidden)
                found = attend_fused(
                    *(each.to(device, dtype) for each in projected),
                    layout=moved.layout(),
                    widths=(moved.qk_heads.width, moved.vo_heads.width),
                    scale=moved.scale,
                    bias=None if by_distance is None else by_distance.to(device, dtype),
                    gate=moved.gate,
                    x=x.to(device, dtype),
                    padding=None if hidden is None else hidden.to(device),
                )
            real = (~padding)[..., None] if hidden is not None else torch.ones(2, 70, 1, dtype=torch.bool)
            off = ((found.cpu().double() - expected) * real).abs().max() / expected.abs().max()
            assert off < limit, (seed, by_distance is not None, hidden is not None, float(off))
            compared += 1
    assert compared > 20


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton, which torch's builds for CUDA bring")
def test_the_kernel_is_the_attention_in_tritons_interpreter():
    code = "from tests.models.accelerate.test_gpu_forms import *; check_the_kernel('cpu', torch.float32, 1e-5)"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.005)])
def test_the_kernel_is_the_attention(dtype, limit):
    check_the_kernel("cuda", dtype, limit)


@pytest.mark.cuda
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_encoders_on_a_gpu_are_those_on_the_cpu(shape, fused, monkeypatch):
    config = SHAPES[shape]
    encoder = random_encoder(config, seed=2, spec=random_spec(config, seed=2))
    exact, fast = copy.deepcopy(encoder).double(), accelerate(encoder).cuda()
    wavs, lengths = torch.randn(2, 3000), torch.tensor([3000, 1700])
    monkeypatch.setattr("s3prl_pruned.models.accelerate.attention.SCORES_AT_A_TIME", 500)
    monkeypatch.setattr("s3prl_pruned.models.accelerate.cnn.SAMPLES_AT_A_TIME", 1000)  # the CNN in stretches
    if not fused:
        monkeypatch.setattr("s3prl_pruned.models.accelerate.attention.fused_fits", lambda *args: False)
    with torch.no_grad():
        expected = exact(wavs.double(), lengths).hidden_states
        found = fast(wavs.cuda(), lengths.cuda()).hidden_states
    worst = max(float((a.cpu() - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
    assert worst < 1e-4


@pytest.mark.cuda
def test_training_on_a_gpu_has_the_gradients_of_the_cpu():
    encoder = accelerate(random_encoder(SHAPES["wavlm_base"], seed=2)).train()
    exact = copy.deepcopy(encoder).double()
    encoder.cuda()
    wavs = torch.randn(2, 3000)
    exact(wavs.double()).hidden_states[-1].square().mean().backward()
    encoder(wavs.cuda()).hidden_states[-1].square().mean().backward()
    for (name, one), other in zip(encoder.named_parameters(), exact.parameters(), strict=True):
        if other.grad is not None and other.grad.norm() > 1e-9:
            off = (one.grad.cpu().double() - other.grad).norm() / other.grad.norm()
            assert off < 1e-3, (name, float(off))
