"""The table and picture of several structures say what their document holds."""

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.report import structures

NOTHING = dict.fromkeys(("target", "expected_seconds", "held_out_distill", "seconds", "speed"))
MARKS = {"own": False, "missed": False, "noisy": False}


def one(name, realised, parameters, **more):
    figures = {"sparsity": realised, "parameters": parameters, "macs": 40 * parameters, "inert_share": 0.0}
    return {"name": name, "realised": realised, **figures, **NOTHING, **MARKS, **more}


@pytest.fixture
def data():
    document = {
        "checkpoint": "states-5.ckpt",
        "step": 5,
        "total_steps": 5,
        "teacher_note": "random teacher",
        "average": True,
        "quantity": "sparsity",
        "reach": [0.25, 1.0],
        "seconds_of_audio": 5,
        "settled": True,
        "table_of": None,
        "structures": [
            one("dense", 0.0, 9_000_000),
            one("params-0.5", 0.501, 5_000_000, target=0.5, held_out_distill=1.5, own=True),
            one("params-0.9", 0.8, 2_000_000, target=0.9, held_out_distill=2.5, missed=True),
        ],
    }
    return {**document, "notes": structures.notes(document)}


def test_the_table_has_a_row_for_each_and_says_what_is_special(data):
    header, _, dense, own, missed = structures.markdown(data).splitlines()[:5]
    assert "held-out loss" in header and "time" not in header and "speed" not in header
    assert dense.startswith("| dense") and "9" in dense
    assert "| 50.0 % | 50.1 % |" in own and "1.5" in own and "the run's own" in own and "MISSED" not in own
    assert "| 90.0 % | 80.0 % |" in missed and "TARGET MISSED" in missed
    assert "have settled only for the masks of the run's own target" in structures.markdown(data)
    assert "These gates can reach 25.0 % to 100.0 %." in structures.markdown(data)
    assert "(step 5 of 5, RANDOM TEACHER). MACs: 5 s" in data["notes"][0] and "moving average" in data["notes"][2]
    assert len(structures.notes({**data, "settled": False})) == len(data["notes"]) - 1


def test_the_picture_has_the_losses_over_each_cost(data):
    figure = structures.picture(data)
    assert figure.get_suptitle() == "structures from one run's gates, step 5 (RANDOM TEACHER)"
    parameters, macs = figure.axes
    line, star = parameters.lines
    assert list(line.get_xdata()) == [2.0, 5.0] and list(line.get_ydata()) == [2.5, 1.5]
    assert list(star.get_xdata()) == [5.0] and list(macs.lines[1].get_ydata()) == [1.5]
    assert [text.get_text() for text in parameters.texts] == ["90.0 %", "50.0 %"]
    for each in data["structures"]:
        each |= {"held_out_distill": None, "expected_seconds": each["parameters"] * 1e-8}
    data["table_of"] = "a machine, 5 s of audio"
    *_, times = structures.picture(data).axes
    assert list(times.lines[0].get_ydata()) == pytest.approx([80, 50.1, 0.0]) and "latency" in times.get_xlabel()
    assert "a machine" in structures.notes(data)[-1]


def test_files_that_stand_there_are_not_overwritten(data, tmp_path):
    names = sorted(path.name for path in structures.write(data, tmp_path))
    assert names == ["structures.csv", "structures.json", "structures.md", "structures.png"]
    with pytest.raises(UserError, match="exists already"):
        structures.write(data, tmp_path)
