"""One task from the command line to its result, run by s3prl on a tiny synthetic corpus."""

import hashlib
import re
import shutil
from pathlib import Path

import editdistance
import pytest
import torch

from s3prl_pruned import compat
from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.superb.results.result import Upstream, read_result
from s3prl_pruned.superb.running import make_run, run
from s3prl_pruned.superb.running.messages import announce
from s3prl_pruned.superb.running.options import make_parser
from s3prl_pruned.superb.tasks.upstreams import feature_settings
from tests.superb.pieces import assert_pieces_give_the_result
from tests.superb.running.command import FOLDER, STATES


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


def test_a_half_written_result_does_not_count_as_finished(again):
    (FOLDER / "result.json").write_text('{"task": "as')
    with pytest.raises(UserError, match="is not complete JSON"):
        again()


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
