"""Shares of the time: they are the parts' shares and sum to one."""

import pytest
import torch
from torch import nn

from s3prl_pruned.models.dummies import random_encoder, tiny_base
from s3prl_pruned.timing import shares as shares_module
from s3prl_pruned.timing.shares import shares


class Clock:
    now = 0.0


class Work(nn.Module):
    """Advances a clock that nothing else advances."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        Clock.now += self.seconds
        return x


class Layer(nn.Module):
    """As in s3prl: the feed-forward is two linear maps with something in between."""

    def __init__(self):
        super().__init__()
        self.self_attn, self.fc1, self.fc2 = Work(10), Work(5), Work(5)

    def forward(self, x):
        x = self.fc1(self.self_attn(x))
        Clock.now += 10
        return self.fc2(x)


class Model(nn.Module):
    def __init__(self, skip=False):
        super().__init__()
        self.feature_extractor, self.pos_conv = Work(40), Work(20)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.skip = skip

    def forward(self, x):
        x = self.feature_extractor(x)
        x = x if self.skip else self.pos_conv(x)
        for layer in self.layers:
            x = layer(x)
        Clock.now += 40
        return x


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(shares_module, "_now", lambda device: Clock.now)


def test_shares_are_those_of_the_parts_and_sum_to_one(clock):
    model = Model()
    found = shares(model, lambda batch: model(batch[0]), [torch.zeros(1)])
    expected = {"cnn": 40, "positional_convolution": 20, "attention": 20, "feed_forward": 40, "other": 40}
    assert found == {part: pytest.approx(seconds / 160) for part, seconds in expected.items()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_part_that_does_not_run_as_a_module_is_not_guessed(clock):
    model = Model(skip=True)
    found = shares(model, lambda batch: model(batch[0]), [torch.zeros(1)])
    assert found["positional_convolution"] is None and found["other"] is None
    assert found["cnn"] > 0


def test_shares_of_our_encoder_cover_every_part():
    encoder = random_encoder(tiny_base(), seed=0)
    found = shares(encoder, lambda batch: encoder(batch[0][None]), [torch.randn(4000)])
    assert all(share > 0 for share in found.values())
