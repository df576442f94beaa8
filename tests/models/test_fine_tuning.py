"""What fine-tuning needs of an encoder: pickling, and no parameter that waits for a gradient in vain."""

import copy
import pickle

import pytest
import torch

from s3prl_pruned.formats.folder import load_encoder, save_encoder
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.components import WeightNormConv1d
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families, tiny_peculiar
from s3prl_pruned.models.encoder import freeze_idle
from s3prl_pruned.upstream.expert import UpstreamExpert

SHAPES = tiny_families() | tiny_peculiar()


def backward(encoder):
    encoder.train()
    wavs = torch.randn(2, 1500, generator=torch.Generator().manual_seed(0)) * 0.1
    encoder.encode_raw(wavs, torch.tensor([1500, 900])).hidden_states[-1].pow(2).mean().backward()
    return {name for name, parameter in encoder.named_parameters() if parameter.grad is None}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_without_a_gradient_are_frozen(name):
    config = SHAPES[name]
    for seed in range(6):
        spec = random_spec(config, seed=seed, channels=seed % 2 == 1, positions=seed % 2 == 1)
        without = backward(random_encoder(config, seed=0, spec=spec))
        encoder = accelerate(random_encoder(config, seed=0, spec=spec))
        freeze_idle(encoder)
        frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
        empty = {name for name, parameter in encoder.named_parameters() if not parameter.numel()}
        assert frozen - empty == without - empty and without <= frozen


def test_an_export_and_an_upstream_are_ready_for_plain_distributed_data_parallel(tmp_path):
    config = SHAPES["wavlm_large"]
    save_encoder(tmp_path / "x", random_encoder(config, seed=0, spec=random_spec(config, seed=3)), {})
    for encoder in (load_encoder(tmp_path / "x")[0], UpstreamExpert(tmp_path / "x").model):
        without = backward(encoder)
        assert without and not [n for n, p in encoder.named_parameters() if p.requires_grad and n in without]


@pytest.mark.parametrize("name", tiny_peculiar())
@pytest.mark.parametrize("states", ["own", "s3prl"])
def test_a_model_with_states_of_its_own_waits_for_no_gradient_either(name, states, tmp_path):
    encoder = random_encoder(tiny_peculiar()[name], seed=0, spec=random_spec(tiny_peculiar()[name], seed=3))
    save_encoder(tmp_path / "x", encoder, {})
    upstream = UpstreamExpert(tmp_path / "x", states=states).train()
    wavs = [torch.randn(1500, generator=torch.Generator().manual_seed(0)) * 0.1]
    sum(state.pow(2).mean() for state in upstream(wavs)["hidden_states"]).backward()
    trained = {name for name, parameter in upstream.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in upstream.named_parameters() if parameter.grad is not None}


def test_weight_norm_is_torchs(relative_differences):
    ours = WeightNormConv1d(8, 6, groups=2)
    torch.manual_seed(1)
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(8, 8, 6, padding=3, groups=2), dim=2)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.mul_(torch.rand(6) + 0.5)
    ours.load_state_dict(theirs.state_dict())  # the same names
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 8, 20)
    found, expected = ours(x), theirs(x)
    assert torch.equal(found, expected)
    found.pow(2).sum().backward(), expected.pow(2).sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("name", ["wavlm_base", "data2vec_base"])
def test_an_upstream_is_pickled_and_copied(name, tmp_path):
    save_encoder(tmp_path / "x", random_encoder(SHAPES[name], seed=0, spec=random_spec(SHAPES[name], seed=3)), {})
    upstream, wav = UpstreamExpert(tmp_path / "x").eval(), torch.randn(1500) * 0.1
    with torch.no_grad():
        expected = upstream([wav])["hidden_states"]
        torch.save(upstream, tmp_path / "x.pt")
        loaded = torch.load(tmp_path / "x.pt", weights_only=False)
        for again in (pickle.loads(pickle.dumps(upstream)), loaded, copy.deepcopy(upstream)):
            assert all(torch.equal(a, b) for a, b in zip(again([wav])["hidden_states"], expected, strict=True))
            next(again.model.layers.parameters())[0] += 1  # a copy of its own
            assert torch.equal(upstream([wav])["last_hidden_state"], expected[-1])
