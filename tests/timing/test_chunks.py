"""The costs of a chunk in a program that starts, each model in its own processes."""

import json

import pytest
import torch

from s3prl_pruned.commands import timing
from s3prl_pruned.config import UserError
from s3prl_pruned.report.timing_chunks import chunk_table
from s3prl_pruned.timing import chunks
from s3prl_pruned.timing.chunks import ChunkCosts, ChunkTask, measure_chunks, measure_here


def measure(names, folder, **changes):
    options = {"lengths": [0.2], "device": "cpu", "threads": 1, "repeats": 1, "seed": 0}
    return measure_chunks(names, folder, **{**options, **changes})


def test_a_process_loads_calls_and_reports_and_one_that_fails_says_why(tmp_path):
    (row,), (lost,) = measure(["ours:wavlm_embedded", "ours:wavlm_embedded+masked"], tmp_path)
    assert row["name"] == "ours:wavlm_embedded" and row["length_s"] == 0.2
    assert row["load_s"] > 0 and row["first_s"] > 0 and row["warm_s"] > 0
    parameters = 4 * 5_442_056
    assert parameters < row["peak_bytes"] < row["resident_bytes"]
    assert lost["name"] == "ours:wavlm_embedded+masked" and "masked is for a structure" in lost["reason"]


def test_lengths_and_models_take_turns_and_medians_count(tmp_path, monkeypatch):
    tasks, seconds = [], iter([3.0, 1.0, 2.0] * 4)

    def found(task):
        tasks.append((task.name, task.length_s))
        second = next(seconds)
        return ChunkCosts(load_s=second, first_s=second, warm_s=second, peak_bytes=None, resident_bytes=1)

    monkeypatch.setattr(chunks, "_in_a_process", found)
    rows, lost = measure(["ours:wavlm_embedded"], tmp_path, lengths=[0.5, 1.0, 2.0], repeats=4)
    assert not lost and [row["length_s"] for row in rows] == [0.5, 1.0, 2.0]
    repeats = [tuple(length for _, length in tasks[start : start + 3]) for start in range(0, 12, 3)]
    assert all(sorted(repeat) == [0.5, 1.0, 2.0] for repeat in repeats) and len(set(repeats)) > 1
    assert all(1 <= row["warm_s"] <= 3 and row["peak_bytes"] is None for row in rows)


def test_a_chunk_is_what_is_called(monkeypatch):
    from s3prl_pruned.timing.models import Builder

    heard, build = [], Builder.build

    def watched(self, name):
        made = build(self, name)
        encode = made.encode
        made.encode = lambda batch: heard.append([len(wav) for wav in batch]) or encode(batch)
        return made

    monkeypatch.setattr(Builder, "build", watched)
    task = ChunkTask(name="ours:wavlm_embedded", runtime=None, length_s=0.5, device="cpu", threads=1, seed=0)
    threads = torch.get_num_threads()
    costs = measure_here(task)
    assert len(heard) >= 7 and all(lengths == [8000] for lengths in heard)
    assert costs.warm_s > 0 and torch.get_num_threads() == threads


def test_the_table_divides_by_the_baseline_of_the_same_length():
    rows = [
        {
            "name": name, "length_s": length, "load_s": 1.0, "first_s": 2 * warm, "warm_s": warm, "peak_bytes": 2**20,
            "resident_bytes": None,
        }
        for length, (ours, other) in {0.5: (0.1, 0.05), 1.0: (0.3, 0.1)}.items()
        for name, warm in (("ours:dense", ours), ("ours:conc", other))
    ]  # fmt: skip
    data = {
        "baseline": "ours:dense", "results": rows, "machine": "x", "device": "cpu", "threads": 1, "repeats": 3,
        "versions": {}, "lost": [], "environment": {"cpu": {"instruction_sets": ["avx2"]}},
    }  # fmt: skip
    cells = [[cell.strip() for cell in line.split("|")] for line in chunk_table(data).splitlines()]
    (one,) = [row for row in cells if row[1:3] == ["ours:conc", "0.5 s"]]
    (two,) = [row for row in cells if row[1:3] == ["ours:conc", "1 s"]]
    assert one[5] == one[7] == "2.00" and two[7] == "3.00" and two[8] == "0.1000"


def test_what_is_not_ours_and_other_workloads_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="with our own models only"):
        measure(["hf:wavlm_base"], tmp_path)
    with pytest.raises(UserError, match="cannot be used with --lengths, --mixed or --output"):
        timing.main(["--chunks", "--models", "ours:dense", "--lengths", "1"])


def test_the_command_ends_with_its_document(monkeypatch, capsys):
    costs = ChunkCosts(load_s=1.0, first_s=0.2, warm_s=0.1, peak_bytes=5, resident_bytes=6)
    monkeypatch.setattr(chunks, "_in_a_process", lambda task: costs)
    timing.main(["--chunks", "0.5", "--models", "ours:wavlm_embedded", "--device", "cpu"])
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = data["results"]
    assert row["warm_s"] == 0.1 and data["environment"]["cpu"]["instruction_sets"] is not None
