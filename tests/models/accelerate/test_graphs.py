"""The encoder in buckets of lengths, as CUDA graphs want it, computes what the encoder computes at the true length."""

import copy
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.accelerate.graphs import GraphedEncoder, bucket, graphed
from s3prl_pruned.models.dummies import (
    random_encoder,
    random_masks,
    random_spec,
    tiny_base,
    tiny_families,
    tiny_peculiar,
    tiny_whispers,
)

SHAPES = tiny_families() | tiny_peculiar() | tiny_whispers()


def in_buckets(encoder, **options):
    """`graphed` where there is no GPU: what would be captured runs each time. Captures are counted."""
    captured = []
    made = GraphedEncoder(encoder, capture=lambda function, another: captured.append(1) or function, **options)
    return made, captured


def worst(found, expected):
    """The largest difference, relative to the state's largest value or 1."""
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(found, expected, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from(sorted(SHAPES)),
    samples=st.lists(st.integers(100, 3000), min_size=2, max_size=4),
    padded=st.booleans(),
)
def test_every_structure_and_length_in_float64(seed, shape, samples, padded):
    config = SHAPES[shape]
    encoder = random_encoder(config, seed=seed, spec=random_spec(config, seed=seed)).double()
    calls, _ = in_buckets(accelerate(encoder))
    for size in samples:  # one after the other: what a longer one left behind must not be heard
        wavs = torch.randn(2, size).double()
        lengths = torch.tensor([size, max(90, size // 2)]) if padded else None
        with torch.inference_mode():
            found, expected = calls(wavs, lengths), encoder(wavs, lengths)
            published = encoder.states(found), encoder.states(expected)
        assert torch.equal(found.frame_lengths, expected.frame_lengths)
        assert [state.shape for state in found.hidden_states] == [state.shape for state in expected.hidden_states]
        assert worst(found.hidden_states, expected.hidden_states) < 1e-9
        assert worst(*published) < 1e-9


@pytest.mark.parametrize("shape", ["wavlm_base", "hubert_base"])
def test_nan_of_an_earlier_input_does_not_spread(shape):
    encoder = accelerate(random_encoder(SHAPES[shape], seed=0))
    calls, captured = in_buckets(encoder)
    broken, wavs = torch.randn(1, 2000), torch.randn(1, 1950)
    broken[0, -1] = torch.nan
    with torch.inference_mode():
        assert not calls(broken).hidden_states[0].isfinite().all()
        found, expected = calls(wavs).hidden_states, encoder(wavs).hidden_states
    assert captured == [1], "both are of one bucket"
    assert worst(found, expected) < 1e-4


def test_a_wrong_length_would_be_noticed(monkeypatch):
    encoder = accelerate(random_encoder(tiny_base(), seed=0).double())
    calls, _ = in_buckets(encoder)
    wavs = torch.randn(1, 1950).double()
    with torch.inference_mode():
        expected = encoder(wavs).hidden_states
        monkeypatch.setattr(encoder, "frame_lengths", lambda lengths, wavs, frames: torch.tensor([frames - 1]))
        assert worst(calls(wavs).hidden_states, expected) > 1e-4


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 63, 64, 65, 100, 749, 3000])
def test_buckets_hold_their_frames_and_little_more(frames):
    assert frames <= bucket(frames) <= max(frames + 7, 1.125 * frames)
    assert bucket(bucket(frames)) == bucket(frames)


def test_graphs_are_few_and_made_once():
    encoder = accelerate(random_encoder(tiny_base(), seed=0))
    calls, captured = in_buckets(encoder, max_graphs=2, max_frames=200)
    with torch.inference_mode():
        for size, expected in ((2000, 1), (2001, 1), (400, 2), (2000, 2), (3000, 3), (2000, 3), (400, 4)):
            calls(torch.randn(1, size))
            assert len(captured) == expected, size
        calls(torch.randn(1, 40_000))  # too long for a graph
    assert len(captured) == 4


def test_training_and_gradients_call_the_encoder_itself():
    encoder = accelerate(random_encoder(tiny_base(), seed=0))
    calls, captured = in_buckets(encoder)
    assert calls(torch.randn(1, 2000)).hidden_states[-1].requires_grad
    with torch.inference_mode():
        encoder.set_masks(random_masks(encoder.spec, seed=0))
        calls(torch.randn(1, 2000))
        assert captured == [1]
        encoder.set_masks(None)
        calls(torch.randn(1, 2000))
    assert captured == [1, 1], "what lies elsewhere is captured anew"


def test_moved_weights_are_captured_again():
    encoder = accelerate(random_encoder(tiny_base(), seed=0))
    calls, captured = in_buckets(encoder)
    wavs = torch.randn(1, 2000)
    with torch.inference_mode():
        calls(wavs)
        encoder.load_state_dict(random_encoder(tiny_base(), seed=9).state_dict())  # in place: the graph reads them
        assert worst(calls(wavs).hidden_states, encoder(wavs).hidden_states) < 1e-5 and captured == [1]
        encoder.load_state_dict(copy.deepcopy(encoder.state_dict()), assign=True)
        calls(wavs)
    assert captured == [1, 1]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_replays_are_the_encoder(shape, dtype):
    config = SHAPES[shape]
    encoder = accelerate(random_encoder(config, seed=3, spec=random_spec(config, seed=3))).cuda()
    exact = copy.deepcopy(encoder).cpu().double()
    calls = graphed(encoder.to(dtype), max_graphs=3)
    limit = 1e-4 if dtype == torch.float32 else 0.1
    for size in (2000, 1500, 2500, 300, 2000, 1999):
        wavs = torch.randn(2, size)
        lengths = torch.tensor([size, size // 2])
        with torch.inference_mode():
            found = encoder.states(calls(wavs.cuda().to(dtype), lengths.cuda()))
            expected = exact.states(exact(wavs.double(), lengths))
        assert worst([state.cpu().double() for state in found], expected) < limit
    del calls
    gc.collect()
