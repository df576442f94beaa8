"""The latency table: its parts' times sum to the model's, for any structure; the tool writes one file, once."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s3prl_pruned.config import UserError
from s3prl_pruned.models.accelerate import paths
from s3prl_pruned.models.dummies import tiny_base, tiny_large, tiny_whisper
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec
from s3prl_pruned.sparsity.counts import EncoderCounts, macs
from s3prl_pruned.sparsity.latency import read_latency_table
from s3prl_pruned.timing import latency
from s3prl_pruned.timing.clock import TimingSetting
from s3prl_pruned.timing.latency import Stopwatch, describe_table, measure_table, sizes

ROOT = Path(__file__).resolve().parents[2]
SETTING = TimingSetting(baseline="", repeats=1)
SAMPLES = 2000


@pytest.fixture
def counting(monkeypatch):
    """A device on which a multiply-accumulate takes a nanosecond and all else no time: torch's own count."""

    def seconds(self, calls):
        found = []
        for call in calls:
            with (
                torch.no_grad(),
                sdpa_kernel(SDPBackend.MATH),
                FlopCounterMode(display=False) as counter,
            ):
                call()
            found.append(counter.get_total_flops() / 2 * 1e-9 + 1e-18)
        return found

    monkeypatch.setattr(Stopwatch, "seconds", seconds)
    monkeypatch.setattr(paths, "PATHS", {})  # the reference forms, whose products the counter counts


def thinned(config, heads, dims, ffn, channels):
    layer = LayerSpec(
        attention=heads > 0,
        heads=tuple(HeadSpec(index=i, qk=tuple(range(dims)), vo=tuple(range(dims))) for i in range(heads)),
        feed_forward=ffn > 0,
        ffn=tuple(range(ffn)),
    )
    return CompactSpec(layers=(layer,) * config.num_layers, channels=tuple(tuple(range(c)) for c in channels))


@pytest.mark.parametrize(
    "config",
    [tiny_base(), tiny_large(gated_position=False), tiny_base(embed_dim=12, num_heads=2)],
    ids=["base", "large", "no projection"],
)
def test_the_parts_that_are_measured_are_the_models_parts(counting, config):
    table = measure_table(config, SETTING, utterance_seconds=SAMPLES / 16_000)
    table.check(config)
    assert 1e9 * table.whole == pytest.approx(sum(macs(config, CompactSpec.dense(config), SAMPLES).values()), rel=1e-6)
    last = 5 if config.has_projection else 12
    for spec in (
        CompactSpec.dense(config),
        thinned(config, 2, 5, 13, (3, 7, 10, 1, last)),
        thinned(config, 1, 1, 0, (8, 1, 6, 12, last)),
        thinned(config, 0, 0, 20, (1, 2, 3, 4, last)),
        *(replace(CompactSpec.dense(config), position_groups=kept) for kept in ((), (2,), (0, 1, 3))),
    ):
        found = 1e9 * table.time(EncoderCounts.of(config, spec))
        assert found == pytest.approx(sum(macs(config, spec, SAMPLES).values()), rel=1e-6)


@pytest.mark.parametrize("window", ["utterance", "padded"])
def test_whispers_parts_are_measured_in_its_window(counting, window):
    """The log-mel spectrum counts as time of the CNN, although it is not part of the MACs."""
    config = tiny_whisper(window=window)
    table = measure_table(config, SETTING, utterance_seconds=0.3)
    assert table.time(EncoderCounts.dense(config, with_cnn=False)) == pytest.approx(table.whole, rel=1e-6)
    layers = sum(macs(config, CompactSpec.dense(config), 4800)[part] for part in ("attention", "feed_forward"))
    nothing = replace(EncoderCounts.dense(config, with_cnn=False), layers=[])
    assert 1e9 * (table.whole - table.time(nothing)) == pytest.approx(layers, rel=1e-6)
    with pytest.raises(UserError, match="an utterance of one window, but 0.6 s are 2"):
        measure_table(config, SETTING, utterance_seconds=0.6)


def test_the_screen_compares_the_parts_sum_with_the_whole(counting):
    lines = list(describe_table(measure_table(tiny_base(), SETTING, utterance_seconds=0.2)))
    assert "the parts' sum is 1.00 of the whole model's" in lines[1]


def test_sizes_are_ascending_and_end_with_the_whole():
    assert sizes(512) == [64, 192, 320, 512] and sizes(4) == [1, 2, 4] and sizes(2) == [1, 2]


def test_audio_without_a_frame_and_a_single_layer_are_refused():
    with pytest.raises(UserError, match="at least a frame, but 0.001 s is shorter"):
        measure_table(tiny_base(), SETTING, utterance_seconds=0.001)
    with pytest.raises(UserError, match="CNN of two layers or more"):
        measure_table(tiny_base(conv_layers=((8, 10, 5),)), SETTING)


def test_the_times_are_the_clocks(monkeypatch):
    """Real runs, repeated and interleaved; the median counts."""
    ticks = iter([[[3.0], [1.0, 2.0]], [[5.0], [4.0], [9.0]]])
    monkeypatch.setattr(latency, "interleaved", lambda timed, setting: {one.name: next(ticks) for one in timed})
    watch = Stopwatch(tiny_base(), SETTING, utterance_seconds=0.1, dtype=torch.float32)
    assert watch.seconds([lambda: None, lambda: None]) == [2.0, 5.0]


def test_the_tool_writes_a_table_once_and_of_one_shape(structure_file, tmp_path):
    def run(*more):
        command = [
            sys.executable,
            ROOT / "tools" / "timing.py",
            "--models",
            *more,
            "--lengths",
            "0.3",
            "--repeats",
            "1",
            "--device",
            "cpu",
        ]
        return subprocess.run(
            [*command, "--latency-table", tmp_path / "table.json"], capture_output=True, text=True, cwd=ROOT
        )

    done = run(str(structure_file))
    assert done.returncode == 0, done.stderr
    table = read_latency_table(tmp_path / "table.json")
    table.check(tiny_base(embed_dim=64, num_heads=4, ffn_dim=96))
    assert table.utterance_seconds == 0.3 and table.measured.threads == 1 and "of the whole model's" in done.stdout
    again = run(str(structure_file))
    assert again.returncode == 2 and "exists already, and is never overwritten" in again.stderr
    (tmp_path / "table.json").unlink()
    two = run(f"{structure_file},ours:dense")
    assert two.returncode == 2 and "`--latency-table` needs exactly one model and one length" in two.stderr
