"""A layer exists if and only if a unit in it survives: one rule for all pruners, that of `surviving_spec`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.compressors.compressor import Compressor
from s3prl_pruned.compressors.config import CompressConfig
from s3prl_pruned.compressors.plan import Plan
from s3prl_pruned.gates.attach import GateConfig, GateSet, MaskDraw
from s3prl_pruned.gates.self_pinching import HIGHEST_THRESHOLD, SelfPinchingConfig, SelfPinchingGates
from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.models.masks import KINDS, Masks, SlotTable
from s3prl_pruned.models.spec import CompactSpec

CONFIG = tiny_base()
DENSE = CompactSpec.dense(CONFIG)
SPECS = [DENSE, *(random_spec(CONFIG, seed=seed, channels=seed > 2) for seed in range(6))]


def surviving(spec, masks):
    """Independent of the rule under test: what an export under these masks would hold."""
    left = surviving_spec(spec, masks, shape=CONFIG)
    return [bool(layer.heads or layer.ffn) for layer in left.layers]


@st.composite
def drawn(draw):
    """A structure and masks of some kinds; each slot is all closed, all open or mixed."""
    spec = draw(st.sampled_from(SPECS))
    kinds = draw(st.lists(st.sampled_from(KINDS), unique=True))
    sizes = SlotTable.of(spec, tuple(kinds), CONFIG).sizes
    closed = draw(st.lists(st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0]), min_size=len(sizes), max_size=len(sizes)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    parts = {}
    for (slot, size), share in zip(sizes.items(), closed, strict=True):
        opened = torch.rand(size, generator=generator) < share
        parts[slot] = torch.where(opened, 0.01 + torch.rand(size, generator=generator), 0.0)
    return spec, Masks.of(parts)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(drawn())
def test_a_layer_exists_if_and_only_if_the_export_holds_a_head_or_a_dimension_of_it(case):
    spec, masks = case
    assert MaskDraw(masks, spec).existing_layers() == surviving(spec, masks)


@pytest.mark.parametrize(
    "kinds", [GateConfig().kinds, ("mha", "head", "ffn", "int"), ("qk", "vo", "head", "int"), KINDS]
)
def test_hard_concrete_gates_follow_the_rule(kinds):
    found = set()
    for seed in range(20):
        gate_set = GateSet(SPECS[seed % len(SPECS)], GateConfig(kinds=kinds), CONFIG)
        with torch.no_grad():
            for part in gate_set.table.split(gate_set.log_alpha).values():
                part.fill_(4.6 if torch.rand((), generator=torch.Generator().manual_seed(seed)) < 0.4 else -4.6)
        step = gate_set.draw(torch.Generator().manual_seed(seed))
        assert step.existing_layers() == surviving(gate_set.spec, step.masks)
        found |= set(step.existing_layers())
    assert found == {True, False}


@pytest.mark.parametrize("spec", SPECS)
def test_self_pinching_gates_of_units_follow_the_rule(spec):
    encoder, gate_set = random_encoder(CONFIG, seed=0, spec=spec), SelfPinchingGates(spec, SelfPinchingConfig())
    for number, threshold in enumerate(gate_set.parameters()):
        threshold.data.fill_((0.1, HIGHEST_THRESHOLD, HIGHEST_THRESHOLD)[number % 3])
    step = gate_set.draw(encoder, 0.1)
    assert step.existing_layers() == surviving(spec, step.masks)


def test_with_single_weights_a_layer_exists_as_long_as_one_is_left():
    kinds = ("attention_weights", "ffn_weights")
    gate_set = SelfPinchingGates(DENSE, SelfPinchingConfig(kinds=kinds))
    for layer, closed in ((0, kinds), (1, kinds[:1])):
        for kind in closed:
            gate_set.layers[layer][kind].data.fill_(HIGHEST_THRESHOLD)
    assert gate_set.draw(random_encoder(CONFIG, seed=0), 0.1).existing_layers() == [False, True, True]


def test_the_rounds_of_the_techniques_follow_the_rule():
    student = random_encoder(CONFIG, seed=0)
    compressor = Compressor(Plan(student, 10**9, {}, 0.5), CompressConfig(techniques=("heads", "rows")))
    masks = compressor.masks()
    assert MaskDraw(masks, DENSE).existing_layers() == [True] * CONFIG.num_layers
    for name in ("z_head", "z_int"):
        masks[1, name].zero_()
    masks[2, "z_head"].zero_()
    assert MaskDraw(masks, DENSE).existing_layers() == surviving(DENSE, masks) == [True, False, True]
