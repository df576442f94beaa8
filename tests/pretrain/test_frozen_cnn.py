"""With `student.feature_grad_mult: 0` the CNN is computed once for teacher and student, and that changes no number."""

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.load import load_dense
from tests.pretrain.test_interruption import trajectory

FROZEN = ("-o", "student.feature_grad_mult=0,,runner.total_steps=4")


@pytest.fixture
def calls(monkeypatch):
    """How often any CNN ran."""
    from s3prl_pruned.models.components import FeatureExtractor

    counted, real = [], FeatureExtractor.forward
    monkeypatch.setattr(FeatureExtractor, "forward", lambda self, wavs: counted.append(None) or real(self, wavs))
    return counted


def test_one_cnn_pass_a_step_gives_the_numbers_of_two(recipe, tmp_path, monkeypatch, calls):
    shared = recipe.train(tmp_path / "shared", *FROZEN)
    once = len(calls)
    real = SpeechEncoder.forward

    def twice(self, wavs, lengths=None, *, features=None):
        return real(self, wavs, lengths)

    monkeypatch.setattr(SpeechEncoder, "forward", twice)
    separate = recipe.train(tmp_path / "separate", *FROZEN)
    assert len(calls) - once > once, "the second run did compute it for each"
    assert trajectory(shared) == trajectory(separate)


def test_a_frozen_cnn_stays_the_teachers_and_a_trained_one_does_not(recipe, tmp_path):
    teacher = load_dense(recipe.teacher).feature_extractor.state_dict()

    def moved(folder, *more):
        student = checkpoint.load_checkpoint(recipe.train(folder, *more) / "latest")["Student"]
        return [name for name, value in teacher.items() if not torch.equal(student[f"feature_extractor.{name}"], value)]

    assert moved(tmp_path / "frozen", *FROZEN) == []
    assert moved(tmp_path / "trained")
