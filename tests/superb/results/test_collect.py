"""Runs found in folders, ours and s3prl's: by model, each once, without contradictions."""

import dataclasses

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.collect import finished_runs
from s3prl_pruned.superb.results.result import (
    RESULT_FILE,
    RUN_FILE,
    Checkpoint,
    Part,
    Result,
    Seconds,
    Upstream,
    write_result,
)
from tests.superb.results.test_arks import an_s3prl_run
from tests.superb.results.test_result import a_result
from tests.superb.results.test_s3prl_runs import read, values
from tests.superb.s3prl_runs import classify, started


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
        result = a_result(task="ks", split="test", metrics=[Value(name="acc", value=0.9, unit="fraction")])
        write_result(tmp_path / "y" / name / RESULT_FILE, result)
    with pytest.raises(UserError, match="a second result of task ks in one row"):
        finished_runs(tmp_path)


def test_runs_of_two_upstreams_in_one_row_are_refused(tmp_path):
    classify("speech_commands", started(tmp_path / "mine" / "ks", upstream="hubert"), [(10, 0.8, 0.6)])
    classify(
        "fluent_commands", started(tmp_path / "mine" / "ic", upstream="wavlm", upstream_ckpt="a.pt"), [(10, 0.8, 0.6)]
    )
    with pytest.raises(
        UserError, match="mine: one row must be one model, but .*ic is of -u wavlm -k a.pt and .*ks of -u hubert"
    ):
        finished_runs(tmp_path)


def test_the_folders_below_a_run_are_not_runs_of_their_own(tmp_path):
    folder = tmp_path / "mine" / "ks"
    classify("speech_commands", folder, [(10, 0.8, 0.6)])
    classify("speech_commands", folder / "older", [(10, 0.8, 0.2)])
    for root in (tmp_path, tmp_path / "mine", folder):
        assert values(read(root)) == {"acc": (0.6, "fraction")}


def test_a_result_that_contradicts_what_s3prl_printed_is_refused(tmp_path):
    def result(**changes):
        given = Result(
            task="asr",
            split="test-clean",
            num_utterances=1,
            metrics=[Value(name="wer", value=50.0, unit="percent")],
            printed_by_s3prl=[
                Value(name="uer", value=20.0, unit="percent"),
                Value(name="wer", value=0.5, unit="fraction"),
            ],
            protocol="official",
            upstream=Upstream(name="x", sha256="ab" * 32),
        )
        write_result(tmp_path / "x" / "asr" / "result.json", dataclasses.replace(given, **changes))

    (tmp_path / "x" / "asr").mkdir(parents=True)
    result()
    assert finished_runs(tmp_path)[0]["x"][0].metrics[0].value == 50
    result(printed_by_s3prl=[Value(name="wer", value=40.0, unit="percent")])
    with pytest.raises(UserError, match="result.json: wer is 50 percent, but s3prl printed 40 percent"):
        finished_runs(tmp_path)
    result(metrics=[Value(name="cer", value=40.0, unit="percent")])
    with pytest.raises(UserError, match="metrics must hold wer, but hold cer"):
        finished_runs(tmp_path)


def test_a_result_of_a_checkpoint_picked_by_hand_is_not_official_whatever_it_says(tmp_path):
    (tmp_path / "x" / "asr").mkdir(parents=True)
    checkpoint = Checkpoint(file="states-2.ckpt", step=2, rule="named by -i")
    write_result(tmp_path / "x" / "asr" / RESULT_FILE, a_result(protocol="official", checkpoint=checkpoint))
    (found,) = finished_runs(tmp_path)[0]["x"]
    assert found.protocol == "custom"
    assert found.protocol_note == "differs from the benchmark in the checkpoint, named by -i"


@pytest.mark.parametrize(("tested", "protocol"), [(10, "official"), (200, "custom")])
def test_the_lowest_of_more_checkpoints_than_the_benchmark_tests_is_not_official(tmp_path, tested, protocol):
    (tmp_path / "x" / "sv").mkdir(parents=True)
    rate = [Value(name="eer", value=0.05, unit="fraction")]
    parts = [
        Part(
            name=f"states-{step}", split="test", num_utterances=1, metrics=rate, printed_by_s3prl=[],
            seconds=Seconds(evaluate=1),
        )
        for step in range(tested)
    ]  # fmt: skip
    result = a_result(
        task="sv", split="test", metrics=rate, printed_by_s3prl=[], parts=parts, protocol="official", checkpoint=None
    )
    write_result(tmp_path / "x" / "sv" / RESULT_FILE, result)
    (found,) = finished_runs(tmp_path)[0]["x"]
    assert found.protocol == protocol
    assert protocol == "official" or "200 checkpoints were tested in place of 10" in found.protocol_note
