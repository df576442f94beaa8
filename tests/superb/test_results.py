"""Results are read back as they were written; what cannot be a result is refused."""

import dataclasses
import json

import pytest

from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.superb.collect import finished_runs
from s3prl_pruned.superb.results import (
    RESULT_FILE, RUN_FILE, Checkpoint, Result, Seconds, SplitRead, Upstream, Versions,
    error_rates, read_arks, read_result, write_result,
)  # fmt: skip
from s3prl_pruned.superb.tasks import Value


def a_result(**changes):
    result = Result(
        task="asr",
        split="test-clean",
        num_utterances=2,
        metrics=[Value(name="wer", value=50.0, unit="percent"), Value(name="cer", value=20.0, unit="percent")],
        printed_by_s3prl=[Value(name="uer", value=21.0, unit="percent")],
        protocol="shortened",
        upstream=Upstream(name="wavlm_pruned", sha256="ab" * 32, teacher_note="random teacher"),
        checkpoint=Checkpoint(file="dev-clean-best.ckpt", step=4, rule="lowest WER on dev-clean"),
        splits=[SplitRead(key="test-clean", folder="test", num_utterances=2, sha256="cd" * 32)],
        versions=Versions(s3prl_pruned="0", s3prl="0.4.18", torch="2", torchaudio="2", python="3"),
        seconds=Seconds(train=None, evaluate=1.5),
    )
    return dataclasses.replace(result, **changes)


def an_s3prl_run(folder, hyp="1-7-0000 ONE\n1-7-0001\n", ref="1-7-0000 ONE\n1-7-0001 ONE TWO\n"):
    """What s3prl's asr leaves of an evaluation."""
    folder.mkdir(parents=True)
    (folder / "test-clean-noLM-hyp.ark").write_text(hyp)
    (folder / "test-clean-noLM-ref.ark").write_text(ref)
    return folder


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    write_result(tmp_path / RESULT_FILE, a_result())
    assert read_result(tmp_path / RESULT_FILE) == a_result()
    assert [path.name for path in tmp_path.iterdir()] == [RESULT_FILE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["metrics"][0].pop("unit"), r"metrics\[0\].unit: required, but not given"),
        (lambda data: data["metrics"][0].update(unit="permille"), "must be one of percent, fraction"),
        (lambda data: data["metrics"][0].update(value=float("nan")), r"metrics\[0\].value: must be a finite number"),
        (lambda data: data["metrics"][0].update(value=-3.0), "wer must be at least 0 percent, but is -3 percent"),
        (lambda data: data["metrics"].append(data["metrics"][0]), "wer is given twice"),
        (lambda data: data.update(task="ars"), "no such SUPERB task. Did you mean `asr`"),
        (lambda data: data.update(task="ks", metrics=[dict(name="acc", value=96, unit="fraction")]),
         "acc must be between 0 and 100 percent, but is 96 fraction"),
        (lambda data: data.update(metric=1), "unknown key. Did you mean `metrics`"),
    ],
)  # fmt: skip
def test_an_impossible_result_is_refused_by_name(tmp_path, change, message):
    data = to_dict(a_result())
    change(data)
    path = tmp_path / RESULT_FILE
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message) as error:
        read_result(path)
    assert str(path) in str(error.value)


def test_a_half_written_result_is_refused(tmp_path):
    path = tmp_path / RESULT_FILE
    write_result(path, a_result())
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="is not complete JSON .* run the task again"):
        read_result(path)


def test_error_rates_count_edits_over_reference_length():
    # By hand: words 1 substitution + 1 deletion of 5; characters: "ONE TWO" 7, "A CAT SAT" 9.
    references = {"a": "ONE TWO", "b": "A CAT SAT"}
    hypotheses = {"a": "ONE TOO", "b": "A SAT"}
    wer, cer = error_rates(hypotheses, references)
    assert (wer.name, wer.value, wer.unit) == ("wer", 100 * 2 / 5, "percent")
    assert (cer.name, cer.value, cer.unit) == ("cer", 100 * (1 + 4) / 16, "percent")
    wer, _ = error_rates({"a": "A B C"}, {"a": "X"})
    assert wer.value == 300
    with pytest.raises(UserError, match="there is nothing to score"):
        error_rates({"a": ""}, {"a": ""})


def test_an_empty_hypothesis_is_kept(tmp_path):
    hypotheses, references = read_arks(an_s3prl_run(tmp_path / "asr"), "test-clean")
    assert hypotheses == {"1-7-0000": "ONE", "1-7-0001": ""}
    assert references["1-7-0001"] == "ONE TWO"


@pytest.mark.parametrize(
    ("hyp", "message"),
    [
        ("1-7-0000 ONE\n", r"must hold the same utterances, but 1 stand in one of them only \(1-7-0001\)"),
        ("1-7-0000 ONE\n1-7-0000 ONE\n", "every line must begin with another utterance's id"),
        ("", "is empty"),
    ],
)
def test_arks_that_do_not_fit_together_are_refused(tmp_path, hyp, message):
    with pytest.raises(UserError, match=message):
        read_arks(an_s3prl_run(tmp_path / "asr", hyp=hyp), "test-clean")


def test_rows_hold_our_results_and_s3prls_own_runs(tmp_path):
    ours = tmp_path / "wavlm_pruned" / "asr"
    ours.mkdir(parents=True)
    write_result(ours / RESULT_FILE, a_result())
    theirs = an_s3prl_run(tmp_path / "hubert" / "asr")
    (theirs / "args_2024-01-01-00-00-00.yaml").write_text("upstream: hubert_base\n")
    begun = tmp_path / "fbank" / "asr"
    begun.mkdir(parents=True)
    (begun / RUN_FILE).write_text("{}")
    (tmp_path / "notes").mkdir()
    aside = tmp_path / "hubert" / "asr.old-1"
    an_s3prl_run(aside)

    rows, unfinished = finished_runs(tmp_path)
    assert list(rows) == ["hubert", "wavlm_pruned"] and unfinished == [begun]
    (foreign,) = rows["hubert"]
    assert foreign.upstream == Upstream(name="hubert_base")
    assert foreign.protocol == "unknown" and foreign.values()["wer"].value == pytest.approx(100 * 2 / 3)
    for root in (tmp_path / "wavlm_pruned", ours):
        assert finished_runs(root)[0] == {"wavlm_pruned": [a_result()]}


def test_a_run_in_a_folder_of_any_name_is_a_row_of_its_own(tmp_path):
    an_s3prl_run(tmp_path / "downstream" / "ExpName")  # where s3prl writes
    an_s3prl_run(tmp_path / "downstream" / "Other", hyp="1-7-0000\n1-7-0001\n")
    rows, _ = finished_runs(tmp_path / "downstream")
    assert {name: results[0].values()["wer"].value for name, results in rows.items()} == {
        "ExpName": pytest.approx(200 / 3), "Other": 100,
    }  # fmt: skip
    assert list(finished_runs(tmp_path / "downstream" / "ExpName")[0]) == ["ExpName"]
    write_result(tmp_path / "downstream" / "ExpName" / RESULT_FILE, a_result())
    assert finished_runs(tmp_path)[0]["ExpName"] == [a_result()]


def test_hypotheses_without_references_are_half_a_run(tmp_path):
    (an_s3prl_run(tmp_path / "asr") / "test-clean-noLM-ref.ark").unlink()
    with pytest.raises(UserError, match="test-clean-noLM-ref.ark: cannot be read .* Evaluate the run again"):
        finished_runs(tmp_path)


def test_an_unfinished_run_of_ours_is_not_taken_for_s3prls(tmp_path):
    folder = an_s3prl_run(tmp_path / "fbank" / "asr")
    (folder / RUN_FILE).write_text("{}")  # killed between evaluation and result
    assert finished_runs(tmp_path) == ({}, [folder])


def test_a_folder_without_results_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"holds no results, .* run_downstream.py -u wavlm_pruned -d asr"):
        finished_runs(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        finished_runs(tmp_path / "results")


def test_a_result_in_another_tasks_folder_and_a_task_twice_are_refused(tmp_path):
    (tmp_path / "x" / "ks").mkdir(parents=True)
    write_result(tmp_path / "x" / "ks" / RESULT_FILE, a_result())
    with pytest.raises(UserError, match="is a result of task asr, but its folder says ks"):
        finished_runs(tmp_path)
    (tmp_path / "x" / "ks" / RESULT_FILE).unlink()
    for name in ("ks", "speech_commands"):
        (tmp_path / "y" / name).mkdir(parents=True)
        result = a_result(task="ks", metrics=[Value(name="acc", value=0.9, unit="fraction")])
        write_result(tmp_path / "y" / name / RESULT_FILE, result)
    with pytest.raises(UserError, match="a second result of task ks in one row"):
        finished_runs(tmp_path)
