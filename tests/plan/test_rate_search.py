"""The suite's search over learning rates, with a fake run_downstream.py."""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import pytest

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
from s3prl_pruned.plan.suite import SETTINGS, runs
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.results.result import TriedRate, read_result, write_result
from s3prl_pruned.superb.tasks import settings
from tests.plan.suites import calls, main, suite

pytestmark = pytest.mark.usefixtures("clone")


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
