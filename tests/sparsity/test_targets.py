"""Targets of sparsity, MACs and time: expected shares, reachable shares, and shares realised by final masks."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.export.masks import final_masks
from s3prl_pruned.gates.attach import KINDS, GateConfig, GateSet
from s3prl_pruned.models.dummies import random_spec, tiny_base, tiny_large
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.families import wavlm_embedded
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.config import CnnTarget, Target
from s3prl_pruned.sparsity.counts import EncoderCounts, macs, realised_sparsity
from s3prl_pruned.sparsity.expected import expected_encoder, expected_layers, expected_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.targets import cnn_measure_of, measure_of
from tests.latency_tables import cnn_time, table_of
from tests.sure_gates import kept_units

FULL, WITH_CNN = GateConfig().kinds, (*GateConfig().kinds, "conv")
WITH_POSITIONS = (*GateConfig().kinds, "pos")
CONFIGS = {"base": tiny_base(), "large": tiny_large()}


def measures(config):
    table = table_of(config)
    return {
        "sparsity": measure_of(SparsityConfig(), config),
        "macs": measure_of(SparsityConfig(target=Target(of="macs", share=0.5, seconds=0.1)), config),
        "memory": measure_of(SparsityConfig(target=Target(of="memory", share=0.5)), config),
        "speedup": measure_of(SparsityConfig(target=Target(of="time", share=0.5, table="given")), config, table),
    }


def sure(config, kept, kinds):
    """Gates with probabilities 0 and 1 for a given structure."""
    gates = GateSet(CompactSpec.dense(config), GateConfig(kinds=kinds), config)
    with torch.no_grad():
        for i, name, gate in gates.items():
            gate.log_alpha.fill_(-50.0)
            gate.log_alpha[kept_units(kept, config, i, name)] = 50.0
    return gates


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from(sorted(CONFIGS)),
    with_cnn=st.booleans(),
    with_positions=st.booleans(),
)
def test_deterministic_gates_expect_the_counts_and_shares_of_their_structure(seed, shape, with_cnn, with_positions):
    """Heads, widths of ragged heads, MACs and time included."""
    config = CONFIGS[shape]
    kept = random_spec(config, seed=seed, channels=with_cnn, positions=with_positions)
    gates = sure(config, kept, (*FULL, *["conv"] * with_cnn, *["pos"] * with_positions))
    expected, counted = expected_encoder(gates, config, heads=True), EncoderCounts.of(config, kept)
    (mine,) = expected.layers
    for name in ("qk", "vo", "ffn", "heads", "products"):
        assert getattr(mine, name).tolist() == pytest.approx([getattr(each, name) for each in counted.layers], abs=1e-4)
    for measure in measures(config).values():
        assert float(measure.expected(gates).detach()) == pytest.approx(measure.of(kept), abs=1e-5)


def test_shares_are_ratios_of_macs_and_of_weights():
    config, spec = tiny_base(), random_spec(tiny_base(), seed=3)
    dense, found = CompactSpec.dense(config), measures(config)
    assert found["sparsity"].of(spec) == realised_sparsity(config, spec)
    work = [sum(macs(config, s, 1600).values()) for s in (spec, dense)]
    assert found["macs"].of(spec) == pytest.approx(1 - work[0] / work[1])
    table = table_of(config)
    times = [table.time(EncoderCounts.of(config, s)) for s in (spec, dense)]
    assert found["speedup"].quantity.shown(found["speedup"].of(spec)) == pytest.approx(times[1] / times[0])
    assert all(measure.of(dense) == pytest.approx(0) for measure in found.values())


@pytest.mark.parametrize("with_cnn", [False, True])
def test_memory_is_that_of_all_weights_of_the_network(with_cnn):
    """Counted in the networks themselves: every matrix and kernel, without the tables of positions."""
    shape = tiny_base()
    kept = random_spec(shape, seed=5, channels=with_cnn)
    sizes = [
        sum(
            weight.numel()
            for name, weight in SpeechEncoder(shape, spec).named_parameters()
            if weight.dim() > 1
            and name.startswith(("feature_", "layers.", "positional_"))
            and "gate" not in name
            and "original0" not in name
            and "relative" not in name
        )
        for spec in (kept, CompactSpec.dense(shape))
    ]
    measure = measure_of(SparsityConfig(target=Target(of="memory", share=0.5)), shape)
    assert measure.of(kept) == pytest.approx(1 - sizes[0] / sizes[1])


@pytest.mark.parametrize("kinds", [FULL, ("mha", "head", "ffn", "int"), KINDS, ("head", "int", "conv")], ids="-".join)
@pytest.mark.parametrize("name", ["macs", "memory", "speedup"])
def test_every_target_has_a_gradient_to_its_gates(name, kinds):
    """Value and intermediate dimensions, channels, heads, sublayers; for attention's padded width, the widest head."""
    config = tiny_base()
    gates, generator = (
        GateSet(CompactSpec.dense(config), GateConfig(kinds=kinds), config),
        torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for _, _, gate in gates.items():
            gate.log_alpha.copy_(torch.randn(gate.log_alpha.shape, generator=generator))
    measures(config)[name].expected(gates).backward()
    for slot, gradient in gates.table.split(gates.log_alpha.grad).items():
        assert (gradient < 0).all(), slot


def test_expected_heads_are_the_mean_over_random_draws():
    layer = random_spec(tiny_base(), seed=12).layers[0]
    gates = GateSet(CompactSpec(layers=(layer,)), GateConfig(kinds=("mha", "head", "qk", "vo")))
    generator, sizes = torch.Generator().manual_seed(0), [len(head.vo) for head in layer.heads]
    with torch.no_grad():
        for _, name, gate in gates.items():
            gate.log_alpha.copy_(torch.randn(gate.log_alpha.shape, generator=generator) - 1.0 * (name == "z_vo"))
    counts = []
    for _ in range(3000):
        z = {name: part.detach() for (_, name), part in gates.draw(generator).masks.items()}
        values = torch.stack([part.any() for part in z["z_vo"].split(sizes)])
        counts.append(float((values & (z["z_head"] > 0)).sum() * (z["z_mha"] > 0)))
    heads = expected_layers(gates.spec, gates.keep_probabilities(), heads=True).heads
    mean, spread = torch.tensor(counts).mean(), torch.tensor(counts).std() / len(counts) ** 0.5
    assert abs(float(heads.detach()) - mean) < 4 * spread


@pytest.fixture(scope="module")
def embedded():
    with torch.device("meta"):
        return SpeechEncoder(wavlm_embedded())


@pytest.mark.parametrize("kinds", [FULL, WITH_CNN, WITH_POSITIONS], ids="-".join)
@pytest.mark.parametrize(
    "target", [{"of": "macs", "share": 0.4}, {"of": "macs", "share": 0.7}, {"speedup": 1.8}, {"speedup": 3.0}], ids=str
)
def test_final_masks_meet_the_target_by_one_shift(embedded, target, kinds):
    target = {**target, "table": "given"} if "speedup" in target else target
    config, table = from_dict(SparsityConfig, {"target": target}, "test"), table_of(embedded.config)
    measure = measure_of(config, embedded.config, table)
    gates, generator = (
        GateSet(embedded.spec, GateConfig(kinds=kinds), embedded.config),
        torch.Generator().manual_seed(1),
    )
    for _, name, gate in gates.items():
        gate.log_alpha.data.copy_(torch.randn(gate.log_alpha.shape, generator=generator) - 1)
        if name in ("z_mha", "z_ffn"):  # no layer may be removed, so that any target can be met
            gate.log_alpha.data.fill_(1.0)
    bare = final_masks(gates, embedded, replace(config, match_target=False), table)
    final = final_masks(gates, embedded, config, table)
    reachable = measure.reachable(GateConfig(kinds=tuple(k for k in kinds if k not in ("mha", "ffn"))), embedded.spec)
    assert final.spec.position_groups == bare.spec.position_groups  # a group is too much at once to be shifted
    if config.goal < reachable:
        assert abs(final.reached - config.goal) <= config.tolerance
    else:
        assert final.reached > bare.reached
    assert final.reached == measure.of(final.spec) and final.sparsity == realised_sparsity(embedded.config, final.spec)
    assert final.rounded_sparsity == bare.sparsity and (abs(bare.reached - config.goal) > config.tolerance) == (
        final.shift != 0
    )


def test_the_cnns_own_target_is_of_its_macs_and_has_a_gradient_to_channels_only():
    config, spec = tiny_base(), random_spec(tiny_base(), seed=3, channels=True)
    cnn = cnn_measure_of(SparsityConfig(cnn_target=CnnTarget(share=0.5, seconds=0.1)), config)
    work = [macs(config, s, 1600)["cnn"] for s in (spec, CompactSpec.dense(config))]
    assert cnn.of(spec) == pytest.approx(1 - work[0] / work[1])
    gates = GateSet(CompactSpec.dense(config), GateConfig(kinds=WITH_CNN), config)
    cnn.expected(gates).backward()
    for (_, slot), gradient in gates.table.split(gates.log_alpha.grad).items():
        assert (gradient < 0).all() if slot == "z_conv" else not gradient.any()


def test_with_a_latency_table_the_cnns_target_is_of_its_time():
    config, spec = tiny_base(), random_spec(tiny_base(), seed=3, channels=True)
    cnn = cnn_measure_of(
        SparsityConfig(cnn_target=CnnTarget(of="time", share=0.5, table="given")), config, table_of(config)
    )
    times = [cnn_time(config, EncoderCounts.of(config, s).channels) for s in (spec, CompactSpec.dense(config))]
    assert cnn.of(spec) == pytest.approx(1 - times[0] / times[1]) and cnn.of(CompactSpec.dense(config)) == 0


def test_channels_are_shifted_to_the_cnns_target_and_other_gates_to_the_models(embedded):
    gates, generator = (
        GateSet(embedded.spec, GateConfig(kinds=WITH_CNN), embedded.config),
        torch.Generator().manual_seed(1),
    )
    for _, name, gate in gates.items():
        gate.log_alpha.data.copy_(
            torch.randn(gate.log_alpha.shape, generator=generator) - 1 + 2 * (name in ("z_mha", "z_ffn", "z_conv"))
        )
    config = SparsityConfig(target=Target(share=0.85), cnn_target=CnnTarget(share=0.6))
    final, bare = (final_masks(gates, embedded, c) for c in (config, replace(config, match_target=False)))
    cnn = cnn_measure_of(config, embedded.config)
    assert (
        abs(cnn.of(bare.spec) - 0.6) > 0.05 and abs(bare.sparsity - 0.85) > 0.05 and bare.shift == bare.cnn_shift == 0
    )
    assert abs(cnn.of(final.spec) - 0.6) <= 0.01 and abs(final.sparsity - 0.85) <= 0.01
    assert final.cnn_shift < 0 and final.shift != final.cnn_shift


def test_a_speedup_target_rises_linearly_in_saved_time():
    config = from_dict(SparsityConfig, {"target": {"speedup": 2.5, "table": "x"}, "warmup_fraction": 0.5}, "test")
    assert config.goal == pytest.approx(0.6)
    assert [config.target_at(step, 100) for step in (25, 50, 100)] == pytest.approx([0.3, 0.6, 0.6])
    assert SparsityConfig(target=Target(of="macs", share=0.7)).goal == 0.7 and SparsityConfig().goal == 0.8


def test_the_default_is_the_papers_sparsity():
    config = tiny_base()
    gates = GateSet(CompactSpec.dense(config), GateConfig())
    assert torch.equal(measure_of(SparsityConfig(), config).expected(gates), expected_sparsity(gates, config))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"target": {"of": "macs", "share": 1.0}}, r"target: `share` must be in \[0, 1\), but is 1.0"),
        ({"target": {"of": "macs"}}, "target.share: required, but not given"),
        (
            {"target": {"of": "size", "share": 0.5}},
            "target.of: must be one of params, macs, memory, time, but is 'size'",
        ),
        ({"target": {"share": float("nan")}}, "target.share: must be a finite number, but is nan"),
        ({"target": {"speedup": 0.9, "table": "x"}}, "`speedup` must be at least 1, but is 0.9"),
        ({"target": {"speedup": 2.0, "share": 0.5}}, "`speedup` is another way to give a `share` of time. Leave out"),
        ({"target": {"speedup": 2.0, "of": "macs"}}, "`speedup` is another way to give a `share` of time. Leave out"),
        ({"target": {"speedup": 2.0}}, "a target of time needs a `table`, but it is null. Measure one"),
        ({"target": {"share": 0.5, "table": "x"}}, "`table` is for a target of time, but this one is of params"),
        ({"target": {"of": "macs", "share": 0.5, "seconds": 0}}, r"`seconds` must be in \(0, 3600\]"),
        ({"cnn_target": {"of": "params", "share": 0.5}}, "cnn_target.of: must be one of macs, time, but is 'params'"),
        ({"target_macs": 1.0}, r"target: `share` must be in \[0, 1\), but is 1.0"),
        ({"target_speedup": 0.9, "latency_table": "x"}, "`target_speedup` must be at least 1, but is 0.9"),
        ({"target_speedup": 2.0}, "a target of time needs a `table`, but it is null. Measure one"),
        ({"target_speedup": 2.0, "latency_table": "x", "target_macs": 0.5}, "exclude one another"),
        ({"target_macs": 0.5, "utterance_seconds": 0}, r"`seconds` must be in \(0, 3600\]"),
        (
            {"target_cnn": 0.5, "cnn_target": None},
            "`target_cnn` is an old key for a target, but `cnn_target` is",
        ),
    ],
)
def test_wrong_targets_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        from_dict(SparsityConfig, data, "config_model.yaml")


def test_a_table_of_another_shape_and_an_utterance_shorter_than_a_frame_are_refused(tmp_path):
    (tmp_path / "table.json").write_text(json.dumps(to_dict(table_of(tiny_base()))))
    config = SparsityConfig(target=Target(of="time", share=0.5, table=str(tmp_path / "table.json")))
    assert measure_of(config, tiny_base()).table == table_of(tiny_base())
    with pytest.raises(UserError, match="of another shape: its `extractor_mode` is group_norm"):
        measure_of(config, tiny_large())
    with pytest.raises(UserError, match="`seconds` of a target must be long enough for a frame, but is 0.001"):
        measure_of(SparsityConfig(target=Target(of="macs", share=0.5, seconds=0.001)), tiny_base())


@settings(max_examples=25, deadline=None)
@given(spec=st.integers(0, 10_000), of_weights=st.floats(0.05, 0.95), of_macs=st.floats(0.05, 0.6))
def test_of_several_targets_the_least_fulfilled_one_counts(spec, of_weights, of_macs):
    shape = tiny_base()
    config = SparsityConfig(target=Target(share=of_weights), also=(Target(of="macs", share=of_macs, seconds=0.1),))
    measure, kept = measure_of(config, shape), random_spec(shape, seed=spec)
    dense, small = (sum(macs(shape, each, 1600).values()) for each in (CompactSpec.dense(shape), kept))
    by_hand = min(realised_sparsity(shape, kept) / of_weights, (1 - small / dense) / of_macs)
    assert measure.fulfilled(kept) == pytest.approx(of_weights * by_hand)
    assert measure.of(kept) == pytest.approx(realised_sparsity(shape, kept))
    gates = GateSet(CompactSpec.dense(shape), GateConfig(kinds=FULL, initial_log_alpha=-1.0), shape)
    shares = measure.expected(gates), measure.also[0][0].expected(gates)
    least = min(float(shares[0].detach()) / of_weights, float(shares[1].detach()) / of_macs)
    assert float(measure.expected_fulfilled(gates).detach()) == pytest.approx(of_weights * least)
