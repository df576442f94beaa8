"""Skipping closed units in training changes no values and no gradients."""

import dataclasses
from collections import Counter
from functools import partial

import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s3prl_pruned.models import linear
from s3prl_pruned.models.accelerate import accelerate, closed_units
from s3prl_pruned.models.accelerate.closed_units import Split, gated
from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.dummies import random_encoder, random_masks, tiny_base, tiny_families
from s3prl_pruned.models.spec import CompactSpec, Ranks

RANKS = Ranks(q_proj=3, k_proj=5, v_proj=2, out_proj=7, fc1=4, fc2=6)


def gradients(encoder, masks, wavs: Tensor) -> dict[str, Tensor]:
    """Of every weight that has one and of every mask (`MaskDraw.gradient`: 0 where none came), and the last state."""
    encoder.zero_grad()
    leaves = {slot: z.clone().requires_grad_() for slot, z in masks.items()}
    encoder.set_masks(leaves)
    last = encoder(wavs).hidden_states[-1]
    last.square().sum().backward()
    encoder.set_masks(None)
    found = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    for (i, name), z in leaves.items():
        found[f"{i}.{name}"] = torch.zeros_like(z) if z.grad is None else z.grad
    return {"state": last.detach(), **found}


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference, of the largest value of its tensor. What has a gradient has one here, if only of zeros."""
    assert found.keys() >= expected.keys() and not any(found[k].any() for k in found.keys() - expected.keys())
    return max(
        float((found[k] - v).abs().max() / v.abs().max().clamp(min=1e-3)) for k, v in expected.items() if v.numel()
    )


def masked(seed: int, kinds=("mha", "qk", "vo", "ffn", "int"), ranks=None, config=None):
    """A ragged encoder in float64 with masks, of which some are closed, whole sublayers too."""
    config, ranks = config or tiny_base(), ranks or Ranks()
    spec = CompactSpec.dense(config)
    spec = surviving_spec(spec, random_masks(spec, seed=seed, kinds=("qk", "vo", "int")))
    spec = dataclasses.replace(spec, layers=tuple(dataclasses.replace(layer, ranks=ranks) for layer in spec.layers))
    encoder = accelerate(random_encoder(config, seed=seed, spec=spec))
    masks = random_masks(spec, seed=seed + 1, kinds=kinds).to(torch.float64)
    return encoder.double().train(), masks, torch.randn(2, 1500, dtype=torch.float64)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setitem(closed_units.SHARE_THAT_PAYS, "cpu", 1e-9)


def computing_everything(encoder, masks, wavs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_units, "SHARE_THAT_PAYS", {})
        return gradients(encoder, masks, wavs)


@given(
    seed=st.integers(0, 500),
    attention=st.sampled_from([("qk", "vo"), ("head",), ("head", "qk", "vo")]),
    factored=st.booleans(),
)
@settings(max_examples=40)
def test_gradients_are_those_of_masks_on_activations(seed, attention, factored):
    kinds = ("mha", *attention, "ffn", "int")
    encoder, masks, wavs = masked(seed, kinds, RANKS if factored else Ranks())
    expected = computing_everything(encoder, masks, wavs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(closed_units.SHARE_THAT_PAYS, "cpu", 1e-9)
        assert worst(gradients(encoder, masks, wavs), expected) < 1e-10


def half_closed(masks):
    """All sublayers alive, and the first half of every dimension closed."""
    for z in masks.values():
        z.fill_(0.7)[: len(z) // 2] = 0.0
    return masks


@pytest.mark.parametrize("name", tiny_families())
def test_gradients_are_the_same_in_every_family(name, always):
    encoder, masks, wavs = masked(4, config=tiny_families()[name])
    half_closed(masks)
    assert worst(gradients(encoder, masks, wavs), computing_everything(encoder, masks, wavs)) < 1e-10


def test_gradients_are_the_same_with_checkpointing_and_dropout(always):
    encoder, masks, wavs = masked(4, config=tiny_base(dropout=0.1, activation_dropout=0.1))
    half_closed(masks)
    masks[0, "z_mha"].zero_()
    torch.manual_seed(0)
    expected = gradients(encoder, masks, wavs)
    for layer in encoder.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    torch.manual_seed(0)
    assert worst(gradients(encoder, masks, wavs), expected) < 1e-10
    torch.manual_seed(1)
    assert worst(gradients(encoder, masks, wavs), expected) > 0.01, "dropout was at work"


def test_a_closed_unit_without_its_masks_gradient_would_be_noticed(monkeypatch, always):
    encoder, masks, wavs = masked(0)
    expected = computing_everything(encoder, masks, wavs)
    monkeypatch.setattr(closed_units._AddClosed, "apply", lambda y, *rest: y)
    assert worst(gradients(encoder, masks, wavs), expected) > 0.1


def test_closed_units_are_skipped_in_each_map(monkeypatch, always):
    calls = Counter()
    for function in (closed_units._OpenOutputs, closed_units._AddClosed, closed_units._ClosedSublayer):

        def counted(*args, name=function.__name__, apply=function.apply):
            calls[name] += 1
            return apply(*args)

        monkeypatch.setattr(function, "apply", counted)
    encoder, masks, wavs = masked(4)
    half_closed(masks)
    masks[0, "z_mha"].zero_(), masks[1, "z_ffn"].zero_()
    found = gradients(encoder, masks, wavs)
    attentions = sum(layer.attention is not None and bool(layer.attention.vo_heads.sizes) for layer in encoder.layers)
    assert attentions == len(encoder.layers) == 3
    # Queries, keys and values of three attentions and what follows them; of the closed ones without a graph.
    assert calls == {"_OpenOutputs": 3 * 2, "_AddClosed": 2 + 2, "_ClosedSublayer": 2}
    assert found["0.z_mha"].abs() > 0 and (found["2.z_int"][:7].abs() > 0).all()


def test_maps_with_hooks_are_called():
    """torch's pruning makes a map's weight anew in one."""
    z, fc1, fc2 = torch.zeros(9), torch.nn.Linear(4, 9), torch.nn.Linear(9, 4)
    assert Split.of(z, fc1, fc2) is not None
    hook = fc1.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert Split.of(z, fc1, fc2) is None
    hook.remove()
    assert Split.of(z, fc1, fc2) is not None
    torch.nn.utils.prune.random_unstructured(fc2, "weight", amount=0.5)
    assert Split.of(z, fc1, fc2) is None


def test_units_are_split_only_where_it_pays(monkeypatch):
    z = torch.ones(100)
    z[:40] = 0.0
    assert Split.of(None) is None and Split.of(z) is None and Split.of(torch.ones(0)) is None
    z[40] = 0.0
    split = Split.of(z)
    assert split.closed.tolist() == list(range(41)) and split.open.tolist() == list(range(41, 100))
    with torch.no_grad():
        assert Split.of(z) is None
    monkeypatch.setattr(closed_units, "SHARE_THAT_PAYS", {"cuda": 0.1})
    assert Split.of(z) is None


@pytest.mark.parametrize("mask, graph", [(0.0, False), (0.3, True), (None, True)])
def test_a_closed_sublayer_is_computed_without_a_graph(mask, graph):
    seen = []
    layer = torch.nn.Linear(3, 3)
    z = None if mask is None else torch.tensor([mask], requires_grad=True)
    x = torch.randn(2, 3, requires_grad=True)
    y = gated(layer, lambda x, _, z: seen.append(torch.is_grad_enabled()) or linear.masked(layer(x), z), z, x, None)
    torch.testing.assert_close(y, layer(x) * (1.0 if mask is None else mask))
    y.sum().backward()
    assert seen == [graph] and bool(layer.weight.grad.any()) == graph == bool(x.grad.any())
    if z is not None:
        assert float(z.grad) == pytest.approx(float(layer(x).detach().sum()), rel=1e-5)


def test_gradients_agree_in_bfloat16_too(always):
    encoder, masks, wavs = masked(4)
    encoder, wavs = encoder.float(), wavs.float()
    masks = half_closed(masks).to(torch.float32)
    exact = computing_everything(encoder, masks, wavs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, found = computing_everything(encoder, masks, wavs), gradients(encoder, masks, wavs)
    errors = [sum(float((of[k] - v).square().sum()) for k, v in exact.items()) ** 0.5 for of in (rounded, found)]
    whole = sum(float(v.square().sum()) for v in exact.values()) ** 0.5
    assert 1e-3 < errors[0] / whole < 0.1, "bf16 was at work"
    assert errors[1] < 2 * errors[0]
    assert all(grad.dtype == torch.float32 for name, grad in found.items() if name != "state")
