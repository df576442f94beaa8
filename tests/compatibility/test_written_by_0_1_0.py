"""What version 0.1.0 left on disks is still read: runs go on, exports give their numbers, results are found again.

Only command lines and `s3prl_pruned.register` are used, so that modules may move. `written_by_0_1_0/README.md` says
what the files are. They are never written anew: where one of these tests fails, the code has to learn to read the old
files.
"""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.compatibility.commands import (
    EXPERIMENT,
    MODELS,
    RESULTS,
    SCORE,
    UNFINISHED,
    Commands,
    downstream,
    hidden_states,
    pretrain,
)  # fmt: skip
from tests.superb_corpora import make_voxceleb1

OLD = Path(__file__).parent / "written_by_0_1_0"
TOLERANCE = 2e-5
"""Of hidden states, relative to the largest value, where that is over 1."""
INT8_TOLERANCE = 0.02
"""Of int8: on another processor a sum may round to the next of 127 steps."""
TRAINING_TOLERANCE = 1e-3
"""Relative, of losses: two steps of training make more of rounding than one pass through a model."""
BY_ITS_RECIPE = ("target_sparsity", "target_macs", "target_speedup")
"""Unfinished runs that go on by -a and their recipe's old keys; the others by -e and their own run.json."""


def goes_on(name):
    if name in BY_ITS_RECIPE:
        return pretrain(name, f"unfinished/{name}", "-a")
    return ["run_pretrain.py", "-u", pretrain(name, "")[2], "-e", f"unfinished/{name}", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the old files, with the corpus that SID was run on."""
    folder = tmp_path_factory.mktemp("compatibility") / "copy"
    shutil.copytree(OLD, folder)
    make_voxceleb1(folder / "sid_corpus")
    return folder


@pytest.fixture(scope="module")
def started(folder):
    """All commands, in two processes beside one another; those that train have a copy of their own."""
    runs = folder.with_name("runs")
    shutil.copytree(folder, runs)
    training = {
        **{f"going on: {name}": goes_on(name) for name in UNFINISHED},
        "target_cnn": pretrain("target_cnn", "fresh/target_cnn", "-o", "runner.total_steps=2"),
        "finished before": pretrain("target_sparsity", "pretrain/small-seed1"),
        "finished recogniser": ["run_pretrain.py", "-u", "wavlm_pruned_asr", "-e", "pretrain/asr", "--device", "cpu"],
        "another rate": pretrain("target_sparsity", "pretrain/small-seed1", "-o", "sparsity.target_sparsity=0.5"),
    }
    reading = {
        **{f"run again: {name}": line for name, line in RESULTS.items()},
        "other settings": [*downstream("fbank-seed1", "sid", "-u", "fbank"), "--seed", "2"],
        "saved score": ["tools/superb_score.py", "results/superb_score.json", "--format", "json"],
        "score": [*SCORE, "--format", "json"],
        "experiment": [*EXPERIMENT, "experiment-again.json"],
        "tradeoff": ["tools/tradeoff.py", "--table", "tradeoff.json"],
        "timing": ["tools/timing.py", "--table", "timing.json"],
        "tradeoff anew": [
            *("tools/tradeoff.py", "pretrain", "results", "--timing", "tradeoff.json", "--repeats", "0"),
            *("--output", "tradeoff"),
        ],
        "export again": ["tools/export.py", "pretrain/small-seed1/export", "exports/again"],
        "export of a checkpoint": ["tools/export.py", "unfinished/target_speedup/states-2.ckpt", "exports/cut"],
    }
    return Commands(runs, training), Commands(folder, reading)


@pytest.fixture(scope="module")
def done(started):
    """What a command left, by its name. It must have ended with the given code."""

    def call(name, code=0):
        found = started[name not in started[0].lines][name]
        assert found.code == code, found.out + found.err
        assert "Traceback" not in found.err
        return found

    return call


@pytest.fixture(scope="module")
def runs(folder, done):
    """The folder in which training went on."""
    done("another rate", code=2)
    return folder.with_name("runs")


def read(path):
    return json.loads(path.read_text())


def log_of(path):
    """The log without what clock and memory wrote."""
    machine = ("audio_seconds_per_second", "train_seconds", "memory_gib")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in machine} for line in lines]


def differing(recorded, found, tolerance, where=""):
    """Paths of what is recorded and not found again; what is new beside it does not matter."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        lost = [f"{where}.{key}: is not there" for key in recorded if key not in found]
        both = [key for key in recorded if key in found]
        return lost + [x for key in both for x in differing(recorded[key], found[key], tolerance, f"{where}.{key}")]
    if isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        return [x for i, (a, b) in enumerate(zip(recorded, found)) for x in differing(a, b, tolerance, f"{where}[{i}]")]
    if isinstance(recorded, (int, float)) and isinstance(found, (int, float)):
        same = abs(recorded - found) <= tolerance * max(1, abs(recorded))
    else:
        same = recorded == found
    return [] if same else [f"{where}: {recorded!r} recorded, {found!r} found"]


def rows_of(text):
    """The numbers of each line of a Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [Counter(re.findall(r"\d+(?:[.,]\d+)*", line)) for line in lines]


# --- numbers of models (in this process, while the commands run in theirs) ---


@pytest.fixture(scope="module")
def states(started):
    return hidden_states(OLD), load_file(OLD / "hidden_states.safetensors")


@pytest.mark.parametrize("model", MODELS)
def test_a_model_gives_the_hidden_states_that_were_recorded(states, model):
    found, recorded = ({k: v for k, v in side.items() if k.rpartition("/")[0] == model} for side in states)
    assert len(recorded) == 4 and found.keys() == recorded.keys()
    tolerance = INT8_TOLERANCE if model == "int8" else TOLERANCE
    for name, expected in recorded.items():
        assert found[name].shape == expected.shape == (2, 12, 24)
        error = np.abs(found[name] - expected).max() / max(1.0, np.abs(expected).max())
        assert error <= tolerance, f"{name}: {error:.1e}"


def test_the_recorded_models_differ_from_one_another(states):
    """Else the test above could not tell one file from another."""
    last = [states[1][f"{name}/3"] for name in MODELS if name not in ("int8", "hugging face")]
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(last) for b in last[:i])
    assert 1e-3 < np.abs(states[1]["int8/3"] - states[1]["hard concrete/3"]).max() < 0.5


# --- runs of run_pretrain.py ---


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_run_goes_on_to_the_end_that_it_would_have_had(runs, done, name):
    shown = done(f"going on: {name}").out
    assert f"continuing from unfinished/{name}/states-2.ckpt" in shown and "exported to" in shown
    recorded = log_of(OLD / "expected" / f"{name}.jsonl")
    found = log_of(runs / "unfinished" / name / "log.jsonl")
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert differing(recorded, found, TRAINING_TOLERANCE) == []
    assert (runs / "unfinished" / name / "export" / "model.safetensors").is_file()


@pytest.mark.parametrize("name, finished", [("target_sparsity", "small-seed1"), ("asr", "asr")])
def test_it_ends_as_the_run_that_was_not_interrupted(runs, name, finished):
    ours, theirs = (
        read(folder / "export" / "config.json") for folder in (runs / "unfinished" / name, OLD / "pretrain" / finished)
    )
    assert ours["spec"] == theirs["spec"]
    assert differing(theirs["provenance"]["sparsity"], ours["provenance"]["sparsity"], 1e-4) == []
    if name == "asr":
        assert read(runs / "unfinished/asr/test.json") == read(OLD / "pretrain/asr/test.json")


@pytest.mark.parametrize(
    "run, of, target, within",
    [
        ("unfinished/target_sparsity", None, 0.8, 0.02),
        ("unfinished/target_macs", "macs", 0.6, 0.03),
        ("unfinished/target_speedup", "speedup", 1.6, 0.1),
        ("fresh/target_cnn", "cnn", 0.5, 0.1),
    ],
)
def test_the_old_keys_of_targets_mean_what_they_meant(runs, done, run, of, target, within):
    done("target_cnn")
    found = read(runs / run / "export" / "config.json")["provenance"]["sparsity"]
    found = found[of] if of else found
    assert found["target"] == target and found["realised"] == pytest.approx(target, abs=within)


def test_finished_runs_called_again_say_so_and_are_left_alone(runs, done):
    for name, folder in (("finished before", "pretrain/small-seed1"), ("finished recogniser", "pretrain/asr")):
        shown = done(name).out
        assert "this run is finished already; nothing to do" in shown
        for path in (OLD / folder).rglob("*"):
            assert path.is_dir() or path.read_bytes() == (runs / path.relative_to(OLD)).read_bytes(), path.name
    assert "WER on test-clean: 100.00 % (1 of 1 words)" in shown


def test_an_old_run_is_told_from_one_of_another_rate(done):
    assert "holds a run of another configuration" in done("another rate", code=2).err


def test_an_old_export_is_exported_again_with_the_same_weights(folder, done):
    done("export again")
    name = "model.safetensors"
    assert (folder / "exports/again" / name).read_bytes() == (OLD / "pretrain/small-seed1/export" / name).read_bytes()


def test_an_old_checkpoint_is_exported_with_the_latency_table_inside_it(folder, done):
    done("export of a checkpoint")
    provenance = read(folder / "exports/cut/config.json")["provenance"]
    assert provenance["step"] == 2 and provenance["sparsity"]["speedup"]["measured"]["machine"] == "invented"


# --- results of run_downstream.py, and tables ---


@pytest.mark.parametrize("name", RESULTS)
def test_a_finished_task_called_again_says_so_and_keeps_its_result(folder, done, name):
    shown, path = done(f"run again: {name}").out, Path("results", *name.split(), "result.json")
    assert "finished before with the same settings, model and corpus; nothing to do" in shown
    metrics = read(OLD / path)["metrics"]
    percents = [value["value"] * (100 if value["unit"] == "fraction" else 1) for value in metrics]
    assert all(f"{percent:.2f} %" in shown for percent in percents)
    assert (folder / path).read_bytes() == (OLD / path).read_bytes()


def test_a_task_of_another_seed_is_told_from_the_old_one(done):
    assert "holds a run that differs in settings" in done("other settings", code=2).err


@pytest.mark.parametrize("name", ["score", "saved score"])
def test_the_score_table_has_the_recorded_numbers(done, name):
    """From the results, and from the table that was written as JSON."""
    recorded = read(OLD / "results" / "superb_score.json")
    assert len(recorded["rows"]) == 3
    for row in recorded["rows"]:
        assert (
            "official" not in row["protocols"].values()
        )  # where SUPERB's scales are not for, they say nothing any more
        for numbers in (metric for task in row["metrics"].values() for metric in task.values()):
            numbers.update(paper=None, leaderboard=None)
        for score in row["scores"].values():
            score["partial_mean"] = None
    assert differing(recorded, json.loads(done(name).out), 1e-9) == []


def test_an_experiments_table_is_made_again_of_its_runs(folder, done):
    done("experiment")
    recorded, found = read(OLD / "experiment.json"), read(folder / "experiment-again.json")
    assert [row["name"] for row in recorded["rows"]] == ["fbank", "teacher", "small"]
    assert differing(recorded, found, 1e-9) == []


@pytest.mark.parametrize("name", ["tradeoff", "timing"])
def test_a_table_of_an_old_document_has_the_recorded_numbers(done, name):
    recorded, found = rows_of((OLD / f"{name}.md").read_text()), rows_of(done(name).out)
    assert len(recorded) == len(found) == 4 and sum(recorded[-1].values()) >= 3
    assert all(old <= new for old, new in zip(recorded, found)), done(name).out


def test_the_trade_off_report_joins_old_exports_results_and_times(folder, done):
    done("tradeoff anew")
    recorded, found = (
        {entry["name"]: entry for entry in read(path)["entries"]}
        for path in (OLD / "tradeoff.json", folder / "tradeoff" / "tradeoff.json")
    )
    assert differing(recorded, found, 1e-9) == []
