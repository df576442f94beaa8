"""A whole benchmark on a small shape: the document, and the tables and the picture that are made of it alone."""

import csv
import io
import json
import logging

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.measure.timing import benchmark, picture, report
from s3prl_pruned.measure.timing.benchmark import Options

KEYS = {"name", "length_s", "batch", "params", "macs", "seconds", "seconds_spread", "ratio", "peak_bytes"}


@pytest.fixture(scope="module")
def data(structure_file):
    options = Options(
        baseline="s3prl:wavlm_embedded",
        models=["ours:wavlm_embedded", "torchaudio:wavlm_embedded", f"{structure_file}+int8"],
        random=True,
        lengths=[0.5],
        mixed=(0.3, 0.6),
        utterances=3,
        repeats=2,
    )
    return json.loads(json.dumps(benchmark.run(options), allow_nan=False))


def rows(data, **wanted):
    return [row for row in data["results"] if all(row[key] == value for key, value in wanted.items())]


def test_the_document_has_all_that_makes_a_number_readable(data):
    assert {"baseline", "device", "threads", "dtype", "versions", "results", "commit", "repeats", "noise_bound", "machine"} <= data.keys()
    assert {"torch", "s3prl", "transformers", "torchaudio", "s3prl_pruned"} <= data["versions"].keys()
    assert all(KEYS <= row.keys() for row in data["results"])
    assert (data["baseline"], data["device"], data["threads"], data["dtype"]) == ("s3prl:wavlm_embedded", "cpu", 1, "float32")


def test_the_baseline_is_added_and_its_ratio_is_one(data):
    assert [row["name"] for row in rows(data, workload="0.5 s")][:2] == ["s3prl:wavlm_embedded", "ours:wavlm_embedded"]
    for wanted in ({"workload": "0.5 s"}, {"arrangement": "padded"}):
        (baseline,) = rows(data, name="s3prl:wavlm_embedded", **wanted)
        assert baseline["ratio"] == 1


def test_both_arrangements_are_against_the_baseline_padded(data):
    (baseline,) = rows(data, name="s3prl:wavlm_embedded", arrangement="padded")
    (alone,) = rows(data, name="s3prl:wavlm_embedded", arrangement="unpadded")
    assert alone["ratio"] != 1 and alone["macs"] < baseline["macs"] and alone["peak_bytes"] < baseline["peak_bytes"]
    assert any("comes of the bucketing, not of the model" in " ".join(note.split()) for note in data["notes"])


def test_a_model_that_cannot_pad_is_only_in_the_unpadded_rows(data):
    assert [row["arrangement"] for row in rows(data, name="torchaudio:wavlm_embedded")] == ["even", "unpadded"]


def test_derived_numbers_fit_one_another(data):
    for row in data["results"]:
        assert row["real_time_factor"] == pytest.approx(row["seconds"] / row["audio_s"])
        assert row["audio_per_second"] == pytest.approx(1 / row["real_time_factor"])
        assert row["peak_bytes"] > 4 * row["params"] or row["precision"] == "int8"
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.2)


def test_what_was_checked_before_timing_is_told(data):
    assert [check["models"][0] for check in data["checks"]] == ["ours:wavlm_embedded", "torchaudio:wavlm_embedded"]
    assert all(check["bound"] for check in data["checks"])
    assert "ours:wavlm_embedded" in data["macs_checked_with_torch"]


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


def test_noise_is_said_with_its_bound(data):
    noisy = json.loads(json.dumps(data))
    for row in noisy["results"]:
        row["noisy"] = False
    assert report.noise(noisy) == []
    noisy["results"][1].update(noisy=True, ratio_spread=0.9)
    (line,) = report.noise(noisy)
    assert line.startswith("TOO NOISY: 1 of 11 ratios spread by more than 20%") and "ours:wavlm_embedded on 0.5 s" in line
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


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dtype": "fp8"}, "`dtype` must be one of"),
        ({"dtype": "int8"}, "int8 is a model's variant"),
        ({"repeats": 0}, "`repeats` and `threads` must be at least 1"),
        ({"lengths": [0.02]}, "at least one frame"),
        ({"lengths": []}, "nothing to time models on"),
        ({"tf32": True}, "`tf32` is of CUDA GPUs only"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_built(changes, message, monkeypatch):
    monkeypatch.setattr(benchmark, "Builder", None)
    options = {"baseline": "ours:wavlm_embedded", "models": [], "random": True, "lengths": [0.5], **changes}
    with pytest.raises(UserError, match=message):
        benchmark.run(Options(**options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(UserError, match="sees no GPU here. Use --device cpu"):
        benchmark.run(Options(baseline="ours:wavlm_embedded", models=[], random=True, lengths=[1], device="cuda"))


def test_a_corpus_is_timed_one_at_a_time_and_bucketed(caplog):
    caplog.set_level(logging.ERROR)
    options = Options(baseline="ours:wavlm_embedded", models=[], random=True, use_corpus=True, limit=3, repeats=2, bucket_s=20)
    single, bucketed = benchmark.run(options)["results"]
    assert (single["arrangement"], bucketed["arrangement"]) == ("single", "bucketed")
    assert single["batch"] == 1 < bucketed["batch"]
    assert single["audio_s"] == bucketed["audio_s"] and single["macs"] < bucketed["macs"]
    assert single["seconds_mean"] > 0
