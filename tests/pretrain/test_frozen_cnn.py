"""With `student.feature_grad_mult: 0` the CNN is computed once for both models, with the same results as twice."""

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.encoder import SpeechEncoder
from tests.pretrain.test_interruption import assert_same_to_rounding

FROZEN = ("-o", "student.feature_grad_mult=0,,runner.total_steps=4")


@pytest.fixture
def calls(monkeypatch):
    """List with one entry per call of any CNN."""
    from s3prl_pruned.models.cnn import FeatureExtractor

    counted, real = [], FeatureExtractor.forward
    monkeypatch.setattr(FeatureExtractor, "forward", lambda self, wavs: counted.append(None) or real(self, wavs))
    return counted


def test_one_cnn_pass_per_step_gives_the_results_of_two(recipe, tmp_path, monkeypatch, calls):
    shared = recipe.train(tmp_path / "shared", *FROZEN)
    once = len(calls)
    real = SpeechEncoder.forward

    shift = 0

    def twice(self, wavs, lengths=None, *, features=None):
        return real(self, wavs.roll(shift, dims=1), lengths)

    monkeypatch.setattr(SpeechEncoder, "forward", twice)
    separate = recipe.train(tmp_path / "separate", *FROZEN)
    assert len(calls) - once > once, "the second run must compute it twice"
    assert_same_to_rounding(shared, separate)
    shift = 100
    other = recipe.train(tmp_path / "other", *FROZEN)
    with pytest.raises(AssertionError):
        assert_same_to_rounding(shared, other)


def test_a_frozen_cnn_stays_the_teachers_and_a_trained_one_does_not(recipe, tmp_path):
    teacher = read(recipe.teacher).encoder.feature_extractor.state_dict()

    def moved(folder, *more):
        student = checkpoint.load_checkpoint(recipe.train(folder, *more) / "latest")["Student"]
        return [name for name, value in teacher.items() if not torch.equal(student[f"feature_extractor.{name}"], value)]

    assert moved(tmp_path / "frozen", *FROZEN) == []
    assert moved(tmp_path / "trained")
