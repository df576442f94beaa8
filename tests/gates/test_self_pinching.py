"""Self-pinching gates against the definition in float64, gradients by hand, and the arithmetic of a training step."""

import math
from dataclasses import replace

import pytest
import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.gates.self_pinching import (
    HIGHEST_THRESHOLD,
    LOWEST_THRESHOLD,
    SelfPinchingConfig,
    SelfPinchingGates,
    pinch,
    unit_scores,
)
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.models.spec import CompactSpec, LayerSpec, Ranks

CONFIG = tiny_base()
DENSE = CompactSpec.dense(CONFIG)
WEIGHTS = ("attention_weights", "ffn_weights")


def gates(spec=DENSE, *, threshold=None, **changes):
    gate_set = SelfPinchingGates(spec, SelfPinchingConfig(**changes))
    with torch.no_grad():
        for number, parameter in enumerate(gate_set.parameters()):
            if threshold is not None:
                parameter.fill_(threshold + 0.03 * number)
    return gate_set


def m_by_hand(squared_norms, threshold, temperature, *, structured=True):
    """The soft mask of the definition, in float64."""
    s = squared_norms.double()
    score = (s - s.min()) / (s.max() - s.min() + 1e-8) + 1e-5
    return torch.sigmoid((score - threshold.double() ** 2) / (temperature * (10 if structured else 1)))


def uneven_norms(num=50, seed=0):
    return torch.rand(num, generator=torch.Generator().manual_seed(seed)) ** 2 * 3


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])
def test_forward_is_the_rounded_mask_of_the_definition(structured, temperature):
    norms, threshold = uneven_norms(), torch.tensor(0.6)
    z = pinch(unit_scores(norms), threshold, temperature, structured=structured)
    expected = m_by_hand(norms, threshold, temperature, structured=structured).round()
    assert torch.equal(z.double(), expected) and 5 < z.sum() < 45 and z.dtype == torch.float32


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_gradients_of_threshold_and_weights_are_those_of_m_by_finite_differences(structured, temperature):
    norms, threshold = uneven_norms(12).requires_grad_(), torch.tensor(0.6, requires_grad=True)
    upstream = torch.randn(12, generator=torch.Generator().manual_seed(1))
    pinch(unit_scores(norms), threshold, temperature, structured=structured).backward(upstream)

    def loss(s, t):
        return float((m_by_hand(s, t, temperature, structured=structured) * upstream.double()).sum())

    s, t, step = norms.detach().double(), threshold.detach().double(), 1e-6
    by_threshold = (loss(s, t + step) - loss(s, t - step)) / (2 * step)
    shifts = torch.eye(12, dtype=torch.float64) * step
    by_norm = torch.tensor([(loss(s + d, t) - loss(s - d, t)) / (2 * step) for d in shifts], dtype=torch.float64)
    assert float(threshold.grad) == pytest.approx(by_threshold, rel=1e-4)
    torch.testing.assert_close(norms.grad.double(), by_norm, rtol=1e-3, atol=1e-6)
    assert by_norm.abs().max() > 1e-3, "nothing would be checked"


def test_the_gradient_of_the_threshold_is_the_formula_by_hand():
    """dz/dt = -2 t m (1 - m) / (10 tau), summed over the units."""
    norms, threshold, tau = uneven_norms(9), torch.tensor(0.7, requires_grad=True), 0.2
    pinch(unit_scores(norms), threshold, tau, structured=True).sum().backward()
    m = m_by_hand(norms, threshold.detach(), tau)
    expected = float((-2 * 0.7 * m * (1 - m) / (10 * tau)).sum())
    assert float(threshold.grad) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kinds", [("head", "int"), WEIGHTS])
def test_at_the_start_nothing_is_pruned_and_the_thresholds_have_a_gradient(kinds):
    """In our reading a tie is kept; with `round(0.5) = 0` the smallest unit of each group would be pruned at once."""
    encoder, gate_set = random_encoder(CONFIG, seed=0), gates(kinds=kinds)
    draw = gate_set.draw(encoder, 0.5)
    assert all(bool(z.all()) for z in draw.hard_masks().values())
    assert math.sqrt(1e-5) == pytest.approx(LOWEST_THRESHOLD, rel=1e-6)
    draw.fill(encoder)
    encoder(torch.randn(1, 1500)).hidden_states[-1].square().sum().backward()
    draw.backward(draw.gradient())
    draw.empty(encoder)
    assert all(float(threshold.grad) != 0 for threshold in gate_set.parameters())
    with torch.no_grad():
        for threshold in gate_set.parameters():
            threshold += 1e-4  # a step of the paper's learning rate prunes the smallest of each group, hardly more
    pruned = [float((z == 0).float().mean()) for z in gate_set.draw(encoder, 0.5).hard_masks().values()]
    assert max(pruned) > 0 and all(share <= 0.25 + 1e-6 for share in pruned)  # one head of four at most


def test_at_zero_the_threshold_would_have_no_gradient_and_above_every_score_nothing_is_kept():
    scores, zero = unit_scores(uneven_norms()), torch.tensor(0.0, requires_grad=True)
    pinch(scores, zero, 0.5, structured=True).sum().backward()
    assert float(zero.grad) == 0
    assert not pinch(scores, torch.tensor(HIGHEST_THRESHOLD), 0.5, structured=True).any()
    gate_set = gates(threshold=7.0)
    gate_set.clamp()
    assert [float(t.detach()) for t in gate_set.parameters()] == pytest.approx([HIGHEST_THRESHOLD] * 6)
    gate_set = gates(threshold=-7.0)
    gate_set.clamp()
    assert [float(t.detach()) for t in gate_set.parameters()] == pytest.approx([LOWEST_THRESHOLD] * 6)


def test_units_are_scored_by_all_their_weights():
    """A head by its q, k, v rows and o columns, an FFN dimension by its row of fc1 and its column of fc2; no biases."""
    encoder, k = random_encoder(CONFIG, seed=0), CONFIG.head_dim
    attention, ffn = encoder.layers[1].attention, encoder.layers[1].feed_forward
    w = {name: getattr(attention, name).weight.detach().double() for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    heads = torch.tensor([
        sum(float(w[name][h * k : (h + 1) * k].square().sum()) for name in ("q_proj", "k_proj", "v_proj"))
        + float(w["out_proj"][:, h * k : (h + 1) * k].square().sum())
        for h in range(CONFIG.num_heads)
    ])  # fmt: skip
    fc1, fc2 = ffn.fc1.weight.detach().double(), ffn.fc2.weight.detach().double()
    dims = torch.tensor([float(fc1[d] @ fc1[d] + fc2[:, d] @ fc2[:, d]) for d in range(CONFIG.ffn_dim)])
    masks = gates(threshold=0.5).draw(encoder, 0.3).hard_masks()  # the thresholds of layer 1: 0.56 and 0.59
    assert torch.equal(masks[1, "z_head"].double(), m_by_hand(heads, torch.tensor(0.56), 0.3).round())
    assert torch.equal(masks[1, "z_int"].double(), m_by_hand(dims, torch.tensor(0.59), 0.3).round())
    assert 0 < masks[1, "z_int"].mean() < 1


@pytest.mark.parametrize("kinds", [("head", "int"), WEIGHTS])
@pytest.mark.parametrize("seed", range(3))
def test_they_fit_a_model_that_is_already_pruned(kinds, seed):
    spec = random_spec(CONFIG, seed=seed)
    encoder = random_encoder(CONFIG, seed=0, spec=spec)
    draw = gates(spec, kinds=kinds, threshold=0.5).draw(encoder, 0.3)
    draw.fill(encoder)
    encoder(torch.randn(1, 800)).hidden_states[-1].sum().backward()
    draw.backward(draw.gradient())
    draw.empty(encoder)
    encoder.load_state_dict(encoder.state_dict())


def test_low_rank_factors_are_refused():
    layer = replace(DENSE.layers[0], ranks=Ranks(fc1=3))
    with pytest.raises(UserError, match="holds some as two low-rank factors. Prune first, then factorise"):
        gates(CompactSpec(layers=(layer, *DENSE.layers[1:])))


def step_gradients(parts, *, kinds, loss_scale=1.0, count_weight=3.0):
    """Gradients of one optimiser step, unscaled: thresholds and all weights, with a term on the count."""
    encoder, gate_set = random_encoder(CONFIG, seed=0).train(), gates(kinds=kinds, threshold=0.4)
    wavs = 0.3 * torch.randn(4, 1500, generator=torch.Generator().manual_seed(0))
    draw = gate_set.draw(encoder, 0.1)
    draw.fill(encoder)
    for part in wavs.split(parts):
        (encoder(part).hidden_states[-1].square().sum() * 0.02 * loss_scale).backward()
    (count_weight * sum(z.mean() for z in draw.keep_probabilities().values())).backward()
    draw.backward(draw.gradient(), loss_scale=loss_scale)
    draw.empty(encoder)
    weights = {name: p.grad / loss_scale for name, p in encoder.named_parameters() if p.grad is not None}
    return weights | {f"gates.{name}": p.grad for name, p in gate_set.named_parameters()}


@pytest.mark.parametrize("kinds", [("head", "int"), WEIGHTS])
def test_micro_batches_and_a_loss_scale_change_no_gradient(kinds):
    whole = step_gradients([4], kinds=kinds)
    for parts, loss_scale in (([1, 2, 1], 1.0), ([2, 2], 1024.0)):
        other = step_gradients(parts, kinds=kinds, loss_scale=loss_scale)
        assert other.keys() == whole.keys() and len(whole) > 50
        for name, gradient in whole.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("kinds", [("head", "int"), WEIGHTS])
def test_a_step_has_the_gradients_of_autograd_through_the_masked_model_in_one_piece(kinds):
    """Against functional_call on weights that are masked outside, one graph, no leaves in between."""
    whole = step_gradients([4], kinds=kinds)
    encoder, gate_set = random_encoder(CONFIG, seed=0).train(), gates(kinds=kinds, threshold=0.4)
    wavs = 0.3 * torch.randn(4, 1500, generator=torch.Generator().manual_seed(0))
    weights, count, k = dict(encoder.named_parameters()), 0.0, CONFIG.head_dim
    masked = dict(weights)
    for i, thresholds in enumerate(gate_set.layers):
        names = {n: f"layers.{i}.attention.{n}.weight" for n in ("q_proj", "k_proj", "v_proj", "out_proj")}
        names |= {n: f"layers.{i}.feed_forward.{n}.weight" for n in ("fc1", "fc2")}
        w = {n: weights[full] for n, full in names.items()}
        if kinds == WEIGHTS:
            for kind, group in (("attention_weights", list(w)[:4]), ("ffn_weights", ["fc1", "fc2"])):
                flat = torch.cat([w[n].reshape(-1) for n in group])
                z = pinch(unit_scores(flat**2), thresholds[kind], 0.1, structured=False)
                count = count + 3.0 * z.mean()
                for n, part in zip(group, z.split([w[n].numel() for n in group])):
                    masked[names[n]] = w[n] * part.view(w[n].shape)
            continue
        q, key, v, o = (w[n].view(4, k, -1) if n != "out_proj" else w[n].T.reshape(4, k, -1) for n in list(w)[:4])
        z = pinch(
            unit_scores(sum(x.square().sum((1, 2)) for x in (q, key, v, o))), thresholds["head"], 0.1, structured=True
        )
        masked[names["out_proj"]] = w["out_proj"] * z.repeat_interleave(k)  # a head's context, where it is used
        z_int = pinch(
            unit_scores((w["fc1"] ** 2).sum(1) + (w["fc2"] ** 2).sum(0)), thresholds["int"], 0.1, structured=True
        )
        masked[names["fc2"]] = w["fc2"] * z_int
        count = count + 3.0 * (z.mean() + z_int.mean())
    states = torch.func.functional_call(encoder, masked, (wavs,)).hidden_states
    (states[-1].square().sum() * 0.02 + count).backward()
    expected = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    expected |= {f"gates.{name}": p.grad for name, p in gate_set.named_parameters()}
    assert expected.keys() == whole.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(whole[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    count_only = {name: g for name, g in step_gradients([4], kinds=kinds, count_weight=0.0).items() if "gates" in name}
    assert any(abs(float(g - whole[name])) > 1e-4 for name, g in count_only.items()), (
        "the count has a gradient of its own"
    )


def test_masked_weights_are_in_the_encoder_only_during_the_step():
    encoder, gate_set = random_encoder(CONFIG, seed=0), gates(kinds=WEIGHTS, threshold=0.3)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    names = {id(p): name for name, p in encoder.named_parameters()}
    draw = gate_set.draw(encoder, 0.3)
    draw.fill(encoder)
    zeros = sum(int((layer.feed_forward.fc1.weight == 0).sum()) for layer in encoder.layers)
    draw.empty(encoder)
    assert zeros > 100
    assert {id(p): name for name, p in encoder.named_parameters()} == names, "the same parameters as before"
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_layer_exists_as_long_as_a_head_or_a_dimension_is_alive():
    gone = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())
    spec = CompactSpec(layers=(DENSE.layers[0], gone, DENSE.layers[2]))
    encoder, gate_set = random_encoder(CONFIG, seed=0, spec=spec), gates(spec)
    assert gate_set.draw(encoder, 0.3).existing_layers() == [True, False, True]
    with torch.no_grad():
        gate_set.layers[0]["head"].fill_(HIGHEST_THRESHOLD)
        gate_set.layers[2]["head"].fill_(HIGHEST_THRESHOLD)
        gate_set.layers[2]["int"].fill_(HIGHEST_THRESHOLD)
    assert gate_set.draw(encoder, 0.3).existing_layers() == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gates_compute_in_single_precision_under_autocast(dtype):
    encoder, gate_set = random_encoder(CONFIG, seed=0), gates(threshold=0.5)
    expected = gate_set.draw(encoder, 0.02).hard_masks()
    with torch.autocast("cpu", dtype=dtype):
        inside = gate_set.draw(encoder, 0.02).hard_masks()
    assert all(z.dtype == torch.float32 and torch.equal(z, expected[key]) for key, z in inside.items())


def test_the_temperature_decays_by_a_cosine_from_a_half_to_a_hundredth():
    config = SelfPinchingConfig()
    taus = [config.temperature_at(step, 101) for step in range(1, 102)]
    assert taus[0] == 0.5 and taus[-1] == pytest.approx(0.01) and taus[50] == pytest.approx(0.255)
    assert taus[25] == pytest.approx(0.01 + 0.49 * (1 + math.cos(math.pi / 4)) / 2)
    assert config.temperature_at(1, 1) == 0.5, "a run of one step"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kinds": ["qk"]}, r"`kinds` must be distinct, out of .* but is \['qk'\]"),
        ({"kinds": []}, "`kinds` must be distinct"),
        ({"kinds": ["head", "ffn_weights"]}, r"\(not of both\), but is"),
        ({"final_temperature": 0.0}, "`final_temperature` must be above 0 .* 0.0 and 0.5"),
        ({"final_temperature": 0.7}, "at most `initial_temperature`, but they are 0.7 and 0.5"),
    ],
)
def test_wrong_configurations_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        from_dict(SelfPinchingConfig, data, "config_model.yaml")


@pytest.mark.parametrize("kinds", [("head", "int"), WEIGHTS])
def test_the_gradients_of_two_ranks_sum_to_those_of_one_process(kinds, monkeypatch):
    """Each rank has half of the batch; leaves are summed before `backward`, weights after it, as the trainer does."""
    whole = step_gradients([4], kinds=kinds)
    wavs = 0.3 * torch.randn(4, 1500, generator=torch.Generator().manual_seed(0))
    ranks = []
    for half in wavs.split(2):
        encoder, gate_set = random_encoder(CONFIG, seed=0).train(), gates(kinds=kinds, threshold=0.4)
        draw = gate_set.draw(encoder, 0.1)
        draw.fill(encoder)
        (encoder(half).hidden_states[-1].square().sum() * 0.02).backward()
        (3.0 * sum(z.mean() for z in draw.keep_probabilities().values())).backward()
        ranks.append((encoder, gate_set, draw))
    monkeypatch.setattr("s3prl_pruned.distributed.world_size", lambda: 2)
    summed = sum(draw.gradient() for _, _, draw in ranks)
    for encoder, _, draw in ranks:
        draw.backward(summed)
        draw.empty(encoder)
    (one, thresholds, _), (two, others, _) = ranks
    found = {
        name: p.grad + dict(two.named_parameters())[name].grad
        for name, p in one.named_parameters()
        if p.grad is not None
    }
    for name, gradient in whole.items():
        if name.startswith("gates."):
            same = [dict(g.named_parameters())[name.removeprefix("gates.")].grad for g in (thresholds, others)]
            torch.testing.assert_close(*same, rtol=1e-5, atol=1e-7, msg="every rank takes the same step")
            torch.testing.assert_close(same[0], gradient, rtol=1e-3, atol=1e-5, msg=name)
        else:
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
