"""Gates fill an encoder's slots; one draw serves one optimiser step; the clip acts once on its whole gradient."""

from dataclasses import replace

import pytest
import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_families, tiny_whisper
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.masks import KINDS, LAYER_KINDS, masks_of_layer
from s3prl_pruned.models.spec import CompactSpec, LayerSpec

CONFIG = tiny_base()
DENSE = CompactSpec.dense(CONFIG)
NO_FAHP = ("mha", "head", "ffn", "int")


def gates(spec=DENSE, **changes):
    return GateSet(spec, GateConfig(**changes), CONFIG)


def spread(gate_set, seed=0):
    """Different log_alpha everywhere, so that draws hold zeros, ones and values between."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, _, gate in gate_set.items():
            gate.log_alpha.copy_(torch.randn(gate.log_alpha.shape, generator=generator) * 1.5)
    return gate_set


def draw(gate_set, seed=0):
    return gate_set.draw(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kinds", [GateConfig().kinds, NO_FAHP, LAYER_KINDS, ("int",)])
def test_every_mask_of_the_table_has_its_shape(kinds):
    h, k, f = CONFIG.num_heads, CONFIG.head_dim, CONFIG.ffn_dim
    table = {"mha": 1, "qk": h * k, "vo": h * k, "head": h, "ffn": 1, "int": f}  # eq. 3
    masks = draw(gates(kinds=kinds)).masks
    for layer in range(CONFIG.num_layers):
        shapes = {name[2:]: tuple(z.shape) for name, z in masks_of_layer(masks, layer).items()}
        assert shapes == {kind: (table[kind],) for kind in kinds}


def test_each_layer_of_the_cnn_has_a_mask_per_channel_and_filling_puts_them_where_they_act():
    step, encoder = draw(spread(gates(kinds=KINDS))), random_encoder(CONFIG, seed=0)
    channels = {i: len(z) for (i, name), z in step.masks.items() if name == "z_conv"}
    assert channels == {i: c for i, (c, _, _) in enumerate(CONFIG.conv_layers)}
    step.fill(encoder)
    slots = [layer.z_conv for layer in encoder.feature_extractor.layers]
    assert all(slot is step.masks[i, "z_conv"] for i, slot in enumerate(slots))
    assert encoder.feature_projection.z_conv is slots[-1]
    assert step.averages()["z_conv"] == pytest.approx([float(z.detach().mean()) for z in slots])
    step.empty(encoder)
    assert {layer.z_conv for layer in encoder.feature_extractor.layers} == {None} == {encoder.feature_projection.z_conv}
    assert not any(name == "z_conv" for _, name in draw(gates()).masks)


def test_without_a_projection_the_last_channels_have_no_gates():
    config = tiny_base(embed_dim=12)
    gate_set = GateSet(CompactSpec.dense(config), GateConfig(kinds=("conv",)), config)
    assert [(i, name) for i, name, _ in gate_set.items()] == [(i, "z_conv") for i in range(4)]


@pytest.mark.parametrize("mult", [0.0, 0.1])
def test_masks_of_the_cnn_get_their_full_gradient_whatever_its_weights_get(mult):
    gradients, wavs = [], 0.3 * torch.randn(2, 900, generator=torch.Generator().manual_seed(0))
    for feature_grad_mult in (1.0, mult):
        config = tiny_base(feature_grad_mult=feature_grad_mult)
        gate_set, encoder = spread(gates(kinds=("conv",))), random_encoder(config, seed=0).train()
        step = draw(gate_set)
        step.fill(encoder)
        encoder(wavs).hidden_states[-1].square().sum().backward()
        gradients.append(
            (
                list(step.masks.table.split(step.gradient()).values()),
                encoder.feature_extractor.layers[1].conv.weight.grad,
            )
        )
    (masks, weight), (same, scaled) = gradients
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(masks, same)) and masks[0].abs().sum() > 0
    assert scaled is None if mult == 0 else torch.allclose(scaled, mult * weight, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_gates_fit_a_model_that_is_already_pruned(seed):
    spec = random_spec(CONFIG, seed=seed, channels=seed > 1, positions=seed > 0)
    encoder = random_encoder(CONFIG, seed=0, spec=spec)
    for kinds in (GateConfig().kinds, NO_FAHP, KINDS):
        draw(spread(gates(spec, kinds=kinds))).fill(encoder)
        assert torch.isfinite(encoder(torch.randn(1, 800)).hidden_states[-1]).all()


def test_each_group_of_the_positional_convolution_has_a_mask_that_gets_a_gradient():
    gate_set, encoder = spread(gates(kinds=KINDS)), random_encoder(CONFIG, seed=0).train()
    step = draw(gate_set)
    step.fill(encoder)
    assert encoder.positional_convolution.z_pos is step.masks[0, "z_pos"] and len(step.masks[0, "z_pos"]) == 4
    assert step.averages()["z_pos"] == pytest.approx([float(step.masks[0, "z_pos"].detach().mean())])
    encoder(torch.randn(1, 800, generator=torch.Generator().manual_seed(0))).hidden_states[0].square().sum().backward()
    step.backward(step.gradient())
    gradients = gate_set.table.split(gate_set.log_alpha.grad)
    assert (gradients[0, "z_pos"] != 0).all()  # of closed groups, too
    assert not any(grad.any() for (_, name), grad in gradients.items() if name not in ("z_pos", "z_conv"))
    step.empty(encoder)
    assert encoder.positional_convolution.z_pos is None
    assert "positional_convolution.log_alpha" in gate_set.state_dict()


@pytest.mark.parametrize(
    ("config", "found"),
    [(tiny_families()["data2vec_base"], "data2vec encoder has a stack of 3"),
     (tiny_whisper(), "whisper encoder has fixed positions")],
    ids=["data2vec", "whisper"],
)  # fmt: skip
def test_other_positions_than_a_single_convolution_have_no_groups(config, found):
    with pytest.raises(UserError, match=f"gates of the kind `pos`.*{found}. Leave the kind out"):
        GateSet(CompactSpec.dense(config), GateConfig(kinds=("int", "pos")), config)
    with pytest.raises(UserError, match=found):
        SpeechEncoder(config, replace(CompactSpec.dense(config), position_groups=(0,)))


def test_at_the_start_the_student_is_nearly_the_teacher():
    z = draw(gates()).masks.flat
    assert float((z == 1).float().mean()) > 0.9
    assert float((z == 0).float().mean()) < 0.01


def test_kinds_may_have_initial_values_of_their_own():
    """CoFi and DPHuBERT: intermediate dimensions start at 0, P(z > 0) = 1 / (1 + 11^(-2/3)); the others start open."""
    config = from_dict(GateConfig, {"kinds": list(KINDS), "initial_by_kind": {"int": 0.0, "conv": 2.0}}, "here")
    gate_set = GateSet(DENSE, config, CONFIG)
    starts = {name: set(gate.log_alpha.tolist()) for _, name, gate in gate_set.items()}
    assert starts.pop("z_int") == {0.0} and starts.pop("z_conv") == {2.0}
    assert all(start == pytest.approx([4.605]) for start in map(list, starts.values())) and len(starts) == 6
    kept = [float(gate.keep_probability().mean().detach()) for _, name, gate in gate_set.items() if name == "z_int"]
    assert kept == pytest.approx([1 / (1 + 11 ** (-2 / 3))] * 3)


def test_the_same_generator_state_draws_the_same_masks():
    gate_set = spread(gates())
    one, same, other = draw(gate_set, 3), draw(gate_set, 3), draw(gate_set, 4)
    for slot in ((i, "z_int") for i in range(3)):
        a, b, c = (found.masks[slot] for found in (one, same, other))
        assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("straight_through", [True, False])
def test_micro_batches_give_the_gradient_of_one_big_batch(straight_through):
    """With gradients on both sides of the clip's limits, so that clipping per micro-batch would be noticed."""
    gate_set = spread(gates(straight_through=straight_through))
    encoder = random_encoder(CONFIG, seed=0)
    wavs = 0.3 * torch.randn(4, 1500, generator=torch.Generator().manual_seed(0))
    results, drawn = [], []
    for parts, loss_scale in (((4,), 1.0), ((1, 2, 1), 1.0), ((2, 2), 1024.0)):
        gate_set.zero_grad()
        step = draw(gate_set)
        encoder.set_masks(step.masks)
        for part in wavs.split(list(parts)):
            (encoder(part).hidden_states[-1].square().sum() * 0.02 * loss_scale).backward()
        drawn.append(step.gradient() / loss_scale)
        step.backward(step.gradient(), loss_scale=loss_scale)
        results.append(gate_set.log_alpha.grad)
    assert 0.05 < float((drawn[0].abs() > 1).float().mean()) < 0.95
    for result in results[1:]:
        assert (result - results[0]).abs().max() <= 1e-4 * results[0].abs().max()


def test_gradients_of_several_ranks_are_summed_before_the_clip():
    gate_set = gates(kinds=("ffn",), initial_log_alpha=0.0)
    step = draw(gate_set)
    ranks = [torch.full((3,), 0.8), torch.full((3,), 0.8), torch.full((3,), -0.9)]
    step.backward(sum(ranks))
    summed = gate_set.log_alpha.grad.clone()
    gate_set.zero_grad()
    draw(gate_set).backward(torch.full((3,), 0.7))
    assert summed.tolist() == pytest.approx(gate_set.log_alpha.grad.tolist())


def test_a_mask_without_a_gradient_does_not_change_its_gate():
    gate_set = spread(gates())
    step = draw(gate_set)
    step.masks[0, "z_ffn"].sum().backward()
    step.backward(step.gradient())
    moved = {slot for slot, grad in gate_set.table.split(gate_set.log_alpha.grad).items() if grad.abs().sum() > 0}
    assert moved == {(0, "z_ffn")}


def test_a_layer_exists_as_long_as_attention_or_feed_forward_is_alive():
    step = draw(gates())
    for i, mha, ffn in zip(range(3), (0.0, 0.3, 0.0), (0.4, 0.0, 0.0)):
        step.masks[i, "z_mha"].data.fill_(mha)
        step.masks[i, "z_ffn"].data.fill_(ffn)
    assert step.existing_layers() == [True, True, False]


def test_without_whole_layer_masks_every_layer_exists_unless_it_was_removed_before():
    gone = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())
    spec = CompactSpec(layers=(DENSE.layers[0], gone, DENSE.layers[2]))
    assert draw(gates(spec, kinds=("qk", "vo", "int"))).existing_layers() == [True, False, True]
    assert draw(gates(spec)).existing_layers()[1] is False


def test_clamping_keeps_every_decision_reversible():
    gate_set = gates(max_log_alpha=5.0)
    for _, _, gate in gate_set.items():
        gate.log_alpha.data.fill_(-30.0)
    gate_set.clamp()
    assert {x for _, _, gate in gate_set.items() for x in gate.log_alpha.tolist()} == {-5.0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kinds": ["mha", "qkv"]}, r"`kinds` must be distinct masks out of .* but is \['mha', 'qkv'\]"),
        ({"kinds": []}, "`kinds` must be distinct"),
        ({"kinds": ["int", "int"]}, "`kinds` must be distinct"),
        ({"max_log_alpha": 0.0}, "`max_log_alpha` must be positive, but is 0.0"),
        ({"initial_by_kind": {"int": -7.5}}, r"`initial_by_kind.int` must be within .*\(7.0\), but is -7.5"),
        ({"initial_by_kind": {"ints": 0.0}}, "initial_by_kind.ints: unknown key. Did you mean `int`"),
        ({"initial_log_alpha": 10.0}, r"`initial_log_alpha` must be within .*\(7.0\), but is 10.0"),
        ({"kind": ["mha"]}, "kind: unknown key. Did you mean `kinds`"),
    ],
)
def test_wrong_gate_configurations_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        from_dict(GateConfig, data, "config_model.yaml")
