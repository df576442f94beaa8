"""Attention maps and their diagonality: known maps, the encoder's own, and the report on pruned heads."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.diagonality import report as diagonality_report
from benchmarks.diagonality.measure import compare, diagonality, fate, mean_distance, measure
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import save_encoder
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.compact import compact
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_families
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from tests.models.test_low_rank import factored
from tests.tiny_run import TinyRecipe, tiny_wavlm

ROOT = Path(__file__).resolve().parents[2]


def test_known_maps_have_known_values():
    frames = 200
    assert float(diagonality(torch.eye(frames))) == 0
    shifted = torch.eye(frames).roll(3, dims=1)  # keys three frames later; for the last three queries, at the beginning
    assert float(mean_distance(shifted)) == pytest.approx(((frames - 3) * 3 + 3 * (frames - 3)) / frames)
    uniform = torch.full((frames, frames), 1 / frames)
    assert float(diagonality(uniform)) == pytest.approx(-1 / 3, abs=1e-4)
    last = torch.zeros(frames, frames)
    last[:, -1] = 1  # a vertical map
    assert float(diagonality(last)) == pytest.approx(-0.5, abs=0.01)


def test_the_measure_is_the_papers_sum_written_out():
    weights = torch.rand(4, 9, 9).softmax(-1)
    for head in range(4):
        total = sum(abs(q - k) * float(weights[head, q, k]) for q in range(9) for k in range(9))
        assert float(diagonality(weights)[head]) == pytest.approx(-total / 81, rel=1e-5)


@pytest.mark.parametrize("name", tiny_families())
@pytest.mark.parametrize("structure", ["dense", "ragged", "factors"])
def test_the_maps_are_those_that_the_encoder_attends_with(name, structure):
    """Values weighed with them and projected are the attention's output; perturbed maps are not."""
    config = tiny_families()[name]
    spec = {"dense": None, "ragged": random_spec(config, seed=4), "factors": factored(config)}[structure]
    encoder = accelerate(random_encoder(config, seed=0, spec=spec))  # its heads use the bias by distance, too
    x, padding = torch.randn(2, 11, config.embed_dim), torch.arange(11) >= torch.tensor([[11], [7]])
    bias = encoder.relative_position(11) if encoder.relative_position is not None else None
    by_distance = encoder.relative_position.by_distance(11) if encoder.relative_position is not None else None
    for layer in encoder.layers:
        attention = layer.attention
        if attention is None or not attention.heads.values:
            continue
        with torch.no_grad():
            maps = attention.weights(x, bias, padding)
            torch.testing.assert_close(maps, attention.weights(x, by_distance, padding))
            torch.testing.assert_close(maps.sum(-1), torch.ones(2, len(attention.heads.values), 11))

            def output(maps, attention=attention):
                return attention.out_proj(
                    attention.vo_heads.merge(maps @ attention.vo_heads.split(attention.v_proj(x)))
                )

            torch.testing.assert_close(output(maps), attention(x, bias, padding), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(output(maps.flip(-1)), attention(x, bias, padding), atol=1e-3)


def test_removed_heads_are_not_measured_and_the_others_keep_their_numbers():
    config = tiny_base()
    dense = CompactSpec.dense(config)
    layer = LayerSpec(attention=True, heads=dense.layers[0].heads[1:4:2], feed_forward=True, ffn=dense.layers[0].ffn)
    encoder = random_encoder(config, seed=0)
    small = compact(encoder, CompactSpec(layers=(layer, *dense.layers[1:])))
    wavs = [torch.randn(1500), torch.randn(2500)]
    before, after = ({(h.layer, h.head): h for h in measure(model, wavs)} for model in (encoder, small))
    assert set(after) == {(1, 2), (1, 4)} | {(layer, head) for layer in (2, 3) for head in (1, 2, 3, 4)}
    assert after[1, 4].diagonality == pytest.approx(before[1, 4].diagonality), "layer 1 sees the same input"
    assert all(-1 < head.diagonality < 0 < head.distance for head in after.values())
    alone = [{(h.layer, h.head): h.distance for h in measure(encoder, [wav])} for wav in wavs]
    assert before[2, 3].distance == pytest.approx((alone[0][2, 3] + alone[1][2, 3]) / 2), "utterances weigh alike"


def test_the_fate_of_heads_averages_their_diagonality_before_pruning():
    def heads(values):
        return [{"layer": 1, "head": number, "diagonality": value} for number, value in values.items()]

    found = fate(heads({1: -0.1, 2: -0.2, 3: -0.3}), heads({1: -0.05, 3: -0.4}))
    assert found == {
        "kept": 2,
        "removed": 1,
        "kept_before": pytest.approx(-0.2),
        "removed_before": -0.2,
        "kept_after": pytest.approx(-0.225),
    }
    assert fate(heads({1: -0.1}), heads({1: -0.1}))["removed_before"] is None


@pytest.mark.slow
def test_the_command_writes_a_table_and_a_picture(tmp_path):
    tiny = TinyRecipe(tmp_path)
    config = tiny_wavlm()
    dense = CompactSpec.dense(config)
    layer = LayerSpec(attention=True, heads=dense.layers[0].heads[:1], feed_forward=True, ffn=dense.layers[0].ffn)
    small = compact(random_encoder(config, seed=0), CompactSpec(layers=(layer, *dense.layers[1:])))
    save_encoder(tmp_path / "run/export", small, {"teacher_note": "random teacher"})
    command = [
        sys.executable,
        "-m",
        "benchmarks.diagonality",
        tiny.teacher,
        tmp_path / "run/export",
        "--corpus",
        tiny.corpus,
        "--limit",
        "3",
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/diagonality.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "out/diagonality.md").read_text()
    assert (
        table in done.stdout
        and "RANDOM TEACHER" in table
        and "| 1 | 2 | -0." in table
        and "the 3 removed heads had -0." in table
    )
    assert next(line for line in table.splitlines() if line.startswith("| 1 | 2 |")).endswith("| - |")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/diagonality.csv").read_text())))
    assert len(rows) == 12 + 9
    again = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert again.returncode == 2 and "exists already" in again.stderr


def test_models_of_other_shapes_are_refused(tmp_path):
    tiny = TinyRecipe(tmp_path)
    save_encoder(tmp_path / "export", random_encoder(tiny_base(num_layers=2), seed=0), {})
    with pytest.raises(
        UserError, match=r"one number of layers and heads to be compared, but have \[\(2, 4\), \(3, 4\)\]"
    ):
        compare([str(tiny.teacher), str(tmp_path / "export")], corpus=str(tiny.corpus), limit=1)
    assert pytest.approx(-0.3333, abs=1e-3) == diagonality_report.UNIFORM
