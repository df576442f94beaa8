"""The table of published encoders, made from a benchmark's document alone."""

import json

import pytest

from s3prl_pruned.report.timing_peers import peers_table
from tests.tiny_benchmark import tiny_benchmark


@pytest.fixture
def data():
    made = json.loads(json.dumps(tiny_benchmark()))
    for row in made["results"]:
        row.update(noisy=False)
        if row["name"] == "ours:wavlm_embedded":
            row.update(source="a paper", printed_millions=5.25)
    return made | {"not_timed": [{"name": "ARMHuBERT", "reason": "reuses attention maps"}]}


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_a_row_has_source_parameters_macs_per_second_and_for_each_workload_both_times(data):
    header, _, *rows = cells(peers_table(data))
    assert header == [
        *("model", "source", "parameters", "printed", "MACs/s, 0.5 s", "RTF, 0.5 s", "speed-up, 0.5 s"),
        *(f"{kind}, 3 x 0.3-0.6 s, {way}" for way in ("padded", "unpadded") for kind in ("RTF", "speed-up")),
    ]
    assert [row[0] for row in rows] == list(dict.fromkeys(row["name"] for row in data["results"]))
    ours = next(row for row in rows if row[0] == "ours:wavlm_embedded")
    fixed = next(r for r in data["results"] if r["name"] == ours[0] and r["workload"] == "0.5 s")
    assert ours[1:4] == ["a paper", f"{fixed['params']:,}", "5.25 M"]
    assert ours[4] == f"{fixed['macs'] / 0.5 / 1e9:.2f} G"
    assert ours[5] == f"{fixed['seconds'] / 0.5:.4f}" and ours[6] == f"{fixed['ratio']:.2f}"
    baseline = next(row for row in rows if row[0] == data["baseline"])
    assert baseline[1] == "-" and baseline[3] == "-" and baseline[6] == "1.00"


def test_what_is_not_timed_is_listed_with_its_reason_and_a_noisy_ratio_is_marked(data):
    data["results"][1]["noisy"] = True
    text = peers_table(data)
    assert "- ARMHuBERT is not timed: reuses attention maps." in text.splitlines()
    assert text.count(" (noisy) ") == 1 and "TOO NOISY: 1 of" in text
    assert "random weights" in text and data["baseline"] in text


def test_an_older_document_has_a_table_without_sources(data):
    for row in data["results"]:
        row.pop("source"), row.pop("printed_millions")
    assert all(row[1] == row[3] == "-" for row in cells(peers_table(data))[2:])
