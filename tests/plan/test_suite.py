"""The suite's plan, its probe and its table, with a fake run_downstream.py."""

import argparse
import math
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from s3prl_pruned.commands.run_suite import plan_text
from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.plan.probe import OVERRIDE, Probe, probe_all, read_probe
from s3prl_pruned.plan.suite import SETTINGS, parse_tasks, runs
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.tasks import settings
from s3prl_pruned.superb.tasks.drivers import driver_of
from tests.plan.suites import calls, main, suite

pytestmark = pytest.mark.usefixtures("clone")


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
