"""The input of timings: lengths, batches, a corpus."""

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.timing import inputs


def test_buckets_hold_similar_lengths_and_at_most_the_requested_seconds():
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
        (
            lambda: inputs.fixed(0.024, batch=1, seed=0, device="cpu"),
            "at least one frame .400 samples, 0.025 s., but is 0.024 s",
        ),
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
