"""Few activations are stored for the backward pass; recomputing them changes no values and no gradients."""

import dataclasses
import weakref

import pytest
import torch
from torch import Tensor

from s3prl_pruned.models import attention, cnn, components, linear
from s3prl_pruned.models.accelerate import attention as fast_attention
from s3prl_pruned.models.attention import gated_bias, with_bias_made_again
from s3prl_pruned.models.dummies import random_encoder, tiny_base, tiny_families
from s3prl_pruned.models.linear import LowRankLinear, masked_linear
from s3prl_pruned.models.masks import Masks, SlotTable
from s3prl_pruned.models.spec import CompactSpec, Ranks

KINDS = ("mha", "qk", "vo", "ffn", "int", "conv")
RANKS = Ranks(q_proj=3, k_proj=5, v_proj=2, out_proj=7, fc1=4, fc2=6)


def on_activations(projection, x, *, inputs=None, outputs=None):
    """Wang et al. 2023, eq. 3, as it is written."""
    x = x if inputs is None else x * inputs
    return projection(x) if outputs is None else projection(x) * outputs


@pytest.fixture
def reference(monkeypatch):
    """Call it, and masks are multiplied onto activations, and everything is kept."""

    def begin():
        for module in (components, cnn, attention, fast_attention):
            monkeypatch.setattr(module, "masked_linear", on_activations)
        monkeypatch.setattr(cnn, "made_again", lambda function, *inputs: function(*inputs))
        monkeypatch.setattr(attention, "with_bias_made_again", lambda make, attend: attend(make()))
        monkeypatch.setattr(
            attention,
            "gated_bias",
            lambda gates, bias, padding, dtype: (
                gates * bias if padding is None else (gates * bias).masked_fill(padding[:, None, None], -torch.inf)
            ),
        )

    return begin


def gradients(encoder, masks, wavs: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
    """Of every weight and of every mask, and the states."""
    encoder.zero_grad()
    leaves = {slot: z.clone().requires_grad_() for slot, z in masks.items()}
    encoder.set_masks(leaves)
    states = encoder(wavs, lengths).hidden_states
    precise = [state.to(torch.promote_types(state.dtype, torch.float32)) for state in states]
    sum(state.square().mean() for state in precise).backward()
    encoder.set_masks(None)
    found = {f"state {i}": state.detach() for i, state in enumerate(states)}
    found |= {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    return found | {f"{slot}": z.grad for slot, z in leaves.items()}


def error(found: dict[str, Tensor], exact: dict[str, Tensor], names=None) -> float:
    """Of all together, relative."""
    names = exact.keys() if names is None else names
    assert found.keys() == exact.keys()
    off = sum(float((found[name].double() - exact[name].double()).square().sum()) for name in names)
    return (off / sum(float(exact[name].double().square().sum()) for name in names)) ** 0.5


def masked_encoder(config=None, seed=3, kinds=KINDS, ranks=None):
    config = config or tiny_base()
    spec = CompactSpec.dense(config)
    layers = tuple(dataclasses.replace(layer, ranks=ranks or Ranks()) for layer in spec.layers)
    spec = dataclasses.replace(spec, layers=layers)
    encoder = random_encoder(config, seed=seed, spec=spec).train()
    generator = torch.Generator().manual_seed(seed)
    sizes = SlotTable.of(spec, kinds, config).sizes
    masks = Masks.of({slot: torch.rand(n, generator=generator).clamp(min=0.3) - 0.3 for slot, n in sizes.items()})
    wavs = torch.randn(3, 2_000, generator=torch.Generator().manual_seed(seed))
    return encoder, masks, wavs


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("name", tiny_families())
def test_values_and_gradients_are_those_of_masks_on_activations_with_everything_kept(name, factored, reference):
    encoder, masks, wavs = masked_encoder(tiny_families()[name], ranks=RANKS if factored else None)
    encoder, masks, wavs = encoder.double(), masks.to(torch.float64), wavs.double()
    lengths = torch.tensor([2_000, 1_600, 1_999])
    frames = encoder(wavs).hidden_states[0][..., 0].numel()
    assert frames >= max(encoder.config.embed_dim, encoder.config.ffn_dim), "masks are on the weights"
    found = gradients(encoder, masks, wavs, lengths)
    reference()
    exact = gradients(encoder, masks, wavs, lengths)
    assert all(error(found, exact, [name]) < 1e-9 for name in exact if exact[name].norm() > 1e-9)


def test_in_fp32_they_agree_within_rounding(reference):
    encoder, masks, wavs = masked_encoder()
    found = gradients(encoder, masks, wavs)
    reference()
    assert error(found, gradients(encoder, masks, wavs)) < 1e-5


def test_masks_gradients_are_not_less_exact_in_half_precision(reference):
    """Against float64; with activations in fp32 under fp32 masks, as `reference` has them.

    Groups are of 16 channels: of 12, torch 2.13's convolution in bf16 is wrong by its whole size on CPUs with AMX.
    """
    encoder, masks, wavs = masked_encoder(tiny_base(embed_dim=48, ffn_dim=96, pos_conv_groups=3), kinds=KINDS[:-1])
    names = [f"{slot}" for slot in masks]
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(encoder, masks, wavs)
    assert all(found[name].dtype == torch.float32 for name in names)
    reference()
    with torch.autocast("cpu", torch.bfloat16):
        before = gradients(encoder, masks, wavs)
    exact = gradients(encoder.double(), masks.to(torch.float64), wavs.double())
    assert 1e-3 < error(before, exact, names) < 0.1, "bf16 was at work"
    assert error(found, exact, names) < 1.5 * error(before, exact, names)


@pytest.mark.parametrize("ranks", [None, 5])
def test_masks_of_a_linear_map_keep_nothing_of_the_size_of_its_activations(ranks):
    projection = linear.linear(6, 9, rank=ranks)
    assert isinstance(projection, LowRankLinear) == (ranks is not None)
    x, kept = torch.randn(50, 6, requires_grad=True), []
    inputs, outputs = torch.rand(6, requires_grad=True), torch.rand(9, requires_grad=True)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = masked_linear(projection, x, inputs=inputs, outputs=outputs)
    torch.testing.assert_close(y, projection(x * inputs) * outputs)
    own = {x.untyped_storage().data_ptr()} | {p.untyped_storage().data_ptr() for p in projection.parameters()}
    large = [t for t in kept if t.numel() >= 50 * 6 and t.untyped_storage().data_ptr() not in own]
    assert not large, [t.shape for t in large]


def test_maps_with_hooks_are_called_and_few_frames_are_masked_themselves():
    inputs = torch.rand(6)
    projection = torch.nn.Linear(6, 9)
    calls = []
    projection.register_forward_hook(lambda *_: calls.append(1))
    for rows in (50, 3):
        torch.testing.assert_close(
            masked_linear(projection, (x := torch.randn(rows, 6)), inputs=inputs), projection(x * inputs)
        )
    assert len(calls) == 4
    half = masked_linear(torch.nn.Linear(6, 9).half(), torch.randn(3, 6).half(), inputs=inputs)
    assert half.dtype == torch.float16, "under fp32 masks"


@pytest.mark.parametrize("elements", [1, 200, 2**24])
def test_the_gated_bias_is_a_product_whose_gradients_are_summed_in_parts(elements, monkeypatch):
    monkeypatch.setattr(attention._GatedBias, "ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    gates = torch.rand(5, 2, 7, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 7, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    padding = torch.arange(7) >= torch.tensor([[7], [6], [7], [1], [3]])
    weights = torch.randn(5, 2, 7, 7, generator=generator, dtype=torch.float64)

    def of(product: Tensor) -> list[Tensor]:
        shares = product.softmax(-1)
        return [product.detach(), *torch.autograd.grad((shares * weights).sum(), (gates, bias))]

    expected = of((gates * bias).masked_fill(padding[:, None, None], -torch.inf))
    for found, exact in zip(of(gated_bias(gates, bias, padding, torch.float64)), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_its_half_precision_product_is_rounded_once_and_its_gradients_are_fp32():
    gates, bias = torch.rand(2, 3, 5, 1, requires_grad=True), torch.randn(3, 5, 5, requires_grad=True)
    product = gated_bias(gates, bias, None, torch.float16)
    assert torch.equal(product, (gates * bias).half())
    upstream = torch.randn(2, 3, 5, 5).half()
    found = torch.autograd.grad(product, (gates, bias), upstream)
    expected = torch.autograd.grad(gates * bias, (gates, bias), upstream.float())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_bias_made_again_is_not_kept_and_gives_the_same_gradients():
    x, table = torch.randn(4, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    made: list[weakref.ref] = []

    def make() -> Tensor:
        bias = table.exp() * torch.ones(4, 1)
        made.append(weakref.ref(bias))
        return bias

    def attend(bias: Tensor) -> Tensor:
        return (x * bias.expand(3, 4, 4)).sin().sum()  # the product keeps it for x's gradient, as a view

    expected = torch.autograd.grad(attend(make()), (x, table))
    made.clear()
    y = with_bias_made_again(make, attend)
    assert [bias() for bias in made] == [None], "kept"
    for found, exact in zip(torch.autograd.grad(y, (x, table)), expected, strict=True):
        torch.testing.assert_close(found, exact)
    assert len(made) == 2


@pytest.mark.parametrize("kinds", [("qk",), KINDS])
@pytest.mark.parametrize("name", ["wavlm_base", "wavlm_large"])
def test_a_cnn_in_parts_that_keeps_its_input_alone_has_the_same_gradients(name, kinds, reference, monkeypatch):
    encoder, masks, wavs = masked_encoder(tiny_families()[name], kinds=kinds)
    encoder, masks, wavs = encoder.double(), masks.to(torch.float64), wavs.double()
    calls = []
    real = cnn.made_again
    monkeypatch.setattr(cnn, "made_again", lambda *args: calls.append(args[1].shape[0]) or real(*args))
    monkeypatch.setattr(cnn, "SAMPLES_AT_A_TIME", 4_100)
    encoder.feature_extractor.keeps_activations = False
    found = gradients(encoder, masks, wavs)
    assert {2, 1} <= set(calls), "two utterances, then one"
    encoder.feature_extractor.keeps_activations = True
    reference()
    assert error(found, gradients(encoder, masks, wavs)) < 1e-10


def test_the_cnn_keeps_one_tensor_of_its_first_layers_size():
    encoder, _, wavs = masked_encoder()
    extractor, first, sizes = encoder.feature_extractor, 3 * 8 * 399, []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        extractor(wavs)
    assert sizes.count(first) == 1, "what the second convolution reads"
