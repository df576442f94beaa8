"""Shares of the time, MACs, and inputs: what stands beside the clock."""

import pytest
import torch
from torch import nn

from s3prl_pruned.config import UserError
from s3prl_pruned.measure.timing import inputs, work
from s3prl_pruned.measure.timing import shares as shares_module
from s3prl_pruned.measure.timing.shares import shares
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_large
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity import counts


class Clock:
    now = 0.0


class Work(nn.Module):
    """Takes its time on a clock that nothing else moves."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        Clock.now += self.seconds
        return x


class Layer(nn.Module):
    """As s3prl's: the feed-forward is two maps with something in between."""

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


@pytest.mark.parametrize("config", [tiny_base(), tiny_large(conv_bias=True, pos_conv_kernel=5)], ids=["base", "large"])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_macs_are_those_that_pytorch_counts(config, seed):
    spec = CompactSpec.dense(config) if seed is None else random_spec(config, seed=seed, channels=seed == 1)
    assert work.macs_of(config, spec, [[torch.empty(3000)]]) == work.macs_by_torch(config, spec, 3000)
    assert work.macs_of(config, spec, [[torch.empty(3001 + 80)]]) != work.macs_by_torch(config, spec, 3000)


def test_macs_of_a_batch_count_its_padding():
    config = tiny_base()
    spec = CompactSpec.dense(config)
    one = sum(counts.macs(config, spec, 4000).values())
    assert work.macs_of(config, spec, [[torch.empty(4000), torch.empty(500)]]) == 2 * one
    apart = work.macs_of(config, spec, [[torch.empty(4000)], [torch.empty(500)]])
    assert one < apart < 2 * one


def test_buckets_hold_neighbours_and_no_more_seconds_than_asked_for():
    wavs = [torch.zeros(16_000 * n) for n in (3, 9, 1, 4, 2, 20)]
    batches = inputs.bucketed(wavs, 8)
    assert [[len(wav) // 16_000 for wav in batch] for batch in batches] == [[1, 2], [3, 4], [9], [20]]


def test_nothing_is_padded_in_buckets_of_exact_length():
    wavs = [torch.zeros(n) for n in (500, 400, 500, 600, 400)]
    assert [[len(wav) for wav in batch] for batch in inputs.unpadded(wavs)] == [[400, 400], [500, 500], [600]]


def test_mixed_lengths_are_spread_evenly_and_the_same_in_both_arrangements():
    workload = inputs.mixed(4, 10, 8, seed=0, device="cpu")
    (padded,) = workload.arrangements["padded"]
    lengths = sorted(len(wav) for wav in padded)
    assert (lengths[0], lengths[-1], len(set(lengths))) == (64_000, 160_000, 8)
    assert sum(lengths) / (8 * lengths[-1]) == pytest.approx(0.7)
    alone = [wav for batch in workload.arrangements["unpadded"] for wav in batch]
    assert sorted(map(id, alone)) == sorted(map(id, padded))
    assert workload.audio_s == pytest.approx(56)


def test_the_corpus_is_the_embedded_speech_one_at_a_time_and_in_buckets():
    single, bucketed = inputs.corpus(None, limit=5, bucket_s=10, device="cpu")
    assert "embedded dev, 5 utterances" in single.title
    assert [len(batch) for batch in single.arrangements["single"]] == [1] * 5
    together = bucketed.arrangements["bucketed"]
    assert sum(map(len, together)) == 5 > len(together)
    assert single.audio_s == bucketed.audio_s > 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: inputs.fixed(0.024, batch=1, seed=0, device="cpu"), "at least one frame .400 samples, 0.025 s., but is 0.024 s"),
        (lambda: inputs.fixed(1, batch=0, seed=0, device="cpu"), "`batch` must be at least 1, but is 0"),
        (lambda: inputs.mixed(0.01, 1, 4, seed=0, device="cpu"), "at least one frame"),
        (lambda: inputs.mixed(5, 4, 4, seed=0, device="cpu"), "the shorter first"),
        (lambda: inputs.mixed(4, 5, 1, seed=0, device="cpu"), "2 utterances or more"),
        (lambda: inputs.corpus(None, limit=0, bucket_s=8, device="cpu"), "must be positive"),
        (lambda: inputs.corpus("nowhere", limit=1, bucket_s=8, device="cpu"), "nowhere: no such corpus"),
    ],
)
def test_wrong_inputs_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
