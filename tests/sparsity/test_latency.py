"""Interpolated times from a table of parts: exact if the device follows the table's assumptions, differentiable, and
damaged files are refused."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.models.dummies import random_spec, tiny_base
from s3prl_pruned.models.families import hubert_base, wavlm_base
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import EncoderCounts
from s3prl_pruned.sparsity.latency import Grid, Line, interpolate, latency_table, read_latency_table
from tests.latency_tables import HEAD, cnn_time, ffn_time, head_time, position_time, rest_time, table_of

CONFIG = tiny_base()


def exact(config, spec):
    """The time of a structure by the formulas of the invented device."""
    seconds = cnn_time(config, [len(kept) for kept in spec.channels_of(config)])
    seconds += rest_time(len(spec.channels_of(config)[-1]))
    seconds += position_time(len(spec.groups_of(config))) - position_time(config.pos_conv_groups)
    for layer in spec.layers:
        dims = sum(len(head.qk) + len(head.vo) for head in layer.heads)
        seconds += head_time(len(layer.heads), dims / (2 * len(layer.heads) or 1)) if layer.heads else 0
        seconds += ffn_time(len(layer.ffn)) if layer.ffn else 0
    return seconds


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), channels=st.booleans())
def test_a_time_that_is_bilinear_in_its_counts_is_exact(seed, channels):
    spec = random_spec(CONFIG, seed=seed, channels=channels, positions=seed % 3 > 0)
    found = table_of(CONFIG).time(EncoderCounts.of(CONFIG, spec))
    assert found == pytest.approx(exact(CONFIG, spec), rel=1e-9)


def test_the_time_depends_on_every_part():
    table, dense = table_of(CONFIG), EncoderCounts.dense(CONFIG, with_cnn=False)
    whole = table.time(dense)
    assert whole == pytest.approx(exact(CONFIG, CompactSpec.dense(CONFIG)))
    for i in range(len(dense.channels)):
        fewer = replace(dense, channels=[c - (j == i) for j, c in enumerate(dense.channels)], with_cnn=True)
        assert table.time(fewer) < whole
    assert table.time(replace(dense, position_groups=3, with_positions=True)) < whole
    for name in ("qk", "vo", "ffn", "heads"):
        fewer = EncoderCounts.dense(CONFIG, with_cnn=False)
        setattr(fewer.layers[1], name, getattr(fewer.layers[1], name) - 1)
        assert table.time(fewer) < whole, name


def test_the_gradient_is_the_slope_of_the_piece_and_reaches_every_count():
    table, counts = table_of(CONFIG), EncoderCounts.dense(CONFIG, with_cnn=True)
    counts.channels = [torch.tensor(0.6 * c, requires_grad=True) for c in counts.channels]
    for layer in counts.layers:
        for name, value in (("qk", 11.0), ("vo", 9.0), ("ffn", 7.0), ("heads", 2.5)):
            setattr(layer, name, torch.tensor(value, requires_grad=True))
    table.time(counts).backward()
    assert all(c.grad > 0 for c in counts.channels)
    for layer in counts.layers:
        assert layer.qk.grad == layer.vo.grad == pytest.approx(HEAD / 2, rel=1e-5) and layer.ffn.grad > 0
        assert layer.heads.grad == pytest.approx(3e-4, rel=1e-3)


def test_a_table_without_times_of_the_positional_convolution_serves_models_that_keep_it():
    old, dense = replace(table_of(CONFIG), positions=None), EncoderCounts.dense(CONFIG, with_cnn=False)
    assert "positions" not in to_dict(old) and latency_table(to_dict(old), "old") == old
    assert old.time(dense) == table_of(CONFIG).time(dense)
    with pytest.raises(UserError, match="no times of the positional convolution, but its groups are pruned"):
        old.time(replace(dense, with_positions=True))


def test_the_time_of_a_layer_goes_to_zero_as_its_gates_close():
    table, counts = table_of(CONFIG), EncoderCounts.dense(CONFIG, with_cnn=False)
    times = []
    for scale in (1e-1, 1e-3, 1e-6, 0.0):
        for layer in counts.layers:
            layer.heads, layer.ffn = 4 * scale, 20 * scale
            layer.qk = layer.vo = 24 * scale
        times.append(table.time(counts))
    empty = cnn_time(CONFIG, counts.channels) + rest_time(12)
    assert (
        times == sorted(times, reverse=True)
        and times[-1] == pytest.approx(empty)
        and times[-2] == pytest.approx(empty, rel=1e-4)
    )


def test_interpolation_is_linear_and_extends_beyond_the_ends():
    axis, values = (2.0, 4.0, 10.0), (1.0, 3.0, 6.0)
    for x, y in ((2, 1), (3, 2), (4, 3), (7, 4.5), (10, 6), (12, 7), (0, -1)):
        assert interpolate(axis, values, x) == pytest.approx(y)
        assert float(interpolate(axis, values, torch.tensor(float(x)))) == pytest.approx(y)


def test_a_larger_part_that_was_measured_faster_gets_the_time_of_the_smaller_one():
    line = Line(counts=(1.0, 2.0, 3.0), seconds=(2.0, 1.5, 4.0))
    line.validate()
    assert line.seconds == (2.0, 2.0, 4.0)
    grid = Grid(rows=(1.0, 2.0), columns=(1.0, 2.0), seconds=((3.0, 2.0), (1.0, 5.0)))
    grid.validate()
    assert grid.seconds == ((3.0, 3.0), (3.0, 5.0))


def test_a_table_is_the_same_after_writing_and_reading(tmp_path):
    table = table_of(CONFIG)
    (tmp_path / "table.json").write_text(json.dumps(to_dict(table)))
    assert read_latency_table(tmp_path / "table.json") == table


def change(**values):
    return lambda data: data.update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(format="other"), "is not a latency table .`format` must be 's3prl_pruned.latency'"),
        (change(format_version=2), "`format` and `format_version` must be .* and 1, but are .* and 2"),
        (lambda d: d["cnn"].pop(), "`cnn` must hold 4 pairs of layers, at least one, but holds 3"),
        (lambda d: d["rest"].update(seconds=[1.0, -1.0, 2.0]), "rest: seconds must be 3 positive numbers"),
        (
            lambda d: d["rest"].update(counts=[3.0, 2.0, 1.0]),
            "rest: `counts` must be two or more positive counts in ascending order",
        ),
        (lambda d: d["attention"]["seconds"].pop(), "attention: `seconds` must have a row for each of 3, but has 2"),
        (lambda d: d["measured"].pop("threads"), "measured.threads: required, but not given"),
        (change(speed=1.0), "speed: unknown key"),
        (change(whole=0.0), "seconds must be 2 positive numbers"),
    ],
)
def test_a_damaged_table_is_refused(edit, message):
    data = json.loads(json.dumps(to_dict(table_of(CONFIG))))
    edit(data)
    with pytest.raises(UserError, match=message):
        latency_table(data, "table.json")


def test_a_file_that_is_not_a_table_is_refused(tmp_path):
    for text in ("{", "[1]", "null"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match="x.json: is not a latency table"):
            read_latency_table(tmp_path / "x.json")
    with pytest.raises(UserError, match="absent.json: is not a latency table"):
        read_latency_table(tmp_path / "absent.json")


def test_a_table_is_refused_for_encoders_of_another_shape():
    table = table_of(wavlm_base())
    table.check(wavlm_base())
    with pytest.raises(UserError, match="of another shape: its `relative_position` is True, the encoder's is False"):
        table.check(hubert_base())
