"""Linear maps that are held as two factors: counted, sliced, folded, saved and exported as everything else is."""

import dataclasses

import pytest
import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.export.masks import export_compact
from s3prl_pruned.formats.folder import load_encoder, save_encoder
from s3prl_pruned.formats.huggingface_code import save_huggingface
from s3prl_pruned.formats.onnx import save_onnx
from s3prl_pruned.models.accelerate.int8 import quantize_int8
from s3prl_pruned.models.compact import compact, surviving_spec
from s3prl_pruned.models.dummies import random_encoder, random_masks, tiny_base, tiny_families
from s3prl_pruned.models.linear import LowRankLinear, linear
from s3prl_pruned.models.spec import CompactSpec, Ranks
from s3prl_pruned.sparsity.counts import macs, parameters, prunable_weights, realised_sparsity
from s3prl_pruned.timing.work import macs_by_torch

RANKS = (Ranks(q_proj=3, k_proj=5, v_proj=2, out_proj=7, fc1=4, fc2=6), Ranks(fc2=1), Ranks())


def factored(config):
    """A dense structure whose first layer is held in factors, and whose second is so in part."""
    layers = CompactSpec.dense(config).layers
    ranks = (*RANKS, *[Ranks()] * config.num_layers)
    return CompactSpec(layers=tuple(dataclasses.replace(layer, ranks=r) for layer, r in zip(layers, ranks)))


def test_factors_compute_their_product():
    module = linear(5, 7, rank=2)
    assert isinstance(module, LowRankLinear)
    x = torch.randn(3, 5)
    expected = torch.nn.functional.linear(x, module.up.weight @ module.down.weight, module.up.bias)
    torch.testing.assert_close(module(x), expected)
    assert {tuple(p.shape) for p in module.parameters()} == {(2, 5), (7, 2), (7,)}


@pytest.mark.parametrize("name", tiny_families())
def test_parameters_of_factors_sum_to_numel(name):
    config = tiny_families()[name]
    spec = factored(config)
    encoder = random_encoder(config, seed=0, spec=spec)
    assert sum(parameters(config, spec).values()) == sum(p.numel() for p in encoder.parameters())


def test_macs_of_factors_are_torchs_count():
    config = tiny_base()
    spec = factored(config)
    assert sum(macs(config, spec, 2000).values()) == macs_by_torch(config, spec, 2000)
    assert sum(macs(config, CompactSpec.dense(config), 2000).values()) != macs_by_torch(config, spec, 2000)


def test_sparsity_counts_the_factors_weights():
    config = tiny_base()  # 24 dims, FFN 20
    first = (3 + 5 + 2 + 7) * (24 + 24) + (4 + 6) * (24 + 20)
    second = 4 * 24 * 24 + 24 * 20 + 1 * (24 + 20)
    whole = 4 * 24 * 24 + 2 * 24 * 20
    assert prunable_weights(config, factored(config)) == first + second + whole
    assert realised_sparsity(config, factored(config)) == pytest.approx(1 - (first + second + whole) / (3 * whole))


@pytest.mark.parametrize("seed", range(4))
def test_masked_factors_equal_sliced_factors(seed):
    """In float64: folding and slicing factors changes nothing; and a mask that differs is noticed."""
    config = tiny_base()
    spec = factored(config)
    encoder = random_encoder(config, seed=seed, spec=spec).double()
    masks = random_masks(spec, seed=seed).to(torch.float64)
    small = export_compact(encoder, masks, surviving_spec(spec, masks))
    wavs = torch.randn(2, 1600, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def states(model):
        with torch.no_grad():
            return torch.stack(model(wavs).hidden_states)

    encoder.set_masks(masks)
    assert (states(small) - states(encoder)).abs().max() < 1e-9
    encoder.set_masks(random_masks(spec, seed=seed + 100))
    assert (states(small) - states(encoder)).abs().max() > 1e-3


def test_factors_are_saved_loaded_and_quantised(tmp_path, relative_differences):
    config = tiny_base()
    encoder = random_encoder(config, seed=1, spec=factored(config))
    save_encoder(tmp_path / "export", encoder, {})
    loaded, _ = load_encoder(tmp_path / "export")
    assert loaded.spec == encoder.spec and loaded.spec.layers[0].ranks == RANKS[0]
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in encoder.state_dict().items())
    wavs = torch.randn(1, 1600)
    with torch.no_grad():
        expected = encoder(wavs).hidden_states
        assert max(relative_differences(loaded(wavs).hidden_states, expected)) <= 2e-5
        loaded.layers[0].attention.q_proj.up.weight.mul_(1.5)
        assert max(relative_differences(loaded(wavs).hidden_states, expected)) > 10 * 2e-5
        assert torch.isfinite(quantize_int8(encoder)(wavs).hidden_states[-1]).all()


@pytest.mark.slow
def test_factors_are_what_transformers_and_onnx_runtime_compute_too(tmp_path):
    """Both exports load themselves elsewhere and compare; one that differs is not written."""
    encoder = random_encoder(tiny_base(), seed=1, spec=factored(tiny_base()))
    save_huggingface(tmp_path / "folder", encoder, {})
    save_onnx(tmp_path / "model.onnx", encoder)
    assert load_encoder(tmp_path / "folder")[0].spec == encoder.spec


def test_structures_without_factors_are_written_as_before():
    config = tiny_base()
    plain = CompactSpec.dense(config).to_dict()
    assert all("ranks" not in layer for layer in plain["layers"])
    assert from_dict(CompactSpec, plain, "spec") == CompactSpec.dense(config)
    assert from_dict(CompactSpec, factored(config).to_dict(), "spec") == factored(config)


def test_impossible_ranks_are_refused():
    config = tiny_base()
    layers = CompactSpec.dense(config).layers

    def spec(**changes):
        return CompactSpec(layers=(dataclasses.replace(layers[0], **changes), *layers[1:]))

    with pytest.raises(UserError, match="layer 0 of the spec: ranks must be from 1 to 24, but are {'q_proj': 0}"):
        spec(ranks=Ranks(q_proj=0)).check(config)
    with pytest.raises(UserError, match="ranks must be from 1 to 24, but are {'fc1': 25}"):
        spec(ranks=Ranks(fc1=25)).check(config)
    with pytest.raises(UserError, match="has ranks of a sublayer that it removes: {'fc1': 2}"):
        spec(feed_forward=False, ffn=(), ranks=Ranks(fc1=2)).check(config)
    with pytest.raises(UserError, match="layer 0 of the spec changes ranks"):
        compact(random_encoder(config, seed=0), spec(ranks=Ranks(fc1=2)))
