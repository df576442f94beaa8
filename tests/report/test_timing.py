"""The tables and the figure that are made from a benchmark's document alone."""

import csv
import io
import json

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.report import timing as report
from s3prl_pruned.report import timing_paper
from s3prl_pruned.report import timing_picture as picture
from tests.tiny_benchmark import tiny_benchmark


@pytest.fixture(scope="module")
def data():
    return tiny_benchmark()


def rows(data, **wanted):
    return [row for row in data["results"] if all(row[key] == value for key, value in wanted.items())]


def test_the_tables_show_every_result(data):
    shown = report.screen(data)
    assert all(shown.count(f"\n{row['name']} ") >= 1 for row in data["results"])
    assert "random weights" in shown and "1 thread," in shown and data["versions"]["torch"] in shown
    read = list(csv.DictReader(io.StringIO(report.as_csv(data))))
    assert [float(row["ratio"]) for row in read] == [row["ratio"] for row in data["results"]]
    assert [float(row["share_cnn"]) for row in read] == [row["shares"]["cnn"] for row in data["results"]]


def test_the_markdown_table_has_a_row_per_model_and_a_column_per_workload(data):
    table = [line.split("|")[1:-1] for line in report.markdown(data).splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[0]][4:] == ["0.5 s", "3 x 0.3-0.6 s, padded", "3 x 0.3-0.6 s, unpadded"]
    assert len(table) == 2 + 4 and len({len(line) for line in table}) == 1
    ours, torchaudio = table[3], table[4]
    (expected,) = rows(data, name="ours:wavlm_embedded", workload="0.5 s")
    assert ours[1].strip() == f"{expected['params']:,}" and ours[4].strip().startswith(f"{expected['ratio']:.2f}")
    assert torchaudio[5].strip() == "-"


def test_noise_is_reported_with_its_bound(data):
    noisy = json.loads(json.dumps(data))
    for row in noisy["results"]:
        row["noisy"] = False
    assert report.noise(noisy) == []
    noisy["results"][1].update(noisy=True, ratio_spread=0.9)
    (line,) = report.noise(noisy)
    assert (
        line.startswith("TOO NOISY: 1 of 11 ratios spread by more than 20%") and "ours:wavlm_embedded on 0.5 s" in line
    )
    assert line in report.screen(noisy) and "(noisy, IQR 0.90)" in report.markdown(noisy)


def test_files_are_written_once(data, tmp_path):
    paths = report.write(data, tmp_path / "out")
    assert [path.name for path in paths] == ["timing.json", "timing.csv", "timing.md", "timing.png"]
    assert json.loads(paths[0].read_text()) == data
    assert paths[3].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="never overwritten"):
        report.write(data, tmp_path / "out")


def test_the_picture_has_a_point_per_result_at_its_speed_up(data):
    (axes,) = picture.speed_up_against_parameters(data).axes
    drawn = sorted(y for container in axes.containers for y in container.lines[0].get_ydata())
    assert drawn == sorted(row["ratio"] for row in data["results"])
    assert {text.get_text() for text in axes.texts} == {row["name"] for row in data["results"]}


def test_a_foreign_document_is_refused():
    with pytest.raises(UserError, match="must be the JSON document of tools/timing.py, but lacks"):
        report.check_document({"results": []}, "x.json")


def test_the_papers_table_has_its_numbers_beside_ours():
    def row(name, arrangement, ratio):
        return {
            "name": name, "workload": f"corpus, {arrangement}", "arrangement": arrangement, "params": 26_640_000,
            "seconds_mean": 0.5, "seconds_std": 0.01, "ratio": ratio, "noisy": False, "weights": "random, seed 0",
        }  # fmt: skip

    names = {"s3prl:wavlm_base": 1.0, "ours:dense": 1.2, "ours:even": 1.3, "ours:conc+bf16": 2.1}
    data = {
        "baseline": "s3prl:wavlm_base", "device": "cuda", "threads": 1, "dtype": "float32", "versions": {},
        "repeats": 5,
        "results": [row(name, way, ratio) for way in ("single", "bucketed") for name, ratio in names.items()],
        "lost": [{"name": "hf:wavlm_base", "workload": None, "reason": "it is not here"}],
    }  # fmt: skip
    text = timing_paper.paper_table(data)
    cells = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("| ")}
    cells = {name: [cell.strip() for cell in row] for name, row in cells.items()}
    assert cells["ours:conc+bf16"][3:7:3] == ["2.10", "2.10"]
    assert cells["ours:conc+bf16"][7:] == ["proposed", "26.57 M", "46.08 s", "1.99"]
    assert cells["ours:even"][7:] == ["without STE", "26.37 M", "67.78 s", "1.35"]
    assert cells["s3prl:wavlm_base"][7:] == ["WavLM Base", "94.70 M", "91.87 s", "1.00"]
    assert cells["ours:dense"][7:] == ["-"] * 4
    assert "LEFT OUT: hf:wavlm_base: it is not here" in text


def test_repeats_are_reported_as_recorded(data):
    by_time = json.loads(json.dumps(data))
    by_time["repeats"] = None
    by_time["results"][0]["repeats"] = 20
    assert report.repeats(data) == "2" and report.repeats(by_time) == "2 to 20"
    for row in by_time["results"]:
        del row["repeats"]
    by_time["repeats"] = 7  # as in older documents
    assert report.repeats(by_time) == "7"


def test_left_out_models_are_listed_and_keep_their_other_columns(data):
    changed = json.loads(json.dumps(data))
    first = changed["results"][1]
    changed["results"].remove(first)
    changed["lost"] = [{"name": first["name"], "workload": first["workload"], "reason": "out of memory"}]
    line = f"LEFT OUT: {first['name']} on 0.5 s: out of memory"
    assert line in report.screen(changed) and line in report.markdown(changed)
    (row,) = [line for line in report.markdown(changed).splitlines() if line.startswith(f"| {first['name']} ")]
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["-"] * 3 and row.count("|") == 8
