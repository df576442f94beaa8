"""MACs by the leaderboard's protocol equal those that its profiler prints and the leaderboard shows."""

import torch

from s3prl_pruned.models.families import hubert_base, named, wavlm_base
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.sparsity.leaderboard import UTTERANCES, leaderboard_macs


def test_hubert_base_has_exactly_the_macs_on_the_profilers_page():
    assert leaderboard_macs(hubert_base()) == 1_669_156_022_848


def test_the_extremes_are_those_of_the_profilers_page():
    """Most and fewest MACs per second of audio of one utterance: torch's counter, plus the extra terms by hand."""
    from s3prl_pruned.timing.work import macs_by_torch

    config = hubert_base()
    for samples, printed in ((326_000, 7922013353.619633), (20_560, 7002466614.785993)):
        frames = config.num_frames(samples)
        by_hand = 12 * frames * (4 * 768 + 4 * 12 * frames)
        total = macs_by_torch(config, CompactSpec.dense(config), samples) + by_hand
        assert abs(total / samples * 16000 - printed) < 1e-5


def test_wavlm_base_has_the_leaderboards_1670_g():
    assert round(leaderboard_macs(wavlm_base()) / 1e9) == 1670


def test_the_utterances_are_32_of_1_28_to_20_38_seconds():
    assert len(UTTERANCES) == 32 and list(UTTERANCES) == sorted(UTTERANCES)
    assert (UTTERANCES[0] / 16000, UTTERANCES[-1] / 16000) == (1.285, 20.375)  # "1.28~20.38 sec"


def test_a_pruned_model_is_counted_by_its_kept_structure():
    config = named("wavlm_base")
    dense = CompactSpec.dense(config)
    layers = (LayerSpec(attention=False, heads=(), feed_forward=False, ffn=()), *dense.layers[1:])
    without = leaderboard_macs(config, CompactSpec(layers=layers))
    frames = torch.tensor([config.num_frames(samples) for samples in UTTERANCES])
    layer = 4 * 768 * 768 + 2 * 768 * 3072 + 4 * 768 + 12 * 64 * 8  # per frame: maps, biases and scale, gate
    of_layer = int(frames.sum()) * layer + int((frames**2).sum()) * (2 * 768 + 4 * 12)
    assert leaderboard_macs(config) - without == of_layer
