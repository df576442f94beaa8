"""The head for speaker verification against s3prl's own expert: loss, gradients and embeddings on the same features."""

from types import SimpleNamespace

import pytest
import torch

from s3prl_pruned import compat
from s3prl_pruned.compat import experts
from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.verification import FEWEST_FRAMES, SpeakerHead, SpeakerHeadConfig

SPEAKERS = [2, 0, 2, 4]


@pytest.fixture(scope="module")
def s3prls():
    compat.apply()
    return experts.import_expert("sv_voxceleb1").DownstreamExpert


def states_and_head():
    torch.manual_seed(0)
    head = SpeakerHead(3, 6, 5, SpeakerHeadConfig(input_dim=24, agg_dim=10)).double()
    with torch.no_grad():
        head.layers.weights.copy_(torch.tensor([0.3, -1.0, 0.8]))
        extractor = head.model.utterancelevel_feature_extractor
        for layer in (extractor.linear1, extractor.linear2):
            layer.bias.add_(0.2)  # so that few units are cut off by ReLU
    return [torch.randn(4, 20, 6, dtype=torch.float64) for _ in range(3)], head


def theirs(expert, states, head, mode):
    """What s3prl's `Featurizer` and `DownstreamExpert` compute with the weights of our head."""
    from s3prl.upstream.interfaces import Featurizer

    featurizer = SimpleNamespace(layer_num=3, normalize=False, weights=head.layers.weights)
    features = Featurizer._weighted_sum(featurizer, states)
    modules = {name: getattr(head, name) for name in ("connector", "model", "objective")}
    records = {"loss": []}
    own = SimpleNamespace(**modules, modelrc={"module": "XVector"})
    loss = expert.forward(own, mode, list(features), list(range(4)), SPEAKERS, records)
    return loss if mode == "train" else torch.stack([records[number] for number in range(4)])


def gradients(head, loss):
    names, weights = zip(*head.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, weights)))


def test_loss_and_gradients_are_those_of_s3prls_expert(s3prls, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)  # s3prl's expert calls it
    states, head = states_and_head()
    loss, expected = head(states, torch.tensor(SPEAKERS)) / 4, theirs(s3prls, states, head, "train")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    ours, others = gradients(head, loss), gradients(head, expected)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.abs().sum() > 1e-4, name
    with torch.no_grad():
        head.layers.weights[0] += 0.01
        moved = head(states, torch.tensor(SPEAKERS)) / 4
    assert abs(float(moved - expected.detach())) > 1e-6


def test_embeddings_are_those_of_s3prls_expert(s3prls, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    states, head = states_and_head()
    with torch.no_grad():
        ours = head.embed(states)
        torch.testing.assert_close(ours, theirs(s3prls, states, head, "test"), rtol=1e-12, atol=1e-14)
        states[1][0] += 0.1
        assert (head.embed(states)[0] - ours[0]).abs().max() > 1e-6
    assert torch.allclose(ours.norm(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:std()")  # of one frame
def test_the_fewest_frames_are_the_fewest_with_a_finite_loss():
    states, head = states_and_head()
    for frames, finite in ((FEWEST_FRAMES, True), (FEWEST_FRAMES - 1, False)):
        loss = head([state[:, :frames] for state in states], torch.tensor(SPEAKERS))
        assert bool(torch.isfinite(loss)) == finite


@pytest.mark.parametrize("wrong", [{"margin": 1.0}, {"scale": 0.0}, {"agg_dim": 0}])
def test_wrong_settings_are_named(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"`{name}` must be"):
        SpeakerHeadConfig(**wrong).validate()
