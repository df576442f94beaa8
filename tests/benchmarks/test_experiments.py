"""Experiments: the plan of a table, and the table of what is finished."""

import json

import pytest

from benchmarks.experiments.collect import add_speeds, collect
from benchmarks.experiments.experiment import EXPERIMENTS, Experiment, Planned, load_experiment
from benchmarks.experiments.figure import draw_scores
from benchmarks.experiments.table import as_markdown
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.formats.folder import save_encoder
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.sparsity.counts import macs, realised_sparsity
from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.results.result import RESULT_FILE, Result, Upstream, write_result

ROWS = [
    {"name": "fbank", "upstream": "fbank"},
    {"name": "teacher", "upstream": "wavlm_embedded"},
    {"name": "small", "recipe": "embedded", "override": "sparsity.target_sparsity=0.5"},
    {"name": "twice", "recipe": "embedded", "second_stage": "embedded"},
]


def experiment(**changes):
    data = {"title": "t", "claim": "c", "rows": ROWS, "tasks": ["asr", "sid"], "seeds": [1, 2], "steps": 90, **changes}
    return from_dict(Experiment, data, "test")


def paths(tmp_path):
    """Corpora of all tasks, so that the mini protocol's settings are used."""
    (tmp_path / "paths.yaml").write_text("".join(f"{task}: {tmp_path}\n" for task in TASKS))
    return str(tmp_path / "paths.yaml")


def planned(tmp_path, **changes):
    return Planned(experiment=experiment(**changes), folder=tmp_path, paths=paths(tmp_path))


def test_tasks_wait_for_their_own_models_last_stage(tmp_path):
    jobs = {job.name: job for job in planned(tmp_path).jobs()}
    assert len(jobs) == 2 * (1 + 2) + 2 * 4 * 2  # pruning: one stage and two; four rows with two tasks
    assert jobs["fbank-seed1/asr"].after == () and jobs["teacher-seed2/sid"].after == ()
    assert jobs["small-seed2/asr"].after == ("pretrain/small-seed2",)
    assert jobs["twice-seed1/sid"].after == ("second_stage/twice-seed1",)
    assert jobs["second_stage/twice-seed1"].after == ("pretrain/twice-seed1",)
    assert str(tmp_path / "second_stage/twice-seed2/export") in jobs["twice-seed2/asr"].command
    assert "--cache-features" in jobs["fbank-seed1/asr"].command
    assert ["seed1" in name for name in jobs] == [True] * 11 + [False] * 11  # a seed is complete before the next begins


def test_rows_of_one_seed_use_the_same_folders_as_rows_of_several(tmp_path):
    assert {"fbank-seed1/asr", "pretrain/small-seed1"} <= {job.name for job in planned(tmp_path, seeds=[1]).jobs()}


def test_all_stages_together_have_the_experiments_steps(tmp_path):
    jobs = {job.name: job.command for job in planned(tmp_path).jobs()}
    assert jobs["pretrain/small-seed1"][-1] == "runner.total_steps=90,,sparsity.target_sparsity=0.5"
    assert (
        jobs["pretrain/twice-seed1"][-1] == "runner.total_steps=60"
        and jobs["second_stage/twice-seed1"][-1] == "runner.total_steps=30"
    )
    student = jobs["second_stage/twice-seed1"].index("--student")
    assert jobs["second_stage/twice-seed1"][student + 1] == str(tmp_path / "pretrain/twice-seed1/export")
    one_step = {job.name for job in planned(tmp_path, steps=1).jobs()}
    assert "pretrain/twice-seed1" in one_step and "second_stage/twice-seed1" not in one_step, "it has no steps"


def test_settings_of_the_experiment_are_those_of_all_stages(tmp_path):
    jobs = {job.name: job.command[-1] for job in planned(tmp_path, override="runner.save_step=7").jobs()}
    assert jobs["pretrain/small-seed1"] == "runner.total_steps=90,,runner.save_step=7,,sparsity.target_sparsity=0.5"
    assert jobs["second_stage/twice-seed1"] == "runner.total_steps=30,,runner.save_step=7"


def finish(tmp_path, row, seed, task, percent):
    metrics = [Value(name=metric.name, value=percent, unit="percent") for metric in TASKS[task].metrics]
    folder = tmp_path / "results" / f"{row}-seed{seed}" / task
    folder.mkdir(parents=True)
    upstream = Upstream(name=row, num_parameters=None if row == "fbank" else 5_000_000)
    result = Result(
        task=task,
        split=TASKS[task].test_split,
        num_utterances=1,
        metrics=metrics,
        printed_by_s3prl=[],
        protocol="mini",
        upstream=upstream,
    )
    write_result(folder / RESULT_FILE, result)


def test_the_table_worked_by_hand(tmp_path):
    rates = {"fbank": (50, 40), "teacher": (20, 10), "small": (33, 18)}  # WER by seed: means 45, 15, 25.5
    for row, of_seeds in rates.items():
        for seed, rate in zip((1, 2), of_seeds):
            finish(tmp_path, row, seed, "asr", rate)
    spec = random_spec(tiny_base(), seed=0)
    encoder = random_encoder(tiny_base(), seed=0, spec=spec)
    model = from_dict(ModelConfig, {"sparsity": {"target": {"of": "params", "share": 0.5}}}, "recipe")
    made = {"model": to_dict(model), "runner": {"runner": {"total_steps": 90}}}  # as a run records it
    save_encoder(tmp_path / "pretrain" / "small-seed1" / "export", encoder, {"method": "test", "recipe": made})

    data = collect(planned(tmp_path, tasks=["asr"]))
    fbank, teacher, small, twice = data["rows"]
    assert small["metrics"] == {"asr": {"wer": [33, 18]}} and small["seeds"] == [1, 2] and twice["metrics"] == {}
    assert fbank["mini_score"]["score"] == 0 and teacher["mini_score"]["score"] == 1000
    assert small["mini_score"]["score"] == pytest.approx(650)  # 19.5 of 30 points
    assert small["mini_score"]["seeds"] == pytest.approx([400, 900])  # 12 and 27 of 30
    assert small["params"] == encoder.num_parameters()
    assert small["macs"] == sum(macs(tiny_base(), spec, 80_000).values())
    assert small["sparsity"] == realised_sparsity(tiny_base(), spec)
    assert "params" not in fbank and teacher["params"] == 5e6 and "macs" not in teacher
    add_speeds(planned(tmp_path, tasks=["asr"]), data, repeats=3)
    assert [len(row["speed"]) for row in data["rows"]] == [0, 0, 1, 0]
    dense, only = data["timing"]["results"]
    assert dense["params"] == SpeechEncoder(tiny_base()).num_parameters() and only["params"] == encoder.num_parameters()
    assert small["speed"] == [only["ratio"]] and only["seconds"] > 0
    line = next(line for line in as_markdown(data).splitlines() if line.startswith("| small"))
    assert line.endswith(f"| {only['ratio']:.2f} | 25.5 +- 10.6 | 650 +- 354 |")  # 7.5 * sqrt(2), 250 * sqrt(2)
    assert draw_scores(json.loads(json.dumps(data)), tmp_path / "figure.png").stat().st_size > 1000
    for changes, message in (
        ({"steps": 60}, "runner.total_steps=60"),
        ({"rows": [*ROWS[:2], {**ROWS[2], "override": "sparsity.target_sparsity=0.6"}]}, "0.6"),
    ):
        with pytest.raises(UserError, match=f"was not made with .*{message}, which row 'small' asks for"):
            collect(planned(tmp_path, tasks=["asr"], **changes))
    assert (
        draw_scores({**data, "rows": [fbank, twice]}, tmp_path / "none.png") is None
        and not (tmp_path / "none.png").exists()
    )


def test_a_task_whose_ends_differ_by_less_than_their_seeds_is_left_out(tmp_path):
    for row, of_seeds in {"fbank": (50, 40), "teacher": (45, 25)}.items():
        for seed, rate in zip((1, 2), of_seeds):
            finish(tmp_path, row, seed, "sv", rate)
            finish(tmp_path, row, seed, "asr", rate if row == "fbank" else 10)
    data = collect(planned(tmp_path, tasks=["asr", "sv"]))  # variances 50 and 200: 11.2 in the mean
    assert (
        "sv: teacher is better than fbank by 10.0 only, and their seeds spread by 11.2"
        in data["mini_score"]["left_out"]
    )
    assert list(data["rows"][0]["mini_score"]["terms"]) == ["asr"]
    assert data["rows"][1]["metrics"]["sv"] == {"eer": [45, 25]}


def test_a_table_without_a_task_that_counts_has_no_scores(tmp_path):
    for row in ("fbank", "teacher"):
        for seed in (1, 2):
            finish(tmp_path, row, seed, "sv", 20 + 10 * seed)
    data = collect(planned(tmp_path, tasks=["sv"]))
    assert data["rows"][0]["metrics"] == {"sv": {"eer": [30, 40]}} and data["rows"][0]["mini_score"] is None
    assert "sv: teacher is no better than fbank" in data["mini_score"]["left_out"]


def test_what_is_not_finished_is_said(tmp_path):
    with pytest.raises(UserError, match="no task is finished"):
        collect(planned(tmp_path))
    finish(tmp_path, "small", 1, "asr", 30)
    data = collect(planned(tmp_path))
    assert (
        data["mini_score"]["left_out"] == ["fbank or teacher is not finished"] and data["rows"][2]["mini_score"] is None
    )
    finish(tmp_path, "fbank", 1, "asr", 50)
    finish(tmp_path, "teacher", 1, "asr", 10)
    assert "sid: fbank or teacher has no result" in collect(planned(tmp_path))["mini_score"]["left_out"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rows": [*ROWS, ROWS[0]]}, "rows must differ in name"),
        ({"high": "wavlm"}, "rows must differ in name and have 'fbank' and 'wavlm' among them"),
        ({"rows": [*ROWS, {"name": "x"}]}, "row 'x': must set either `upstream` or `recipe`"),
        ({"rows": [*ROWS, {"name": "x", "upstream": "fbank", "override": "a=1"}]}, "are for pruning runs"),
        ({"protocol": "official"}, "`protocol` must be null or one of"),
        ({"seeds": []}, "must not be empty"),
    ],
)
def test_impossible_experiments_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        experiment(**changes)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_committed_experiments_can_be_planned(path, tmp_path):
    assert Planned(experiment=load_experiment(path.stem), folder=tmp_path, paths=paths(tmp_path)).jobs()


def test_rows_of_one_name_are_the_same_in_all_committed_experiments():
    found: dict[str, list] = {}
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        for row in load_experiment(str(path)).rows:
            found.setdefault(row.name, []).append(row)
    assert len(found["proposed"]) > 3 and all(row == rows[0] for rows in found.values() for row in rows)


def test_an_unknown_experiment_names_the_known_ones():
    with pytest.raises(UserError, match="Known: .*table1"):
        load_experiment("table9")
