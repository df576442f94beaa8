"""Figures show the numbers of the JSON that they are drawn from, and nothing is drawn from damaged JSON."""

import json
from itertools import pairwise

import numpy as np
import pytest

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.gates.distribution import HardConcreteNumbers, measure_hard_concrete, write_hard_concrete
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec
from s3prl_pruned.report import figures

CONFIG = EncoderConfig(
    conv_layers=((8, 10, 5), (8, 8, 64)), num_layers=3, embed_dim=16, num_heads=2, ffn_dim=12,
    pos_conv_kernel=4, pos_conv_groups=2, num_buckets=8, max_distance=20,
)  # fmt: skip
SPEC = CompactSpec(
    layers=(
        LayerSpec(attention=True, heads=(HeadSpec(index=1, qk=(0, 3), vo=(2, 4, 7)),), feed_forward=True, ffn=(0, 5)),
        LayerSpec(attention=False, heads=(), feed_forward=True, ffn=tuple(range(12))),
        LayerSpec(attention=False, heads=(), feed_forward=False, ffn=()),
    )
)
LINES = [
    {
        "step": step,
        "target_sparsity": 0.1 * step,
        "expected_sparsity": 0.05 * step,
        "mask_means": {"z_mha": [1.0, 0.5, 0.3 / step], "z_ffn": [1.0, 0.0, 0.2 * step], "z_vo": [0.5, 0.6, 0.7]},
    }
    for step in (1, 2, 3)
]


@pytest.fixture
def run(tmp_path):
    """The files of a finished run that figures are drawn from; invented, without a model."""
    (tmp_path / "export").mkdir()
    export = {"format": "s3prl_pruned.encoder", "format_version": 1, "encoder": to_dict(CONFIG), "spec": SPEC.to_dict()}
    export["provenance"] = {"teacher_note": "random teacher"}
    (tmp_path / "export" / "config.json").write_text(json.dumps(export))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    write_hard_concrete(tmp_path)
    return tmp_path


def lines_of(axes):
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.get_lines()}


def test_all_pictures_are_drawn_into_the_runs_figures(run):
    paths = figures.draw_run(run)
    assert {path.name for path in paths} == {
        "mask_averages.png", "remaining_parameters.png", "remaining_value_dims.png", "hard_concrete.png",
    }  # fmt: skip
    for path in paths:
        assert path.parent == run / "figures"
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_mask_averages_are_the_logs_means_over_layers():
    masks, control = figures.mask_averages(LINES, "log", None).axes
    drawn = lines_of(masks)
    steps, z_mha = drawn[r"$z_\mathrm{MHA}$ (whole sublayer)"]
    assert list(steps) == [1, 2, 3]
    np.testing.assert_allclose(z_mha, [1.8 / 3, 1.65 / 3, 1.6 / 3])
    np.testing.assert_allclose(drawn[r"$z_\mathrm{FFN}$ (whole sublayer)"][1], [1.2 / 3, 1.4 / 3, 1.6 / 3])
    np.testing.assert_allclose(drawn[r"$z_\mathrm{vo}$ (value/output dims)"][1], [0.6] * 3)
    assert len(drawn) == 3, "only the masks that the run has"
    np.testing.assert_allclose(lines_of(control)["target"][1], [10, 20, 30])
    np.testing.assert_allclose(lines_of(control)["expected under the gates"][1], [5, 10, 15])


def test_remaining_parameters_are_the_specs_weights_stacked():
    (axes,) = figures.remaining_parameters(CONFIG, SPEC, None).axes
    heights = {bars.get_label(): [bar.get_height() * 1e6 for bar in bars] for bars in axes.containers}
    # by hand: 2 matrices of embed_dim x kept dims
    np.testing.assert_allclose(heights["query/key"], [2 * 16 * 2, 0, 0])
    np.testing.assert_allclose(heights["value/output"], [2 * 16 * 3, 0, 0])
    np.testing.assert_allclose(heights["feed-forward"], [2 * 16 * 2, 2 * 16 * 12, 0])
    tops = [bar.get_y() * 1e6 for bar in axes.containers[2]]
    np.testing.assert_allclose(tops, [2 * 16 * 5, 0, 0], err_msg="the feed-forward stands on the attention")
    dense = lines_of(axes)["dense layer"][1][0] * 1e6
    assert dense == pytest.approx(4 * 16 * 16 + 2 * 16 * 12)


def test_remaining_value_dims_are_the_specs_indices():
    panels = [axes for axes in figures.remaining_value_dims(CONFIG, SPEC, None).axes if axes.get_visible()]
    grids = [np.asarray(axes.images[0].get_array()) for axes in panels]
    assert [grid.shape for grid in grids] == [(2, 8)] * 3
    assert np.argwhere(grids[0]).tolist() == [[1, 2], [1, 4], [1, 7]]
    assert not grids[1].any() and not grids[2].any()
    assert [axes.get_title() for axes in panels] == ["layer 1: 19 %", "layer 2: 0 %", "layer 3: 0 %"]


def test_hard_concrete_curves_are_the_jsons(run):
    numbers = from_dict(HardConcreteNumbers, json.loads((run / "hard_concrete.json").read_text()), "json")
    left, right = figures.hard_concrete(numbers).axes
    drawn = lines_of(right)
    np.testing.assert_array_equal(drawn["mean $z$"][1], numbers.means.z)
    np.testing.assert_array_equal(drawn[r"mean $\bar{s}$"][1], numbers.means.s_bar)
    np.testing.assert_array_equal(drawn["mean $z$"][0], numbers.means.log_alpha)
    stairs = [patch.get_data().values for patch in left.patches if hasattr(patch, "get_data")]
    np.testing.assert_array_equal(stairs[0], numbers.distribution.s_bar)
    np.testing.assert_array_equal(stairs[1], numbers.distribution.z_inside)
    (bars,) = left.containers
    assert [bar.get_height() for bar in bars] == [numbers.distribution.z_zero, numbers.distribution.z_one]


def test_zero_gradient_region_is_shaded_where_the_mean_of_s_bar_leaves_0_to_1():
    numbers = measure_hard_concrete()
    _, right = figures.hard_concrete(numbers).axes
    (shade,) = right.collections
    borders = sorted({x for path in shade.get_paths() for x in path.vertices[:, 0]})
    inside = [a for a, s in zip(numbers.means.log_alpha, numbers.means.s_bar, strict=True) if 0 < s < 1]
    gap = max(pairwise(borders), key=lambda pair: pair[1] - pair[0])
    assert gap[0] < inside[0] and gap[1] > inside[-1]
    assert gap == pytest.approx((inside[0], inside[-1]), abs=0.15)


@pytest.mark.parametrize("draw", ["mask_averages", "remaining_parameters", "remaining_value_dims"])
def test_titles_say_random_teacher(draw):
    arguments = (LINES, "log") if draw == "mask_averages" else (CONFIG, SPEC)
    for note, said in (("random teacher", True), (None, False)):
        figure = getattr(figures, draw)(*arguments, note)
        titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
        assert any("RANDOM TEACHER" in title for title in titles) == said


@pytest.mark.parametrize("name", ["log.jsonl", "hard_concrete.json", "export/config.json"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        figures.draw_run(run)


@pytest.mark.parametrize("name", ["hard_concrete.json", "export/config.json"])
def test_truncated_json_is_named(run, name):
    text = (run / name).read_text()
    (run / name).write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        figures.draw_run(run)


def test_a_log_cut_off_in_its_last_line_is_drawn_to_the_line_before(run):
    text = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(text[:-20])
    assert figures.draw_run(run)


def test_a_log_damaged_before_its_end_is_refused(run):
    lines = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join([lines[0][:20], *lines[1:]]))
    with pytest.raises(UserError, match="line 1 of 3 is damaged"):
        figures.draw_run(run)


@pytest.mark.parametrize("key", ["mask_means", "expected_sparsity"])
def test_a_log_without_a_needed_number_is_refused(key):
    lines = [{k: v for k, v in line.items() if k != key} for line in LINES]
    with pytest.raises(UserError, match=f"some.log.*{key}"):
        figures.mask_averages(lines, "some.log", None)


def test_an_empty_log_is_refused(run):
    (run / "log.jsonl").write_text("")
    with pytest.raises(UserError, match="log.jsonl"):
        figures.draw_run(run)
