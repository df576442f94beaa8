"""The mini-score: how much of a teacher's advantage over FBANK a smaller model keeps."""

import dataclasses
import json

import pytest

from s3prl_pruned.commands.score import main
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.results.result import RESULT_FILE, Result, Upstream, write_result
from s3prl_pruned.superb.score.mini_score import COUNTED, as_text, mini_scores
from s3prl_pruned.superb.score.scored_models import ScoredModel


def result(task, percent, **changes):
    metrics = [Value(name=metric.name, value=percent, unit="percent") for metric in TASKS[task].metrics]
    made = Result(
        task=task, split=TASKS[task].test_split, num_utterances=1, metrics=metrics, printed_by_s3prl=[],
        protocol="mini", upstream=Upstream(name="x"),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def row(name, **percent):
    return ScoredModel(
        name=name, sha256=None, results={task: result(task, value) for task, value in percent.items()}, scores={}
    )


FBANK, TEACHER = row("fbank", asr=40.0, sid=20.0), row("teacher", asr=10.0, sid=80.0)


def test_worked_by_hand():
    scores, left_out = mini_scores([FBANK, TEACHER, row("pruned", asr=16.0, sid=50.0)], "fbank", "teacher")
    assert [score.total for score in scores] == pytest.approx([0, 1000, 650])  # 800 of WER, 500 of accuracy
    assert scores[2].terms == pytest.approx({"asr": 800, "sid": 500})
    assert left_out == [f"{task}: fbank or teacher has no result" for task in COUNTED if task not in ("asr", "sid")]


def test_units_are_converted():
    pruned = row("pruned", asr=0.0, sid=50.0)
    pruned.results["asr"] = result("asr", 0.0, metrics=[Value(name="wer", value=0.16, unit="fraction")])
    assert mini_scores([FBANK, TEACHER, pruned], "fbank", "teacher")[0][2].terms["asr"] == pytest.approx(800)


def test_a_task_on_which_the_teacher_is_no_better_is_left_out_and_named():
    for rate in (10.0, 12.0):
        scores, left_out = mini_scores([row("f", asr=40.0, sd=10.0), row("t", asr=10.0, sd=rate)], "f", "t")
        assert list(scores[1].terms) == ["asr"] and "sd: t is no better than f" in left_out


def test_a_task_within_two_spreads_is_left_out():
    rows = [row("f", asr=40.0, sv=30.0), row("t", asr=10.0, sv=20.0)]
    for spread, counted in ((4.9, ["asr", "sv"]), (5.1, ["asr"])):
        scores, left_out = mini_scores(rows, "f", "t", spreads={("sv", "eer"): spread})
        assert list(scores[1].terms) == counted
    assert "sv: t is better than f by 10.0 only, and their seeds spread by 5.1" in left_out


def test_synthetic_tasks_do_not_count():
    scores, left_out = mini_scores([row("f", asr=40.0, er=10.0), row("t", asr=10.0, er=90.0)], "f", "t")
    assert list(scores[0].terms) == ["asr"] and left_out[-1] == "er: synthetic speech in MINI-SUPERB"


def test_a_row_without_a_task_has_no_score():
    rows = [FBANK, TEACHER, row("pruned", asr=16.0)]
    scores, left_out = mini_scores(rows, "fbank", "teacher")
    assert scores[2].total is None and scores[2].missing == ("sid",)
    assert as_text(scores, left_out, "fbank", "teacher").splitlines()[4].split() == ["pruned", "800", "-", "-"]


def test_unknown_rows_other_protocols_and_no_task_that_counts_are_refused():
    with pytest.raises(UserError, match="no row 'wavlm'"):
        mini_scores([FBANK, TEACHER], "fbank", "wavlm")
    other = row("quick", asr=16.0, sid=50.0)
    other.results["asr"] = result("asr", 16.0, protocol="quick")
    with pytest.raises(UserError, match="asr: a mini-score compares runs of one protocol"):
        mini_scores([FBANK, TEACHER, other], "fbank", "teacher")
    with pytest.raises(UserError, match="no task counts"):
        mini_scores([FBANK, TEACHER], "teacher", "fbank")


def test_the_command_prints_it_and_writes_nothing(tmp_path, capsys):
    for name, percent in (("fbank", 40.0), ("teacher", 10.0), ("pruned", 16.0)):
        folder = tmp_path / name / "asr"
        folder.mkdir(parents=True)
        write_result(folder / RESULT_FILE, result("asr", percent, upstream=Upstream(name=name, sha256=name)))
    main([str(tmp_path), "--mini-score", "fbank,teacher", "--format", "json"])
    data = json.loads(capsys.readouterr().out)
    assert {found["name"]: found["mini_score"] for found in data["rows"]} == pytest.approx(
        {"fbank": 0, "teacher": 1000, "pruned": 800}
    )
    main([str(tmp_path), "--mini-score", "fbank,teacher"])
    assert "mini-score, not SUPERB's" in capsys.readouterr().out
    assert not list(tmp_path.glob("superb_score.*"))
    with pytest.raises(UserError, match="must be two rows, FBANK,TEACHER"):
        main([str(tmp_path), "--mini-score", "fbank"])
