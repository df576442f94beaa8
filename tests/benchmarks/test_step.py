"""The benchmark of a training step compares equal mathematics, and ends with a line that programs can read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_asserts_equal_losses_and_ends_with_json():
    line = [
        sys.executable,
        ROOT / "benchmarks" / "step.py",
        "--rounds",
        "1",
        "--layers",
        "2",
        "--seconds",
        "1",
        "--closed",
        "0.5",
        "--compile",
    ]
    result = subprocess.run(
        line, capture_output=True, text=True, timeout=580, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 0, result.stderr
    steps = json.loads(result.stdout.splitlines()[-1])["steps"]
    straightforward, same, frozen, checkpointing, compiled, frozen_compiled = steps.values()
    assert same["losses"] == pytest.approx(straightforward["losses"], rel=1e-4)
    assert checkpointing["losses"] == pytest.approx(same["losses"], rel=1e-5)
    assert compiled["losses"] == pytest.approx(same["losses"], rel=1e-5)
    assert frozen_compiled["losses"] == pytest.approx(frozen["losses"], rel=1e-5)
    assert all(row["operators"] > row["reads"] for row in steps.values())
    assert frozen["losses"][0] == pytest.approx(same["losses"][0], rel=1e-5), "before the first step the recipes agree"
    assert frozen["losses"][1] != pytest.approx(same["losses"][1], rel=1e-4), "then the CNN moves in one of them"
    assert all(row["seconds"] > 0 for row in steps.values())
