"""Whisper's encoder as an upstream of s3prl: constant number of states, 50 Hz, audio of any length; and distilled."""

import pytest
import torch

from s3prl_pruned.formats.folder import load_encoder, save_encoder
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_whisper
from s3prl_pruned.pretrain.command import main
from tests.whisper_files import openai_checkpoint

LENGTHS = {"0.1 s": 1600, "29.99 s": 479_840, "30 s": 480_000, "65 s": 1_040_000}


@pytest.fixture(params=["utterance", "padded"])
def upstream(request, hub, tmp_path):
    """A pruned encoder with windows of 30 s."""
    config = tiny_whisper(max_frames=1500, num_layers=2, window=request.param)
    save_encoder(
        tmp_path / "export", random_encoder(config, seed=1, spec=random_spec(config, seed=2)), {"teacher_note": None}
    )
    return hub.whisper_pruned_local(ckpt=str(tmp_path / "export"), model_config=None, refresh=False)


def test_states_rate_and_frames_are_as_s3prl_expects_at_every_length(upstream):
    from s3prl.upstream.interfaces import Featurizer

    featurizer = Featurizer(upstream, feature_selection="hidden_states", upstream_device="cpu")
    assert featurizer.layer_num == 3 and featurizer.downsample_rate == 320
    generator = torch.Generator().manual_seed(0)
    for samples in LENGTHS.values():
        wav = 0.1 * torch.randn(samples, generator=generator)
        with torch.no_grad():
            states = upstream([wav])["hidden_states"]
            assert len(featurizer([wav], upstream([wav]))[0]) == round(samples / 320)
        assert [state.shape for state in states] == [(1, round(samples / 320), 24)] * 3
        assert all(state.isfinite().all() for state in states)


def test_utterances_on_both_sides_of_a_window_share_a_batch(upstream, relative_differences):
    generator = torch.Generator().manual_seed(1)
    wavs = [0.1 * torch.randn(samples, generator=generator) for samples in (500_000, 8000)]
    with torch.no_grad():
        batch = upstream(wavs)["hidden_states"]
        for i, wav in enumerate(wavs):
            single = upstream([wav])["hidden_states"]
            mine = [state[i : i + 1, : single[0].shape[1]] for state in batch]
            assert max(relative_differences(mine, single)) < 2e-5


@pytest.mark.parametrize("window", ["own", "padded"])
def test_it_is_distilled_and_pruned_from_openais_file(window, recipe, tmp_path):
    teacher = tmp_path / "tiny.pt"
    torch.save(openai_checkpoint(random_encoder(tiny_whisper(ffn_dim=96), seed=0)), teacher)
    arguments = ["-u", "whisper_pruned_distill", "--recipe", str(recipe.recipe), "--teacher", str(teacher)]
    arguments += ["--corpus", str(recipe.corpus), "-p", str(tmp_path / "run"), "--device", "cpu"]
    folder = main([*arguments, "-o", f"student.window={window}"])
    encoder, provenance = load_encoder(folder / "export")
    assert encoder.config.family == "whisper" and provenance["teacher"]["name"] == str(teacher)
    assert encoder.config.window == ("padded" if window == "padded" else "utterance")
