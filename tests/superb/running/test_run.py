"""One task from the command line to its result, run by s3prl on a tiny synthetic corpus."""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import shutil
import signal
import time
from pathlib import Path

import editdistance
import pytest
import torch
from torch import nn

from s3prl_pruned import compat
from s3prl_pruned.command_line import Interrupted, Stopped
from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.folder_lock import locked
from s3prl_pruned.superb.results.collect import finished_runs
from s3prl_pruned.superb.results.result import INTERRUPTED, Upstream, read_result, write_result
from s3prl_pruned.superb.results.trained import read_trained
from s3prl_pruned.superb.running import make_run, run
from s3prl_pruned.superb.running.messages import announce
from s3prl_pruned.superb.running.options import make_parser
from s3prl_pruned.superb.running.stoppable import StoppableTraining
from s3prl_pruned.superb.tasks import checkpoints
from s3prl_pruned.superb.tasks.upstreams import feature_settings
from tests.superb.pieces import assert_pieces_give_the_result
from tests.synthetic_corpus import SHORT_SETTINGS, make_corpus

FOLDER = Path("results/fbank/asr")
STATES = ("states-2.ckpt", "states-4.ckpt")


def command(*options):
    """Run the command line as typed; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run.main(["-d", "asr", "--corpus", "corpus", "--device", "cpu", *options])
    return printed.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a corpus and a finished run of FBANK, and what the run printed."""
    folder = tmp_path_factory.mktemp("finished")
    make_corpus(folder / "corpus")
    before = os.getcwd(), os.environ.get("XDG_CACHE_HOME")
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        yield folder, command("-u", "fbank", "-o", SHORT_SETTINGS)
    finally:
        os.chdir(before[0])
        os.environ.pop("XDG_CACHE_HOME")
        if before[1] is not None:
            os.environ["XDG_CACHE_HOME"] = before[1]


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """A copy of that folder to work in; its run can be repeated, changed and damaged."""
    shutil.copytree(finished[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return lambda *options: command("-u", "fbank", "-o", SHORT_SETTINGS, *options)


def test_the_result_is_what_s3prls_files_say(finished):
    folder, printed = finished
    result = read_result(folder / FOLDER / "result.json")
    lines = {
        kind: [line.partition(" ")[2] for line in (folder / FOLDER / f"test-clean-noLM-{kind}.ark").open()]
        for kind in ("hyp", "ref")
    }
    assert [line.strip() for line in lines["ref"]] == ["ONE TWO DON'T", "ONE TWO", "ONE"]
    edits = sum(editdistance.eval(h.split(), r.split()) for h, r in zip(lines["hyp"], lines["ref"]))
    wer = result.values()["wer"]
    assert wer.unit == "percent" and wer.value == pytest.approx(100 * edits / 6)
    (line,) = re.findall(r"^test-clean wer: (\S+)$", printed, flags=re.MULTILINE)
    assert float(line) == pytest.approx(wer.value)
    assert f"WER {wer.value:.2f} %" in printed and "on 3 utterances" in printed
    assert_pieces_give_the_result(folder / FOLDER)


def test_the_result_tells_what_was_run(finished):
    folder, _ = finished
    result = read_result(folder / FOLDER / "result.json")
    assert (result.task, result.split, result.num_utterances) == ("asr", "test-clean", 3)
    assert (result.upstream.name, result.upstream.sha256) == ("fbank", None)
    assert result.checkpoint.file == "states-4.ckpt" and result.checkpoint.step == 4
    assert "never got below 100 %" in result.checkpoint.rule
    assert result.protocol == "custom"
    for difference in ("runner.total_steps", "modelrc.RNNs.dim", "5 utterances in train-clean-100"):
        assert difference in result.protocol_note
    assert [(split.key, split.num_utterances) for split in result.splits] == [
        ("train", 5), ("dev-clean", 3), ("test-clean", 3),
    ]  # fmt: skip
    assert result.command.startswith("python run_downstream.py -d asr")
    assert (result.versions.host, result.versions.s3prl) == (compat.host().name, compat.host().version)


def test_s3prls_own_files_and_its_output_are_kept(finished):
    folder, _ = finished
    names = {path.name for path in (folder / FOLDER).iterdir()}
    assert {"run.json", "stdout.log", "char.dict", *STATES} <= names
    (args,) = [load_yaml(folder / FOLDER / name) for name in names if name.startswith("args_")]
    (config,) = [load_yaml(folder / FOLDER / name) for name in names if name.startswith("config_")]
    assert args["upstream"] == "fbank" and config["runner"]["total_steps"] == 4
    log = (folder / FOLDER / "stdout.log").read_text()
    assert "train loss:" in log and "dev-clean wer:" in log and "test-clean wer:" in log


def test_a_finished_run_says_so_and_changes_nothing(again):
    stamps = {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()}
    printed = again()
    assert "finished before with the same settings, model and corpus; nothing to do" in printed
    assert "asr test-clean: WER" in printed
    assert {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()} == stamps


def test_another_run_in_its_folder_is_refused_and_moved_aside_by_force(again):
    with pytest.raises(UserError, match="holds a run that differs in settings. .* by -n, or --force"):
        again("--seed", "7")
    old = (FOLDER / "result.json").read_text()
    again("--seed", "7", "--force")
    assert (FOLDER.parent / "asr.old-1" / "result.json").read_text() == old
    assert read_result(FOLDER / "result.json").seed == 7


def test_a_changed_corpus_is_another_run(again):
    listing = Path("corpus/test-clean/3/7/3-7.trans.txt")
    listing.write_text(listing.read_text().replace("TWO", "TOO"))
    with pytest.raises(UserError, match="differs in the corpus's test-clean"):
        again()


def test_a_name_gives_another_folder(again):
    again("-n", "mine")
    assert read_result(Path("results/mine/asr/result.json")).upstream.name == "fbank"


def test_an_unfinished_run_goes_on_only_when_asked_and_from_its_checkpoint(again):
    for name in ("result.json", STATES[1]):
        (FOLDER / name).unlink()
    with pytest.raises(UserError, match="holds this run unfinished. Give -a to resume"):
        again()
    printed = again("-a")
    assert f"Resuming from {FOLDER / STATES[0]}" in printed
    assert read_result(FOLDER / "result.json").checkpoint.step == 4
    assert torch.load(FOLDER / STATES[1], weights_only=True)["Step"] == 4


def test_a_truncated_checkpoint_is_skipped(again, caplog):
    (FOLDER / "result.json").unlink()
    whole = (FOLDER / STATES[1]).read_bytes()
    (FOLDER / STATES[1]).write_bytes(whole[: len(whole) // 2])
    printed = again("-a")
    assert f"{STATES[1]}: is truncated, or is no torch checkpoint" in caplog.text
    assert f"Resuming from {FOLDER / STATES[0]}" in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, whose disk is always full")
def test_a_full_disk_is_one_clear_error_and_keeps_saved_checkpoints(again, monkeypatch):
    (FOLDER / "result.json").unlink()
    (FOLDER / STATES[1]).unlink()
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda states, path: save(states, "/dev/full"))
    with pytest.raises(UserError, match="results/fbank/asr: cannot be written .* Make room; -a resumes"):
        again("-a")
    assert checkpoints.newest_checkpoint(FOLDER) == FOLDER / STATES[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, whose disk is always full")
def test_the_oldest_checkpoint_is_kept_until_the_new_one_is_complete(again, monkeypatch):
    """s3prl deletes first, and writes in place."""
    save, few = torch.save, ("-u", "fbank", "-n", "few", "-o", f"{SHORT_SETTINGS},,config.runner.max_keep=1")
    folder = Path("results/few/asr")
    monkeypatch.setattr(torch, "save", lambda states, path: save(states, path if states["Step"] == 2 else "/dev/full"))
    with pytest.raises(UserError, match="results/few/asr: cannot be written"):
        command(*few)
    assert [path.name for path in folder.glob("states-*")] == ["states-2.ckpt"]
    monkeypatch.setattr(torch, "save", save)
    assert f"Resuming from {folder / 'states-2.ckpt'}" in command(*few, "-a")
    assert [path.name for path in folder.glob("states-*")] == ["states-4.ckpt"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_stop_signal_saves_the_current_step_and_a_requeued_run_resumes_from_it(again, monkeypatch, signum):
    made = StoppableTraining.made

    def made_and_told(self):
        if self.step == 2:
            os.kill(os.getpid(), signum)
        made(self)

    folder, settings = Path("results/told/asr"), f"{SHORT_SETTINGS},,config.runner.max_keep=1"
    with monkeypatch.context() as patch:
        patch.setattr(StoppableTraining, "made", made_and_told)
        with pytest.raises(Interrupted, match=f"stopped by {signum.name} after step 3; it is saved. Resume") as stopped:
            command("-u", "fbank", "-n", "told", "-o", settings)
    assert stopped.value.exit_code == 75
    # The step is no multiple of save_step: training resumes from it, and it replaces no numbered checkpoint.
    assert {path.name for path in folder.glob("*.ckpt")} == {"states-2.ckpt", "interrupted.ckpt"}
    states = torch.load(folder / "interrupted.ckpt", weights_only=False)
    assert states["Step"] == 3 and type(states["Config"]["runner"]["save_step"]) is int
    assert checkpoints.numbered_checkpoints(folder) == [folder / "states-2.ckpt"]
    printed = command("-u", "fbank", "-n", "told", "-o", settings, "-a")
    assert f"Resuming from {folder / 'interrupted.ckpt'}" in printed
    assert read_result(folder / "result.json").checkpoint.step == 4
    assert [path.name for path in folder.glob("*.ckpt")] == ["states-4.ckpt"]


def test_a_run_that_was_stopped_before_its_first_numbered_checkpoint_is_unfinished(again, monkeypatch):
    made, folder = StoppableTraining.made, Path("results/early/asr")

    def told_and_made(self):
        os.kill(os.getpid(), signal.SIGTERM)
        made(self)

    with monkeypatch.context() as patch:
        patch.setattr(StoppableTraining, "made", told_and_made)
        with pytest.raises(Interrupted, match="after step 1; it is saved"):
            again("-n", "early")
    again("-n", "early", "-m", "evaluate")
    look = read_result(folder / "look-test-clean-step1.json")
    assert look.look == "the training stood at step 1 of 4" and look.checkpoint.step == 1
    shutil.copy(folder / INTERRUPTED, folder / "dev-clean-best.ckpt")
    again("-n", "early", "-m", "evaluate", "-t", "dev-clean")
    assert {path.name for path in folder.glob("*.json")} == {
        "run.json", "look-test-clean-step1.json", "look-dev-clean-step1.json",
    }  # fmt: skip
    write_result(folder / "result.json", dataclasses.replace(look, look=None))  # as earlier versions named it
    assert finished_runs(Path("results/early")) == ({}, [folder])
    assert f"Resuming from {folder / INTERRUPTED}" in again("-n", "early", "-a", "-m", "train")
    assert (folder / "result.json.old-1").is_file() and not (folder / "result.json").exists()


@pytest.mark.parametrize(("left", "name"), [("run.json", "look-dev-clean-step2"), ("result.json", "result-dev-clean")])
def test_a_lone_best_checkpoint_is_of_a_finished_training_only_if_it_reached_the_end(again, left, name):
    (FOLDER / STATES[0]).rename(FOLDER / "dev-clean-best.ckpt")
    (FOLDER / STATES[1]).unlink()
    if left == "run.json":
        (FOLDER / "result.json").unlink()
    again("-m", "evaluate", "-t", "dev-clean")
    assert read_result(FOLDER / f"{name}.json").checkpoint.step == 2


def test_an_early_evaluation_is_named_by_the_interrupted_step(again):
    _half_trained()
    torch.save(torch.load(FOLDER / STATES[0], weights_only=True) | {"Step": 3}, FOLDER / INTERRUPTED)
    again("-m", "evaluate")
    assert read_result(FOLDER / "look-test-clean-step3.json").checkpoint.step == 3


def test_a_signal_in_the_last_step_stops_before_the_evaluation(again, monkeypatch):
    save = StoppableTraining.save

    def save_and_be_told(self, path, states):
        if states["Step"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return save(self, path, states)

    with monkeypatch.context() as patch:
        patch.setattr(StoppableTraining, "save", save_and_be_told)
        with pytest.raises(Interrupted, match="after step 4; it is saved"):
            again("-n", "late")
    assert not Path("results/late/asr/result.json").exists()
    assert "already at the last step" in again("-n", "late", "-a")


def test_a_later_checkpoint_is_resumed_rather_than_an_interrupted_one(again):
    shutil.copy(FOLDER / STATES[0], FOLDER / INTERRUPTED)
    assert checkpoints.newest_checkpoint(FOLDER) == FOLDER / STATES[1]
    shutil.copy(FOLDER / STATES[1], FOLDER / INTERRUPTED)
    (FOLDER / STATES[1]).unlink()
    assert checkpoints.newest_checkpoint(FOLDER) == FOLDER / INTERRUPTED
    (FOLDER / INTERRUPTED).write_bytes(b"half")
    assert checkpoints.newest_checkpoint(FOLDER) == FOLDER / STATES[0]


def test_a_run_killed_before_it_wrote_run_json_begins_anew(again):
    shutil.rmtree(FOLDER)
    FOLDER.mkdir()
    (FOLDER / ".run.json.123").write_text("{")
    again("-a", "-m", "train")
    assert (FOLDER / "run.json").is_file() and (FOLDER / STATES[1]).is_file()


def test_a_folder_in_use_is_refused_but_a_finished_run_is_read(again, capsys):
    with locked(FOLDER):
        assert "nothing to do" in again()
        (FOLDER / "result.json").unlink()
        with pytest.raises(UserError, match="results/fbank/asr: another process is using this folder"):
            again("-a")
        with locked(FOLDER, ".evaluate-test-clean.lock"), pytest.raises(UserError, match="another process is using"):
            again("-m", "evaluate")
        again("-m", "evaluate")
    assert not [path.name for path in FOLDER.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (Stopped(signal.SIGUSR1), 75)])
def test_a_stop_says_how_to_resume(again, monkeypatch, error, code):
    def stop(options):
        raise error

    monkeypatch.setattr(run, "run_task", stop)
    with pytest.raises(Interrupted, match="the same command with -a resumes from the last checkpoint") as stopped:
        again()
    assert stopped.value.exit_code == code


def test_files_of_something_else_are_not_touched(again):
    (FOLDER / "run.json").unlink()
    with pytest.raises(UserError, match="is not empty and was not written by this command"):
        again("-a")


def test_a_half_written_result_does_not_count_as_finished(again):
    (FOLDER / "result.json").write_text('{"task": "as')
    with pytest.raises(UserError, match="is not complete JSON"):
        again()


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


def _half_trained():
    """The run after two of its four steps."""
    for name in ("result.json", STATES[1]):
        (FOLDER / name).unlink()


def test_an_evaluation_before_the_end_of_the_training_is_not_the_result(again):
    _half_trained()
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
    _half_trained()
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


class Expert(nn.Module):
    """An upstream like ours: 20 ms frames of noise times one weight, with hash and note."""

    teacher_note, model_path, model_hash = "random teacher", "somewhere/export", "ab" * 32

    def __init__(self, ckpt=None, model_config=None, refresh=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def get_downsample_rates(self, key):
        return 320

    def forward(self, wavs):
        frames = max(len(wav) for wav in wavs) // 320
        wavs = torch.stack([nn.functional.pad(wav, (0, 320 * frames))[: 320 * frames] for wav in wavs])
        return {"hidden_states": [wavs.view(len(wavs), frames, 320) * self.scale] * 3}


@pytest.fixture
def ours(monkeypatch):
    compat.apply()
    import s3prl.hub

    monkeypatch.setattr(s3prl.hub, "wavlm_stand_in", Expert, raising=False)


def test_hash_and_note_of_the_model_go_into_the_result_and_onto_the_screen(again, ours):
    printed = again("-u", "wavlm_stand_in")
    result = read_result(Path("results/wavlm_stand_in/asr/result.json"))
    assert result.upstream.sha256 == "ab" * 32 and result.upstream.path == "somewhere/export"
    assert result.upstream.num_parameters == 1
    assert result.upstream.teacher_note == "random teacher"
    first = printed.splitlines()[1]
    assert "SHA-256 " + "ab" * 32 in first and "random teacher" in first
    assert "upstream wavlm_stand_in, random teacher; custom protocol" in printed

    Expert.model_hash = "cd" * 32
    try:
        with pytest.raises(
            UserError, match="differs in upstream model .wavlm_stand_in abababababab, now .* cdcdcdcdcdcd"
        ):
            again("-u", "wavlm_stand_in")
    finally:
        Expert.model_hash = "ab" * 32


def test_a_model_without_a_hash_gets_one_from_its_weights(monkeypatch, ours):
    from s3prl_pruned.superb.tasks.upstreams import describe_upstream

    monkeypatch.delattr(Expert, "model_hash")
    args = make_parser().parse_args(["-u", "wavlm_stand_in"])
    first = describe_upstream(args).sha256
    assert re.fullmatch("[0-9a-f]{64}", first) and describe_upstream(args).sha256 == first
    monkeypatch.setattr(Expert, "reset", lambda self: self.scale.data.fill_(2.0), raising=False)
    changed = Expert()
    changed.reset()
    from s3prl_pruned.superb.tasks.upstreams import state_sha256

    assert state_sha256(Expert()) == first != state_sha256(changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-u", "fbnk"], "-u fbnk: s3prl has no upstream of that name. Did you mean `fbank`?"),
        (["-u", "wavlm_local"], "-u wavlm_local: needs a checkpoint. Give its path by -k"),
        (["-u", "wavlm_local", "-k", "absent.pt"], "-k absent.pt: no such file"),
        (["-u", "fbank", "-d", "ks"],
         "corpus: must be the folder of Speech Commands v0.01 .* but lacks speech_commands_v0.01/"),
        (["-u", "fbank", "--corpus", "absent"], "absent: must hold the folder 'train-clean-100'"),
        (["-u", "fbank", "--device", "tpu"], "--device tpu: must be cpu, or cuda"),
        (["-u", "fbank", "-i", "x.ckpt"], "-i: is for -m evaluate and inference"),
        (["-u", "fbank", "-e", "absent.ckpt"], "absent.ckpt: no such file"),
        (["-u", "fbank", "-m", "evaluate", "-n", "none"], "holds no checkpoint. Train first"),
        (["-u", "fbank", "-m", "inference"], "-m inference takes an existing audio file"),
        (["-u", "fbank", "-t", "test"], "split 'test': not in .*Known: train, dev-clean, dev-other, test-clean"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_clear_error(again, options, message):
    with pytest.raises(UserError, match=message):
        again(*options)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"PK half a file", "truncated, or holds objects"), (None, "RuntimeError: .*Missing key")],
)
def test_a_checkpoint_that_an_upstream_of_s3prl_cannot_take_is_named(again, content, reason):
    path = Path("given.pt")
    torch.save({"cfg": {}, "model": {"a": torch.zeros(1)}}, path) if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"-k given.pt: is no checkpoint for wavlm_local \({reason}"):
        again("-u", "wavlm_local", "-k", str(path))


def test_settings_without_a_corpus_ask_for_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(make_run.SETTINGS / "asr.yaml", "own.yaml")
    with pytest.raises(UserError, match="own.yaml: names no corpus. .* Give its folder by --corpus DIR"):
        run.main(["-u", "fbank", "-d", "asr", "-c", "own.yaml"])


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="must be a downstream checkpoint of s3prl"):
        checkpoints.load_checkpoint(tmp_path / "other.ckpt")
    torch.save({"Args": Expert(), "Config": {}, "Step": 1}, tmp_path / "classes.ckpt")
    with pytest.raises(UserError, match=r"holds an object of the class [\w.]*Expert"):
        checkpoints.load_checkpoint(tmp_path / "classes.ckpt")


def test_a_disabled_progress_bar_is_refused_because_s3prl_counts_in_it(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with pytest.raises(UserError, match="TQDM_DISABLE: s3prl would never end"):
        run.main(["-u", "fbank", "-d", "asr"])


def test_the_embedded_speech_is_the_default_and_the_papers_recipe_is_pointed_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = make_parser().parse_args(["-u", "wavlm_pruned", "-d", "asr"])
    found = make_run.make_run(options)
    announce(found, Upstream(name="wavlm_pruned"))
    first = capsys.readouterr().out.splitlines()[0]
    assert "embedded speech, shortened protocol" in first and "--corpus /data/LibriSpeech" in first
    assert found.folder == Path("results/wavlm_pruned/asr") and not found.folder.exists()
    assert {split.folder for split in found.splits} == {"train", "dev", "test"}


def test_settings_may_not_call_themselves_official(again):
    settings = Path("own.yaml")
    text = (make_run.SETTINGS / "asr.yaml").read_text()
    settings.write_text(text.replace("total_steps: 200000", "total_steps: 2000"))
    options = make_parser().parse_args(["-u", "fbank", "-d", "asr", "--corpus", "corpus", "-c", "own.yaml"])
    found = make_run.make_run(options)
    assert found.protocol == "custom" and "runner.total_steps" in found.protocol_note


def test_what_decides_features_besides_weights_goes_into_the_result_and_makes_another_run(again):
    Path("one.yaml").write_text("{}\n")
    args = make_parser().parse_args(["-u", "x", "-g", "one.yaml", "-s", "last", "-f", "--upstream_feature_normalize"])
    sha256 = hashlib.sha256(b"{}\n").hexdigest()
    assert feature_settings(args) == [f"-g {sha256}", "-s last", "-f", "--upstream_feature_normalize"]
    assert read_result(FOLDER / "result.json").upstream.settings == []
    with pytest.raises(
        UserError, match=r"differs in upstream settings \(no weights \(fbank\), now .*, -g [0-9a-f]{64}"
    ):
        again("-g", "one.yaml")
