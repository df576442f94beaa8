"""What the benchmark of Whisper's decoder does besides decoding: rates, windows, and errors."""

import sys

import pytest
import torch

from benchmarks.whisper_decode import load_decoder, rates, whole_window
from s3prl_pruned.config import UserError
from s3prl_pruned.models.dummies import random_encoder, tiny_whisper
from s3prl_pruned.superb.metrics.edits import word_and_character_error_rates


def test_rates_are_the_benchmarks_own_with_intervals_around_them():
    references = {"a": "PRESS ONE", "b": "YOU ARE NO LONGER MUTED", "c": "BYE", "d": "P"}
    found = {"a": "PRESS WON", "b": "YOU ARE LONGER MUTED", "c": "BYE", "d": "PEE"}
    made = rates(found, references)
    for rate in word_and_character_error_rates(found, references):
        value, low, high = made[rate.name]
        assert value == pytest.approx(rate.value) and low < value < high


def test_the_decoder_gets_all_frames_of_a_padded_window():
    encoder, wav = random_encoder(tiny_whisper(window="padded"), seed=0), torch.randn(3000)
    states = whole_window(encoder, wav)
    assert states.shape == (1, 25, 24)
    with torch.no_grad():
        torch.testing.assert_close(states[:, :9], encoder(wav[None]).hidden_states[-1], atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="at most 8000 samples to be decoded at once, but has 8001"):
        whole_window(encoder, torch.zeros(8001))


def test_a_missing_decoder_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "whisper", None)
    with pytest.raises(UserError, match="pip install --no-deps openai-whisper"):
        load_decoder(tmp_path / "tiny.en.pt")
