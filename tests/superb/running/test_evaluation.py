"""Evaluations apart from the training: of other splits, other checkpoints, and before the end."""

import dataclasses
import shutil
import time
from pathlib import Path

import pytest

from s3prl_pruned.command_line import Interrupted
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.collect import finished_runs
from s3prl_pruned.superb.results.result import read_result, write_result
from s3prl_pruned.superb.results.trained import read_trained
from s3prl_pruned.superb.running import run
from tests.superb.running.command import FOLDER, STATES, half_trained
from tests.synthetic_corpus import SHORT_SETTINGS


def test_training_and_evaluation_may_be_two_calls(again):
    trained = again("-m", "train", "-n", "two")
    assert "trained in" in trained and not Path("results/two/asr/result.json").exists()
    left = read_trained(Path("results/two/asr"))
    assert (left.task, left.steps, left.upstream.name, left.dev) == ("asr", 4, "fbank", [None])  # WER never below 100 %
    again("-m", "evaluate", "-n", "two")
    one, two = (read_result(Path("results") / name / "asr" / "result.json") for name in ("fbank", "two"))
    assert [value.value for value in one.metrics] == [value.value for value in two.metrics]
    assert one.config_sha256 == two.config_sha256 and two.seconds.train is None


def test_a_checkpoint_is_evaluated_on_another_split_with_its_own_settings(again):
    run.main(["-m", "evaluate", "-t", "dev-clean", "-e", str(FOLDER / STATES[0])])
    result = read_result(FOLDER / "result-dev-clean.json")
    assert (result.split, result.checkpoint.step, result.checkpoint.rule) == ("dev-clean", 2, "named by -e")
    # The test result is beside it.
    assert read_result(FOLDER / "result.json").split == "test-clean"


def test_the_checkpoint_with_the_best_dev_wer_is_taken(again):
    shutil.copy(FOLDER / STATES[0], FOLDER / "dev-clean-best.ckpt")
    (FOLDER / "result.json").unlink()
    again("-m", "evaluate")
    checkpoint = read_result(FOLDER / "result.json").checkpoint
    assert (checkpoint.file, checkpoint.step) == ("dev-clean-best.ckpt", 2)
    assert checkpoint.rule == "lowest WER on dev-clean"


def test_an_evaluation_before_the_end_of_the_training_is_not_the_result(again):
    half_trained()
    printed = again("-m", "evaluate")
    look = read_result(FOLDER / "look-test-clean-step2.json")
    assert look.look == "the training stood at step 2 of 4" and look.checkpoint.step == 2
    assert "early evaluation, not the task's result: the training stood at step 2 of 4" in printed
    assert "evaluated before; nothing to do" in again("-m", "evaluate")
    again("-m", "evaluate", "-t", "dev-clean")
    again("-m", "evaluate", "-i", str(FOLDER / STATES[0]))
    assert {path.name for path in FOLDER.glob("*.json")} == {
        "run.json", "look-test-clean-step2.json", "look-dev-clean-step2.json", "look-test-clean-states-2.json",
    }  # fmt: skip
    assert finished_runs(Path("results")) == ({}, [FOLDER])
    again("-a")
    result = read_result(FOLDER / "result.json")
    assert (result.look, result.checkpoint.step) == (None, 4)
    assert finished_runs(Path("results"))[0] == {"fbank": [result]}


def test_a_training_that_ends_during_an_early_evaluation_waits_and_does_not_use_it(again, monkeypatch, caplog):
    last = (FOLDER / STATES[1]).read_bytes()
    half_trained()
    evaluate = run.evaluate_part

    def stop(_):
        raise KeyboardInterrupt

    def and_meanwhile(evaluation, **options):
        (FOLDER / STATES[1]).write_bytes(last)
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(run, "evaluate_part", evaluate)
            patch.setattr(time, "sleep", stop)  # the wait
            again("-a")
        assert "Waiting for it" in caplog.text
        return evaluate(evaluation, **options)

    monkeypatch.setattr(run, "evaluate_part", and_meanwhile)
    again("-m", "evaluate")
    assert not (FOLDER / "result.json").exists()
    assert read_result(FOLDER / "look-test-clean-step2.json").look == "the training stood at step 2 of 4"


def test_an_early_evaluation_that_an_earlier_version_wrote_as_the_result_is_moved_aside(again, caplog):
    result = read_result(FOLDER / "result.json")
    checkpoint = dataclasses.replace(result.checkpoint, file=STATES[0], step=2)
    write_result(FOLDER / "result.json", dataclasses.replace(result, checkpoint=checkpoint))
    early = (FOLDER / "result.json").read_bytes()
    (FOLDER / STATES[1]).unlink()
    with pytest.raises(UserError, match="holds this run unfinished. Give -a"):
        again()
    assert finished_runs(Path("results")) == ({}, [FOLDER])
    assert f"Resuming from {FOLDER / STATES[0]}" in again("-a")
    assert "was evaluated when the training was at step 2; it is no result" in caplog.text
    assert (FOLDER / "result.json.old-1").read_bytes() == early
    assert read_result(FOLDER / "result.json").checkpoint.step == 4


def test_an_evaluation_of_an_earlier_step_is_not_reused(again):
    """A best checkpoint keeps its name when it gets better."""
    shutil.copy(FOLDER / STATES[0], FOLDER / "dev-clean-best.ckpt")
    again("-m", "evaluate", "-t", "dev-clean")
    shutil.copy(FOLDER / STATES[1], FOLDER / "dev-clean-best.ckpt")
    with pytest.raises(UserError, match="result-dev-clean.json: is of another checkpoint. Give --force"):
        again("-m", "evaluate", "-t", "dev-clean")


def test_a_checkpoint_picked_by_hand_is_marked_in_the_result(again):
    printed = again("-m", "evaluate", "-i", str(FOLDER / STATES[0]), "--force")
    result = read_result(FOLDER / "result.json")
    assert result.by_hand and result.checkpoint.by_hand and result.checkpoint.step == 2
    assert "picked by hand, not by the benchmark's rule" in printed
    before = dataclasses.replace(result, checkpoint=dataclasses.replace(result.checkpoint, by_hand=False))
    assert before.by_hand  # as earlier versions wrote it


def test_an_utterance_that_is_not_scored_is_an_error(again):
    with pytest.raises(UserError, match="all 3 utterances must be scored, but s3prl scored 2"):
        again("-n", "part", "-o", SHORT_SETTINGS + ",,config.runner.evaluate_ratio=0.3")
    assert not Path("results/part/asr/result.json").exists()


def test_inference_transcribes_one_file(again):
    again("-m", "inference", "-t", "corpus/test-clean/3/7/3-7-0000.flac")
    assert (FOLDER / "inference.ark").read_text().startswith("3-7-0000 ")
