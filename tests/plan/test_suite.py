"""The suite's plan, its probe, its learning-rate search and its table, with a fake run_downstream.py."""

import argparse
import json
import math
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from s3prl_pruned.commands.run_suite import plan_text, run_suite
from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.plan.learning_rates import (
    LEARNING_RATES,
    check_searched,
    check_share,
    choose,
    grid,
    short_steps,
    try_folder,
)
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.plan.probe import OVERRIDE, Probe, probe_all, read_probe
from s3prl_pruned.plan.suite import SETTINGS, Suite, parse_tasks, runs
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.results.result import TriedRate, read_result, write_result
from s3prl_pruned.superb.tasks import settings
from s3prl_pruned.superb.tasks.drivers import driver_of

REPO = Path(__file__).resolve().parents[2]
FAKE = '''
"""Writes what run_downstream.py would, of a task whose dev value depends on the learning rate."""
import json, os, re, sys, time
from pathlib import Path
from s3prl_pruned.config import to_dict
from s3prl_pruned.superb.results.trained import TrainedRun, read_choice
from s3prl_pruned.superb.results.result import Checkpoint, Part, Result, Seconds, Upstream, write_json, write_result
from s3prl_pruned.superb.catalogue import TASKS, Value

option = lambda name, default=None: sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default
task, folder, text = TASKS[option("-d")], Path(option("-p")), option("-o", "")
with open("calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if (folder / "result.json").exists():
    sys.exit(print("finished before"))
if Path("broken").exists() and task.name == Path("broken").read_text():
    print("error: no such corpus", file=sys.stderr); sys.exit(2)
folder.mkdir(parents=True, exist_ok=True)
if option("-m") == "train":
    for step in (5, 10, 15):
        path = folder / f"states-{step}.ckpt"; path.touch(); os.utime(path, (0, 1000 + step + 20 * (step == 15)))
rate = re.search(r"optimizer.lr=([^,]+)", text)
distance = abs(float(rate[1]) - 0.01) if rate else 0.5  # 0.01 is best
metric = task.metrics[0]
worse = 40 * distance * (1 if metric.better == "down" else -1)
value = lambda dev: Value(name=metric.name, value=min(50 + worse + dev, 99), unit="percent")
unchanged = task.name == "sv" or rate and float(rate[1]) < 1e-8
dev = Value(name="acc", value=55 - 40 * distance, unit="percent") if task.name == "sd" else value(5)
folds = task.name == "er"
if option("-m") == "train":
    write_json(folder / "trained.json", to_dict(TrainedRun(
        task=task.name, seed=int(option("--seed")), protocol="official", steps=10,
        upstream=Upstream(name=option("-u"), sha256=option("-k")),
        dev=[None if unchanged else dev] * (5 if folds else 1),
    )))
    sys.exit()
(folder / "run.json").touch()
checkpoint = Checkpoint(file="dev-best.ckpt", step=4, rule="best", dev=None if unchanged else dev)
part = Part(
    name="fold1", split="test", num_utterances=3, metrics=[value(0)], printed_by_s3prl=[], checkpoint=checkpoint,
    seconds=Seconds(evaluate=1)
)
choice = read_choice(Path(option("--tried-rates"))) if "--tried-rates" in sys.argv else None
protocol = re.search(r"config.protocol=(\\w+)", text)
write_result(folder / "result.json", Result(
    task=task.name, split=task.test_split, num_utterances=3, metrics=[value(int(option("--seed")) % 2)],
    printed_by_s3prl=[], protocol=protocol[1] if protocol else "official",
    upstream=Upstream(name=option("-u"), sha256=option("-k")),
    tried_rates=choice.with_metrics([value(0)]) if choice else None,
    checkpoint=None if folds else checkpoint, parts=[part] * 5 if folds else None, seed=int(option("--seed")),
))
'''


@pytest.fixture(autouse=True)
def clone(tmp_path, monkeypatch):
    """A folder that is used as the clone's root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    Path("run_downstream.py").write_text(FAKE)
    Path("tools").symlink_to(REPO / "tools")
    return tmp_path


def suite(tasks="asr,ks", *, models=("fbank",), seeds=(1,), **fields):
    return Suite(models=tuple(map(ComparedModel.parse, models)), tasks=parse_tasks(tasks), seeds=seeds, **fields)


def main(suite, **fields):
    fields = {"parallel": 2, "probe": False, "dry_run": False, "scheduler": None, "jobs_dir": Path("jobs"), **fields}
    return run_suite(suite, **fields)


def calls():
    return [json.loads(line) for line in Path("calls").read_text().splitlines()]


def test_every_task_of_every_upstream_and_seed_is_one_call_and_the_table_ends_it(capsys):
    names = ("fbank", "pruned=wavlm_pruned_local:model/seed{seed}")
    status = main(suite("asr,speech_commands", models=names, seeds=(1, 2), options=("--device", "cpu")), parallel=1)
    out = capsys.readouterr().out
    assert status == 0
    assert calls()[:3] == [
        ["-u", "fbank", "-d", "asr", "-a", "-p", "results/fbank-seed1/asr", "--seed", "1", "--device", "cpu"],
        ["-u", "fbank", "-d", "ks", "-a", "-p", "results/fbank-seed1/ks", "--seed", "1", "--device", "cpu"],
        [
            "-u",
            "wavlm_pruned_local",
            "-k",
            "model/seed1",
            "-d",
            "asr",
            "-a",
            "-p",
            "results/pruned-seed1/asr",
            "--seed",
            "1",
            "--device",
            "cpu",
        ],
    ]
    assert len(calls()) == 8 and "model/seed2" in calls()[-1]
    assert "partial, 2 of 10 tasks" in out and "missing pr" in out
    # asr: 50 + 40 * 0.5 + seed % 2, so 71 and 70
    assert "fbank asr wer: 70.50 +- 0.71 % over 2 seeds" in out
    assert Path("results/superb_score.json").exists()


def test_a_failing_task_is_listed_at_the_end_and_the_next_call_goes_on_with_it(capsys):
    Path("broken").write_text("asr")
    assert main(suite("asr,ks,sid")) == 2
    shown = capsys.readouterr()
    assert "partial, 2 of 10 tasks" in shown.out
    assert (
        "failed: fbank/asr: exit status 2: error: no such corpus" in shown.err and "results/fbank/asr.log" in shown.err
    )
    assert "1 of 3 jobs are not finished; the same call tries them again." in shown.err
    Path("broken").unlink()
    assert main(suite("asr,ks,sid")) == 0
    assert "partial, 3 of 10 tasks" in capsys.readouterr().out


def test_nothing_finished_means_no_table(capsys):
    Path("broken").write_text("asr")
    assert main(suite("asr")) == 2
    assert "partial" not in capsys.readouterr().out


def test_a_finished_task_is_called_too_so_that_it_can_refuse_an_existing_result():
    main(suite("ks")), main(suite("ks"))
    assert len(calls()) == 2


def test_the_search_tries_the_benchmarks_rates_and_takes_the_best_on_dev(capsys):
    assert main(suite("asr,ks,er,qbe", learning_rates=LEARNING_RATES)) == 0
    out = capsys.readouterr().out
    for task, sign in (("asr", 1), ("ks", -1), ("er", -1)):  # errors and accuracies
        result = read_result(Path(f"results/fbank/{task}/result.json"))
        assert [tried.learning_rate for tried in result.tried_rates] == [0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
        (chosen,) = (tried for tried in result.tried_rates if tried.chosen)
        assert chosen.learning_rate == 0.01 and chosen.criterion.percent == pytest.approx(55)
        assert result.tried_rates[0].criterion.percent == pytest.approx(55 + sign * 40 * 0.09)
        steps = 100 if task == "asr" else 3000 if task == "er" else 20_000
        assert chosen.folder == f"../lr_search/{task}/lr0.01-{steps}steps"
        assert (Path("results/fbank") / task / chosen.folder / "trained.json").exists()
        assert f"fbank/{task}: learning rate 0.01 (best of 7, " in out
    assert read_result(Path("results/fbank/qbe/result.json")).tried_rates is None  # nothing to train
    assert "config.optimizer.lr=1e-07" in Path("calls").read_text()
    assert "partial, 4 of 10 tasks" in out  # the tries are no rows


def test_a_short_training_without_test_data_for_each_rate_and_a_whole_one_for_the_best(capsys):
    assert main(suite("ks", learning_rates=(0.1, 0.01)), parallel=1) == 0
    tries, (whole,) = calls()[:2], calls()[2:]
    for words, rate in zip(tries, (0.1, 0.01), strict=True):
        assert words[words.index("-m") + 1] == "train"
        assert words[-1] == (
            f"config.optimizer.lr={rate},,config.runner.total_steps=20000,,config.runner.eval_step=5000,,"
            "config.runner.save_step=5000,,config.runner.eval_dataloaders=[dev]"
        )
    assert "-m" not in whole and whole[-1] == "config.optimizer.lr=0.01"
    assert [path.name for path in Path("results").rglob("result.json")] == ["result.json"]
    out = capsys.readouterr().out
    assert "2 short trainings, 40000 steps in total, in addition to 200000 steps with the chosen rates (+20 %)" in out
    assert out.index("short trainings") < out.index("started")  # said before anything runs


def test_no_try_of_any_task_reads_test_data(clone):
    (clone / "my.yaml").write_text("".join(f"{task}: corpus\n" for task in TASKS))
    for task_run in runs(suite("all", own_grids=True, paths="my.yaml")):
        for planned in task_run.jobs()[:-1]:  # the last one is the whole training
            _, config = settings.override(
                argparse.Namespace(), load_yaml(SETTINGS / f"{task_run.task.name}.yaml"), planned.command[-1]
            )
            settings.check(config)
            assert config["runner"]["eval_dataloaders"] == ["dev-clean" if task_run.task.name == "asr" else "dev"]
            assert "train" in planned.command  # -m, so that nothing is evaluated after it


def test_each_task_is_searched_around_its_own_rate_unless_it_has_rates_of_its_own():
    searched = runs(suite("pr,ks,sid,qbe,sv", own_grids=True, rates_of_tasks={"sid": (0.3,)}))
    assert {one.task.name: one.rates for one in searched} == {
        "pr": (0.1, 0.01, 1e-3, 1e-4, 1e-5),  # 0.01 in its settings, the benchmark's highest being 0.1
        "ks": (0.01, 1e-3, 1e-4, 1e-5, 1e-6),
        "sid": (0.3,),
        "qbe": (),
        "sv": (),
    }
    assert [grid(rate)[0] for rate in (5.0, 2e-3, 1e-9)] == [0.1, 0.1, 1e-3]
    config = {"runner": {"total_steps": 30_000, "eval_step": 4_000}}
    assert [short_steps(config, share) for share in (0.1, 0.01, 1.0)] == [4_000, 4_000, 30_000]


def test_what_cannot_be_searched_without_test_data_is_not_and_the_plan_says_why(capsys):
    assert main(suite("sv,qbe", learning_rates=(0.01, 0.1))) == 0
    assert len(calls()) == 2 and "optimizer.lr" not in Path("calls").read_text()
    assert read_result(Path("results/fbank/sv/result.json")).tried_rates is None
    assert "no learning-rate search: the benchmark has no development set for it" in capsys.readouterr().out
    with pytest.raises(UserError, match="--lr sv=...: is not searched, since the benchmark has no development set"):
        check_searched({"sv": (0.1,)})
    with pytest.raises(UserError, match="at most 1, but is 2"):
        check_share(2)


def test_diarization_is_searched_by_its_accuracy_on_dev_though_it_is_scored_by_an_error():
    assert main(suite("sd", learning_rates=(0.1, 0.01))) == 0
    result = read_result(Path("results/fbank/sd/result.json"))
    assert [(tried.criterion.name, tried.chosen) for tried in result.tried_rates] == [("acc", False), ("acc", True)]
    assert [value.name for value in result.metrics] == ["der"]


def test_another_choice_moves_the_earlier_aside_and_records_what_else_was_tried():
    main(suite("ks", learning_rates=(0.1, 0.001)))
    main(suite("ks", learning_rates=(0.01, 0.1)))
    result = read_result(Path("results/fbank/ks/result.json"))
    assert [(tried.learning_rate, tried.criterion is None, tried.chosen) for tried in result.tried_rates] == [
        (0.01, False, True), (0.1, False, False), (0.001, True, False),
    ]  # fmt: skip
    assert read_result(Path("results/fbank/ks.old-1/result.json")).tried_rates[1].chosen
    main(suite("ks", learning_rates=(0.01, 0.001)))  # the same choice
    assert not Path("results/fbank/ks.old-2").exists()
    again = read_result(Path("results/fbank/ks/result.json"))
    assert [tried.learning_rate for tried in again.tried_rates] == [0.01, 0.001, 0.1]
    assert again.tried_rates[0].metrics == again.metrics


def test_the_run_of_an_earlier_version_is_moved_aside_before_its_result_is_touched():
    main(suite("ks", learning_rates=(0.1, 0.01)))
    Path("results/fbank/ks/run.json").unlink()
    before = Path("results/fbank/ks/result.json").read_bytes()
    assert main(suite("ks", learning_rates=(0.01, 0.001))) == 0  # the same choice, beside another rate
    assert Path("results/fbank/ks.old-1/result.json").read_bytes() == before
    assert [tried.learning_rate for tried in read_result(Path("results/fbank/ks/result.json")).tried_rates] == [
        0.01, 0.001, 0.1,
    ]  # fmt: skip


def test_the_old_search_of_a_task_that_is_no_longer_searched_stops_no_other_task():
    main(suite("ks,sv", learning_rates=(0.1, 0.01)))
    path = Path("results/fbank/sv/result.json")
    write_result(path, replace(read_result(path), tried_rates=[TriedRate(learning_rate=0.1, folder=".", chosen=True)]))
    assert main(suite("ks,sv", learning_rates=(0.1, 0.01))) == 0


def test_rates_of_many_digits_are_chosen_as_they_were_tried():
    rates = (0.01234567, 0.01234568)
    assert main(suite("ks", learning_rates=rates)) == 0
    result = read_result(Path("results/fbank/ks/result.json"))
    assert [tried.learning_rate for tried in result.tried_rates] == list(rates)
    assert try_folder(Path("a/ks"), 1e-5, 10).name == "lr1e-05-10steps"  # as in earlier versions


def test_a_search_that_was_stopped_in_its_whole_training_goes_on_with_it():
    main(suite("ks", learning_rates=(0.1, 0.01)))
    Path("results/fbank/ks/result.json").rename("results/fbank/ks/states-1.ckpt")
    assert main(suite("ks", learning_rates=(0.1, 0.01))) == 0
    assert not Path("results/fbank/ks.old-1").exists() and Path("results/fbank/ks/result.json").exists()


def test_nothing_is_chosen_while_a_rate_is_missing_and_other_models_are_refused():
    main(suite("ks", learning_rates=(0.1,)))
    with pytest.raises(UserError, match="lr0.01-20000steps: is not finished"):
        choose(Path("results/fbank/ks"), (0.1, 0.01), 20_000)
    main(suite("ks", models=("fbank=fbank:other",), learning_rates=(0.01,)))
    with pytest.raises(UserError, match="of one model and seed"):
        choose(Path("results/fbank/ks"), (0.1, 0.01), 20_000)


@pytest.mark.parametrize("task", ["asr", "er"])
def test_a_rate_that_changes_nothing_is_recorded_and_never_chosen(task, capsys):
    main(suite(task, learning_rates=(1e-9, 0.1)))
    tried = read_result(Path(f"results/fbank/{task}/result.json")).tried_rates
    assert [(one.criterion is None, one.metrics is None, one.chosen) for one in tried] == [
        (True, True, False),
        (False, False, True),
    ]
    with pytest.raises(UserError, match="with none of the rates did it improve on the start"):
        choose(Path(f"results/fbank/{task}"), (1e-9,), 100 if task == "asr" else 3000)


def test_a_try_that_fails_stops_the_choice_only(capsys):
    Path("broken").write_text("ks")
    assert main(suite("ks,asr", learning_rates=(0.1, 0.01))) == 2
    shown = capsys.readouterr()
    assert re.search(r"failed: fbank/ks: not called, since fbank/ks/lr0.0?1 failed", shown.err)
    assert "fbank/asr: learning rate 0.01 (best of 2, " in shown.out


def test_searched_and_plain_runs_do_not_share_a_folder():
    main(suite("ks"))
    with pytest.raises(UserError, match="holds a run without a learning-rate search"):
        main(suite("ks", learning_rates=(0.1,)))
    main(suite("asr", learning_rates=(0.1,)))
    with pytest.raises(UserError, match="holds the result of a learning-rate search"):
        main(suite("asr"))


@pytest.mark.parametrize("names", [("a=fbank", "a=wavlm"), ("a/b=fbank",), ("..",)])
def test_rows_must_be_folders_of_one_upstream(names):
    with pytest.raises(UserError, match="must be a folder's name, and of one upstream only"):
        runs(suite(models=names))


def test_an_unknown_task_is_refused_and_all_are_ten():
    with pytest.raises(UserError, match="Did you mean `asr`"):
        parse_tasks("ks,ars")
    assert [task.name for task in parse_tasks("all")] == list(TASKS)
    assert [task.name for task in parse_tasks("ks,speech_commands")] == ["ks"]


def test_a_quick_suite_says_so_in_every_result_and_leaves_the_users_overrides_the_last_word(capsys):
    Path("my.yaml").write_text("asr: LibriSpeech\n")
    main(suite("asr,er", protocol="quick", override="config.runner.total_steps=50", paths="my.yaml"))
    out = capsys.readouterr().out
    assert (
        "2 tasks into results, quick protocol: not comparable" in out and "asr: quick protocol, not comparable" in out
    )
    assert {read_result(Path(f"results/fbank/{task}/result.json")).protocol for task in ("asr", "er")} == {"quick"}
    (asr,) = (call for call in calls() if "asr" in call)
    assert asr[asr.index("--paths") + 1] == "my.yaml"
    assert asr[-1] == (
        "config.protocol=quick,,config.runner.total_steps=20000,,config.runner.eval_step=1000,,config.runner.save_step=500,,"
        "config.runner.total_steps=50"
    )


@pytest.mark.parametrize("path", sorted((SETTINGS / "quick").glob("[!q]*.yaml")), ids=lambda path: path.stem)
def test_quick_settings_are_shorter_than_those_that_they_change_and_can_be_run(path):
    quick = load_yaml(path)
    assert quick["protocol"] == "quick" and set(quick) == {"protocol", "runner"}
    runner = quick["runner"]
    assert runner["total_steps"] % runner["save_step"] == 0 and runner["total_steps"] % runner["eval_step"] == 0
    official = load_yaml(SETTINGS / path.name)
    assert runner["total_steps"] < official["runner"]["total_steps"]
    official["runner"].update(runner)
    settings.check(official)


def test_every_task_has_quick_settings_and_where_nothing_is_trained_they_are_empty():
    assert load_yaml(SETTINGS / "quick" / "qbe.yaml") == {}
    assert {path.stem for path in (SETTINGS / "quick").glob("*.yaml")} == {*TASKS, "embedded_asr"}


def test_every_task_has_mini_settings_that_change_only_what_the_benchmarks_settings_have(clone):
    (clone / "my.yaml").write_text("".join(f"{task}: corpus\n" for task in TASKS))
    for task_run in runs(suite("all", protocol="mini", paths="my.yaml", cache_features=True)):
        kept = "--cache-features" in task_run.command(clone)
        assert kept == (task_run.task.name != "ks")  # whose seconds of silence are cut at random
        official = load_yaml(SETTINGS / f"{task_run.task.name}.yaml")
        trains = driver_of(task_run.task).trains
        _, config = settings.override(argparse.Namespace(), official, task_run.overrides(), trains=trains)
        settings.check(config, trains=trains)
        assert config["protocol"] == "mini" and config == settings.numbers(task_run.config())
    with pytest.raises(UserError, match="--protocol mini: has no embedded_asr.yaml. Name the corpus of asr by --paths"):
        runs(suite("asr", protocol="mini"))[0].command(Path("run"))


def test_what_a_suite_overrides_of_trainings_is_left_out_where_nothing_is_trained_and_the_plan_says_so(capsys):
    overrides = "config.runner.total_steps=50,,config.optimizer.lr=1e-3,,config.downstream_expert.datarc.num_workers=0"
    assert main(suite("ks,qbe", protocol="quick", override=overrides), parallel=1) == 0
    ks, qbe = (call[-1] for call in calls())
    assert ks.endswith(overrides) and qbe == "config.downstream_expert.datarc.num_workers=0"
    out = capsys.readouterr().out
    assert out.count("no training, so ignored: config.runner.total_steps=50, config.optimizer.lr=1e-3") == 1
    (qbe,) = runs(suite("qbe", override="config.runner.total_steps=50"))
    assert probe_all([qbe]) == {} and len(calls()) == 2  # nor is it probed


def test_the_plan_shows_steps_rates_times_and_what_is_finished():
    main(suite("ks"))
    searched = runs(suite("asr,qbe", learning_rates=(0.1, 0.01)))
    lines = plan_text(searched, {"fbank/asr": 3600.0}, parallel=2).splitlines()
    assert lines[1].split() == ["fbank/asr", "600", "2", "x", "100", "1", "h", "20", "min"]  # 2 x a sixth of an hour
    assert " ".join(lines[2].split()) == ("fbank/qbe - - - no corpus; no learning-rate search: nothing is trained")
    assert lines[3].startswith("learning-rate search: 2 short trainings, 200 steps in total, in addition to 600 steps")
    assert lines[4] == "estimated total: 1 h 0 min with 2 parallel jobs, without the tasks of unknown time"
    (finished,) = plan_text(runs(suite("ks")), {}, parallel=1).splitlines()[1:]
    assert finished.split()[-1] == "finished"


@pytest.mark.parametrize("how", ["paths.yaml", "other.yaml", "variable", "option"])
def test_where_a_corpus_is_named_the_benchmarks_settings_are_planned_and_else_the_embedded_speech(how, monkeypatch):
    named = {}
    if how == "variable":
        monkeypatch.setenv("S3PRL_PRUNED_ASR_CORPUS", "/data/LibriSpeech")
    elif how == "option":
        named = {"options": ("--corpus", "/data/LibriSpeech")}
    else:
        Path(how).write_text("asr: /data/LibriSpeech\n")
        named = {"paths": how} if how == "other.yaml" else {}
    (asr,) = runs(suite("asr", **named))
    assert asr.config()["runner"]["total_steps"] == 200_000
    for file in Path().glob("*.yaml"):
        file.unlink()
    monkeypatch.delenv("S3PRL_PRUNED_ASR_CORPUS", raising=False)
    (asr,) = runs(suite("asr"))
    assert asr.config()["runner"]["total_steps"] == 600


def test_the_total_time_is_estimated_from_a_few_steps(monkeypatch):
    """The stand-in takes 1 s a step and 20 s for the evaluation at step 15, by its files' times."""
    found = probe_all(runs(suite("asr", seeds=(1, 2), learning_rates=(0.1,))))
    assert len(calls()) == 1 and calls()[0][calls()[0].index("-m") + 1] == "train"
    assert calls()[0][-1] == OVERRIDE
    steps, evaluations = 600, 600 // 100 + 1
    assert found == {f"fbank-seed{seed}/asr": pytest.approx(steps * 1 + evaluations * 20) for seed in (1, 2)}
    assert not Path("results").exists()


def test_a_probe_counts_folds_and_separates_the_start_from_steps(tmp_path):
    config = yaml.safe_load("runner: {total_steps: 100, eval_step: 50}")
    probe = Probe(start=10, step=2, evaluation=5)
    assert probe.estimate(config, "ks") == 10 + 200 + 3 * 5
    assert probe.estimate(config, "er") == 5 * 225
    (tmp_path / "fold1").mkdir()
    for step, time in ((5, 10), (10, 20), (15, 33)):
        path = tmp_path / "fold1" / f"states-{step}.ckpt"
        path.touch()
        os.utime(path, (time, time))
    assert read_probe(tmp_path, 40.0) == Probe(start=7.0, step=2.0, evaluation=3.0)
    assert read_probe(tmp_path / "none", 40.0) is None


def test_a_failed_probe_leaves_the_time_unknown_and_the_plan_usable(capsys):
    Path("broken").write_text("asr")
    assert probe_all(runs(suite("asr"))) == {}
    assert main(suite("asr"), probe=True, dry_run=True) == 0
    assert "probe of fbank/asr: FAILED, exit status 2: error: no such corpus" in capsys.readouterr().out


def test_scripts_do_what_the_suite_does(capsys):
    asked = suite("ks,asr", learning_rates=(0.1, 0.01))
    assert main(asked, scheduler="shell") == 0
    assert not Path("results").exists()
    called = subprocess.run(["bash", "jobs/run_all.sh", "2"], capture_output=True, text=True)
    assert called.returncode == 0, called.stderr
    assert read_result(Path("results/fbank/ks/result.json")).tried_rates[1].chosen
    assert "partial, 2 of 10 tasks" in Path("results/superb_score.log").read_text()


def test_slurm_gets_the_times_of_an_earlier_probe(capsys):
    asked = suite("asr,qbe", learning_rates=(0.1,), options=("--device", "cpu"))
    assert main(asked, probe=True, dry_run=True) == 0 and len(calls()) == 1
    assert main(asked, scheduler="slurm") == 0 and len(calls()) == 1  # nothing runs where jobs are submitted
    submits = [line for line in Path("jobs/submit.sh").read_text().splitlines() if "$(submit " in line]
    (tried,) = (line for line in submits if "lr0.1" in line)
    (whole,) = (line for line in submits if "002-fbank_asr.sh" in line)
    (searching,) = (line for line in submits if "qbe" in line)
    seconds = 600 + 7 * 20  # by the stand-in
    assert f"--time={math.ceil(1.5 * seconds / 6 / 60) + 10})" in tried and 'sh "" ' in tried
    assert f"--time={math.ceil(1.5 * seconds / 60) + 10})" in whole and 'sh ":$job001" ' in whole  # its own rates alone
    assert "--time" not in searching and "--cpus-per-task=16" in searching and "gres" not in "".join(submits)
    assert "no time limit for fbank/qbe, since the time is unknown." in capsys.readouterr().out
    shorter = suite("asr", override="config.runner.total_steps=300", options=("--device", "cpu"))
    assert main(shorter, scheduler="slurm", jobs_dir=Path("others")) == 0
    assert "--time" not in Path("others/submit.sh").read_text()  # nothing is known about other numbers of steps


def test_outside_the_clone_the_error_says_so(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(UserError, match="must be the root of the clone"):
        main(suite())
