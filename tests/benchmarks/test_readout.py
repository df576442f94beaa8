"""The linear readout of the embedded teacher's states."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s3prl_pruned.formats.folder import save_encoder
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.distill.teachers import EMBEDDED_TEACHER

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_teacher_predicts_itself_and_random_weights_predict_less(tmp_path):
    teacher = read(EMBEDDED_TEACHER).encoder
    save_encoder(tmp_path / "teacher", teacher, {"method": "test"})
    torch.manual_seed(0)
    save_encoder(tmp_path / "random", SpeechEncoder(teacher.config), {"method": "test"})
    line = [
        sys.executable,
        ROOT / "benchmarks" / "readout.py",
        tmp_path / "teacher",
        tmp_path / "random",
        "--utterances",
        "6",
    ]
    result = subprocess.run(
        line, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 0, result.stderr
    itself, random = (list(map(float, row.split()[-8:])) for row in result.stdout.splitlines()[1:3])
    assert min(itself) > 0.85, "the penalty keeps it from 1"
    assert all(one > other + 0.1 for one, other in zip(itself[1:], random[1:], strict=True)), random
    assert itself[-1] == pytest.approx(sum(itself[:-1]) / 7, abs=2e-3)
