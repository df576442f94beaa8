"""Before training: low-rank factors, fewer layers, and whether a rate can be reached at all."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from s3prl_pruned.compressors.compressor import Compressor
from s3prl_pruned.compressors.config import CompressConfig
from s3prl_pruned.compressors.low_rank import Decomposed
from s3prl_pruned.compressors.plan import _reach, make_plan
from s3prl_pruned.compressors.shallow import shallow
from s3prl_pruned.compressors.units import matrix
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_large
from s3prl_pruned.models.families import wavlm_base
from s3prl_pruned.models.spec import CompactSpec, Ranks
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.counts import prunable_weights, realised_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig

CONFIG = tiny_base(embed_dim=48, num_heads=4, ffn_dim=96, num_layers=4)


def plan(techniques, rate, encoder=None, **more):
    encoder = encoder or random_encoder(CONFIG, seed=0)
    config = CompressConfig(techniques=tuple(techniques.split()), **more)
    config.validate()
    made = make_plan(encoder, config, SparsityConfig(target=Target(share=rate)))
    compressor = Compressor(made, config)
    compressor.refuse_coarse(0.01)
    return made, compressor


# ---- low rank


def test_factors_are_the_nearest_maps_of_their_rank():
    """Eckart and Young: the error is the norm of the omitted singular values, as numpy has them."""
    import numpy as np

    encoder = random_encoder(CONFIG, seed=0)
    small = Decomposed(encoder).factored(Decomposed(encoder).ranks_by_share(0.5))
    for name in ("q_proj", "out_proj"):
        whole, factors = (matrix(getattr(e.layers[2].attention, name)).detach() for e in (encoder, small))
        rank = getattr(small.spec.layers[2].ranks, name)
        left_out = np.linalg.svd(whole.double().numpy(), compute_uv=False)[rank:]
        assert float((whole - factors).norm()) == pytest.approx(float(np.sqrt((left_out**2).sum())), rel=1e-4)
    bias = small.layers[2].attention.q_proj.up.bias
    assert torch.equal(bias, encoder.layers[2].attention.q_proj.bias)
    assert torch.equal(small.layers[1].final_layer_norm.weight, encoder.layers[1].final_layer_norm.weight)


def test_a_map_of_low_rank_is_kept_exactly_and_one_that_is_not_stays_whole():
    encoder = random_encoder(CONFIG, seed=0)
    with torch.no_grad():
        for layer in encoder.layers:
            layer.feed_forward.fc1.weight.copy_(torch.randn(96, 3) @ torch.randn(3, 48))
    decomposed = Decomposed(encoder)
    spec = decomposed.ranks_by_energy(0.9999)
    assert all(layer.ranks == Ranks(fc1=3) for layer in spec.layers), "the others' factors would be larger than they"
    wavs = torch.randn(1, 2000)
    with torch.no_grad():
        ours, theirs = decomposed.factored(spec).double()(wavs.double()), encoder.double()(wavs.double())
    for a, b in zip(ours.hidden_states, theirs.hidden_states):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


@pytest.mark.parametrize("rule", ["energy", "budget"])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_a_low_rank_rate_is_met(rule, rate):
    made, _ = plan("low_rank", rate, ranks=rule)
    assert realised_sparsity(CONFIG, made.student.spec) == pytest.approx(rate, abs=0.01)
    assert sum(p.numel() for p in made.student.parameters()) < random_encoder(CONFIG, seed=0).num_parameters()


def test_by_energy_a_flat_spectrum_gets_more_rank_than_a_steep_one():
    encoder = random_encoder(CONFIG, seed=0)
    with torch.no_grad():
        u, s, v = torch.linalg.svd(encoder.layers[0].attention.q_proj.weight, full_matrices=False)
        encoder.layers[0].attention.q_proj.weight.copy_(u @ torch.diag(s * 0.7 ** torch.arange(len(s))) @ v)
    made, _ = plan("low_rank", 0.5, encoder)
    assert made.student.spec.layers[0].ranks.q_proj < made.student.spec.layers[1].ranks.q_proj
    made, _ = plan("low_rank", 0.5, encoder, ranks="budget")
    assert made.student.spec.layers[0].ranks.q_proj == made.student.spec.layers[1].ranks.q_proj


def test_a_given_energy_sets_the_rate():
    low, _ = plan("low_rank", 0.8, energy=0.5)
    high, _ = plan("low_rank", 0.8, energy=0.7)
    assert low.target > high.target > 0.05
    assert high.target == realised_sparsity(CONFIG, high.student.spec)


# ---- fewer layers


@pytest.mark.parametrize("config", [CONFIG, tiny_large(num_layers=4)], ids=["base", "large"])
def test_the_first_layers_compute_the_same_and_all_states_are_returned(config, relative_differences):
    encoder = random_encoder(config, seed=0)
    small = shallow(encoder, 2)
    wavs = torch.randn(2, 2000)
    with torch.no_grad():
        ours, theirs = small(wavs).hidden_states, encoder(wavs).hidden_states
    assert len(ours) == len(theirs) == 5
    assert max(relative_differences(ours[:3], theirs[:3])) <= 2e-5
    assert relative_differences(ours[3:4], theirs[3:4]) > [0.01], "what follows is another layer's"
    if not config.norm_first:
        plain = torch.nn.functional.layer_norm(ours[2], (config.embed_dim,))
        for state in ours[3:]:
            torch.testing.assert_close(state, plain, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(ours[3], theirs[3])


# ---- rates


@pytest.mark.parametrize("technique, most", [("heads", 11 / 12 / 3), ("rows", 2 / 3), ("layers", 11 / 12)])
def test_the_highest_rates_of_the_techniques_on_wavlm_base(technique, most):
    """30.6 % by heads with one left in each layer, 66.7 % by rows."""
    config = wavlm_base()
    encoder = SimpleNamespace(config=config, spec=CompactSpec.dense(config))
    assert _reach(technique, encoder, None) / 84_934_656 == pytest.approx(most)


@pytest.mark.parametrize(
    "techniques, rate, message",
    [
        ("heads", 0.5, r"is 0.5, but heads reach 0.0000 to 0.2500 on this encoder \(each layer keeps a head\)"),
        ("rows", 0.7, r"rows reach 0.0000 to 0.5000 on this encoder \(attention stays whole\)"),
        ("layers", 0.9, r"layers reach 0.0000 to 0.7500 on this encoder \(one layer stays\)"),
        ("layers", 0.4, r"the nearest rate that layers can bring this encoder to is 0.5000"),
        ("heads rows", 0.9, r"heads and rows reach 0.0000 to 0.8750"),
        ("low_rank", 0.99, r"low_rank reach 0.0000 to 0.9\d+ on this encoder \(each linear map keeps rank 1\)"),
    ],
)
def test_a_rate_out_of_reach_is_refused_with_the_range(techniques, rate, message):
    config = tiny_base(embed_dim=48, num_heads=2, ffn_dim=96, num_layers=4)  # half of the weights are attention's
    config = (
        replace(config, num_heads=2)
        if techniques == "heads"
        else replace(config, num_heads=4)
        if "heads" in techniques
        else config
    )
    with pytest.raises(UserError, match=message):
        plan(techniques, rate, random_encoder(config, seed=0))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"techniques": ["rows", "heads"]}, "in this order"),
        ({"techniques": ["head"]}, "`techniques` must be some of"),
        ({"techniques": []}, "`techniques` must be some of"),
        ({"techniques": ["heads", "rows"], "shares": [1]}, "`shares` must be a positive number for each"),
        ({"techniques": ["heads"], "rounds": 0}, "`rounds` must be at least 1"),
        ({"techniques": ["heads"], "last_round": 1.0}, r"`last_round` must be in \[0, 1\)"),
        ({"techniques": ["heads"], "energy": 0.9}, "`energy` needs"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        from_dict(CompressConfig, settings, "config_model.yaml")


def test_an_already_pruned_encoder_is_pruned_further_or_refused():
    pruned = random_encoder(CONFIG, seed=0, spec=random_spec(CONFIG, seed=2))
    has = realised_sparsity(CONFIG, pruned.spec)
    assert 0.2 < has < 0.7
    for techniques in ("magnitude", "low_rank", "rows"):
        made, compressor = plan(techniques, has + 0.1, pruned)
        for number in range(10):
            compressor.prune(number, lambda: None)
        assert compressor.realised_sparsity() == pytest.approx(has + 0.1, abs=0.01), techniques
    with pytest.raises(UserError, match=r"the encoder has 0\.\d+ already"):
        plan("magnitude", has - 0.1, pruned)
    factors, _ = plan("low_rank", 0.5)
    with pytest.raises(UserError, match="q_proj is held in two factors already"):
        plan("low_rank", 0.8, factors.student)
    channels = tuple(tuple(range(count - 1)) for count, _, _ in CONFIG.conv_layers)
    with pytest.raises(UserError, match="the encoder's CNN is pruned, but these techniques neither prune nor count it"):
        plan("rows", 0.3, random_encoder(CONFIG, seed=0, spec=replace(CompactSpec.dense(CONFIG), channels=channels)))
    fewer = replace(CompactSpec.dense(CONFIG), position_groups=(0,))
    with pytest.raises(UserError, match="the encoder's positional convolution is pruned, but these techniques neither"):
        plan("rows", 0.3, random_encoder(CONFIG, seed=0, spec=fewer))
    made, compressor = plan("heads rows", 0.7, factors.student)
    assert made.goals["rows"] == pytest.approx(0.3 * prunable_weights(CONFIG, CompactSpec.dense(CONFIG)), rel=1e-3)
