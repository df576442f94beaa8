"""The figure of a running training shows its log's numbers."""

import json

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.report.live import draw_remaining, remaining_structure

LINE = {
    "step": 1200,
    "target_sparsity": 0.5,
    "expected_sparsity": 0.45,
    "realised_sparsity": 0.47,
    "remaining": {"heads": [0.0, 0.5, 1.0], "qk": [0.0, 0.25, 0.75], "vo": [0.0, 0.1, 0.9], "ffn": [0.2, 0.0, 1.0]},
}


def test_every_share_is_drawn_at_its_layer_and_kind():
    (axes,) = remaining_structure(LINE).axes
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert (
        written[(0, 0)] == "gone"
        and written[(0, 2)] == "100 %"
        and written[(1, 1)] == "25 %"
        and written[(3, 0)] == "20 %"
    )
    assert len(written) == 12
    assert axes.images[0].get_array()[2, 2] == 0.9
    assert "step 1,200" in axes.get_title() and "realised 47.0 %" in axes.get_title()


def test_the_newest_line_is_drawn_and_replaces_the_picture(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(LINE) + "\n")
    first = draw_remaining(tmp_path).read_bytes()
    with open(log, "a") as file:
        file.write(json.dumps({**LINE, "step": 1300}) + "\n")
    path = draw_remaining(tmp_path)
    assert path.read_bytes() != first and path.read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in path.parent.iterdir()] == ["remaining_structure.png"]


def test_a_log_without_the_numbers_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match="last line must hold step, remaining"):
        draw_remaining(tmp_path)
