"""The expected structure under gates: deterministic gates, random gates, and the largest reachable sparsity."""

from dataclasses import replace

import pytest
import torch

from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_spec, tiny_base
from s3prl_pruned.models.masks import KINDS, LAYER_KINDS, Masks, SlotTable, masks_of_layer
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import prunable_weights, realised_sparsity
from s3prl_pruned.sparsity.expected import expected_layers, expected_sparsity, reachable_sparsity
from tests.sure_gates import kept_units

CONFIG = tiny_base()
DENSE = CompactSpec.dense(CONFIG)
CHANNELS = DENSE.channels_of(CONFIG)
FULL, NO_FAHP = GateConfig().kinds, ("mha", "head", "ffn", "int")
MIXTURES = [FULL, NO_FAHP, LAYER_KINDS, ("mha", "ffn"), ("qk",), ("head", "vo", "int"), ("head",)]
WITH_CNN = [KINDS, ("head", "int", "conv"), ("conv",), ("pos",)]


def gates(spec=DENSE, *, kinds=FULL, log_alphas=None):
    gate_set = GateSet(spec, GateConfig(kinds=kinds), CONFIG)
    with torch.no_grad():
        for i, name, gate in gate_set.items():
            gate.log_alpha.copy_(log_alphas(i, name, gate.log_alpha.shape))
    return gate_set


def at_random(seed, scale=1.5):
    generator = torch.Generator().manual_seed(seed)
    return lambda i, name, shape: torch.randn(shape, generator=generator) * scale


@pytest.mark.parametrize("beside", [(), ("conv",), ("pos",), ("conv", "pos")], ids="-".join)
@pytest.mark.parametrize("seed", range(8))
def test_deterministic_gates_expect_the_counts_of_their_structure(seed, beside):
    """With P in {0, 1}, expected and realised sparsity of a structure are equal."""
    kept = random_spec(CONFIG, seed=seed, channels="conv" in beside, positions="pos" in beside)

    def sure(i, name, shape):
        h, k = CONFIG.num_heads, CONFIG.head_dim
        sizes = {"z_mha": 1, "z_ffn": 1, "z_int": CONFIG.ffn_dim, "z_conv": len(CHANNELS[i])}
        sizes["z_pos"] = CONFIG.pos_conv_groups
        assert shape == (sizes.get(name, h * k),)
        values = torch.full(shape, -50.0)
        values[kept_units(kept, CONFIG, i, name)] = 50.0
        return values

    expected = expected_sparsity(gates(kinds=(*FULL, *beside), log_alphas=sure), CONFIG)
    assert float(expected.detach()) == pytest.approx(realised_sparsity(CONFIG, kept), abs=1e-6)


def test_open_gates_expect_the_structure_that_they_are_attached_to():
    for seed in range(4):
        spec = random_spec(CONFIG, seed=seed)
        for kinds in MIXTURES:
            opened = gates(spec, kinds=kinds, log_alphas=lambda i, name, shape: torch.full(shape, 50.0))
            assert float(expected_sparsity(opened, CONFIG).detach()) == pytest.approx(
                realised_sparsity(CONFIG, spec), abs=1e-6
            )


@pytest.mark.parametrize("kinds", MIXTURES, ids="-".join)
def test_expected_counts_are_sums_over_single_weights(kinds):
    """Product of P(z > 0) over all masks of a weight, written out per head and per dimension in float64."""
    layer = random_spec(CONFIG, seed=12).layers[0]
    assert layer.heads and layer.ffn
    gate_set = gates(CompactSpec(layers=(layer,)), kinds=kinds, log_alphas=at_random(0))
    p = {name: values.detach().double() for name, values in masks_of_layer(gate_set.keep_probabilities(), 0).items()}

    def of(name, position=0):
        return float(p[name][position]) if name in p else 1.0

    totals = {"qk": 0.0, "vo": 0.0}
    for group in totals:
        position = 0
        for number, head in enumerate(layer.heads):
            for _ in getattr(head, group):
                totals[group] += of("z_mha") * of("z_head", number) * of(f"z_{group}", position)
                position += 1
    ffn = sum(of("z_ffn") * of("z_int", position) for position in range(len(layer.ffn)))
    counts = expected_layers(gate_set.spec, gate_set.keep_probabilities())
    assert [float(n.detach()) for n in (counts.qk, counts.vo, counts.ffn)] == pytest.approx(
        [totals["qk"], totals["vo"], ffn]
    )


def test_the_expectation_is_the_mean_over_random_draws():
    gate_set = gates(kinds=LAYER_KINDS, log_alphas=at_random(1))
    generator, kept = torch.Generator().manual_seed(0), []
    h, k = CONFIG.num_heads, CONFIG.head_dim
    for _ in range(1500):
        weights = 0
        masks = gate_set.draw(generator).masks
        for layer in range(CONFIG.num_layers):
            alive = {name: (z.detach() > 0).double() for name, z in masks_of_layer(masks, layer).items()}
            heads = alive["z_mha"] * alive["z_head"].repeat_interleave(k)
            q, v = torch.zeros(h * k, CONFIG.embed_dim), torch.zeros(CONFIG.ffn_dim, CONFIG.embed_dim)
            weights += 2 * (q + (heads * alive["z_qk"])[:, None]).sum()  # the matrices of q and k, element by element
            weights += 2 * (q + (heads * alive["z_vo"])[:, None]).sum()
            weights += 2 * (v + (alive["z_ffn"] * alive["z_int"])[:, None]).sum()
        kept.append(float(weights))
    kept = torch.tensor(kept, dtype=torch.float64)
    whole = CONFIG.num_layers * (4 * CONFIG.embed_dim**2 + 2 * CONFIG.embed_dim * CONFIG.ffn_dim)
    bound = 5 * float(kept.std()) / len(kept) ** 0.5 / whole
    assert bound < 0.02
    assert abs(float(expected_sparsity(gate_set, CONFIG).detach()) - (1 - float(kept.mean()) / whole)) < bound


def test_expected_weights_of_the_cnn_are_sums_over_single_weights():
    """Product of P(z > 0) of the two channels of a weight, over every convolution and the projection, in float64."""
    gate_set = gates(kinds=("conv",), log_alphas=at_random(3))
    p = [
        torch.ones(1, dtype=torch.float64),
        *(gate.keep_probability().detach().double() for _, _, gate in gate_set.items()),
    ]
    p.append(torch.ones(CONFIG.embed_dim, dtype=torch.float64))
    kernels = [*(kernel for _, kernel, _ in CONFIG.conv_layers), 1]
    kept = sum(float((after[:, None] * before).sum()) * kernel for before, after, kernel in zip(p, p[1:], kernels))
    whole = sum(len(after) * len(before) * kernel for before, after, kernel in zip(p, p[1:], kernels))
    layers = prunable_weights(CONFIG, DENSE)
    assert float(expected_sparsity(gate_set, CONFIG).detach()) == pytest.approx(
        1 - (layers + kept) / (layers + whole), abs=1e-6
    )


@pytest.mark.parametrize("kinds", MIXTURES + WITH_CNN, ids="-".join)
def test_the_sparsity_has_a_gradient_to_every_gate(kinds):
    gate_set = gates(kinds=kinds, log_alphas=at_random(2))
    expected_sparsity(gate_set, CONFIG).backward()
    assert (gate_set.log_alpha.grad < 0).all()


def test_units_without_a_gate_count_in_full():
    counts = expected_layers(DENSE, Masks.of({}))
    assert [counts.qk.tolist(), counts.vo.tolist(), counts.ffn.tolist()] == [[24.0] * 3, [24.0] * 3, [20.0] * 3]


@pytest.mark.parametrize("kinds", MIXTURES, ids="-".join)
def test_the_expectation_is_computed_on_the_gates_device(kinds):
    """On the meta device, which like a GPU refuses to mix with tensors on the CPU."""
    table = SlotTable.of(DENSE, kinds)
    counts = expected_layers(DENSE, Masks(table, torch.empty(table.total, device="meta")), heads=True)
    assert all(getattr(counts, name).is_meta for name in ("qk", "vo", "ffn", "heads", "products"))


@pytest.mark.parametrize("kinds", MIXTURES + WITH_CNN, ids="-".join)
@pytest.mark.parametrize("limit", [4.605, 1.0])
def test_the_reachable_sparsity_is_that_of_gates_at_their_lower_limit(kinds, limit):
    lowest = gates(kinds=kinds, log_alphas=lambda i, name, shape: torch.full(shape, -limit))
    config = GateConfig(kinds=kinds, max_log_alpha=limit, initial_log_alpha=0.0)
    assert reachable_sparsity(CONFIG, config) == pytest.approx(
        float(expected_sparsity(lowest, CONFIG).detach()), abs=1e-6
    )


def test_the_papers_target_can_be_reached_with_all_gates_and_not_with_attention_alone():
    base = families.wavlm_base()
    assert reachable_sparsity(base, GateConfig()) > 0.99
    assert reachable_sparsity(base, GateConfig(kinds=NO_FAHP)) > 0.99
    assert reachable_sparsity(base, GateConfig(kinds=("mha", "qk", "vo"))) == pytest.approx(1 / 3, abs=0.01)
    assert reachable_sparsity(replace(base, ffn_dim=768), GateConfig(kinds=("ffn", "int"))) == pytest.approx(
        1 / 3, abs=0.01
    )
