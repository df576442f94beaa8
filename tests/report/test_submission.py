"""The leaderboard's zip has s3prl's layout, and holds official results of one model only."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s3prl_pruned.commands.suite import main
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import model_hash, save_encoder
from s3prl_pruned.models.dummies import random_encoder, tiny_base
from s3prl_pruned.report.submission import write_submission
from s3prl_pruned.sparsity.leaderboard import leaderboard_macs
from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.results.result import Checkpoint, Part, Result, Seconds, Upstream, write_result

PREDICTIONS = {  # written by hand from s3prl's submit/submit.py: name in the zip, and in our folder
    "pr_public/predict.ark": "pr/test-hyp.ark",
    "sid_public/predict.txt": "sid/test_predict.txt",
    "ks_public/predict.txt": "ks/test_predict.txt",
    "ic_public/predict.csv": "ic/test_predict.csv",
    **{f"er_fold{n}_public/predict.txt": f"er/fold{n}/test_fold{n}_predict.txt" for n in range(1, 6)},
    "asr_public/predict.ark": "asr/test-clean-noLM-hyp.ark",
    "qbe_public/benchmark.stdlist.xml": "qbe/layer5-test/benchmark.stdlist.xml",
    "sf_public/predict.ark": "sf/test-hyp.ark",
    "sv_public/predict.txt": "sv/states-40000/test_predict.txt",
    "sd_public/a.h5": "sd/scoring/predictions/a.h5",
    "sd_public/b.h5": "sd/scoring/predictions/b.h5",
}


def part(name, split):
    return Part(
        name=name, split=split, num_utterances=2, metrics=[], printed_by_s3prl=[], seconds=Seconds(evaluate=1.0)
    )


PARTS = {
    "qbe": [part("layer0", "dev"), part("layer5", "test")],
    "sv": [part(f"states-{20000 * n}", "test") for n in range(1, 11)],
}


def result(task):
    metrics = [Value(name=metric.name, value=50.0, unit="percent") for metric in TASKS[task].metrics]
    return Result(
        task=task,
        split=TASKS[task].test_split,
        num_utterances=2,
        metrics=metrics,
        printed_by_s3prl=[],
        protocol="official",
        upstream=Upstream(name="hubert_base", num_parameters=94_697_600),
        parts=PARTS.get(task),
        checkpoint=Checkpoint(file="states-40000.ckpt", step=40000, rule="lowest") if task == "sv" else None,
    )


@pytest.fixture
def row(tmp_path):
    """A row with all ten tasks finished."""
    for task in TASKS:
        (tmp_path / "results/mine" / task).mkdir(parents=True)
        write_result(tmp_path / "results/mine" / task / "result.json", result(task))
    for name in PREDICTIONS.values():
        path = tmp_path / "results/mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return tmp_path / "results/mine"


def test_the_zip_holds_what_s3prls_submit_puts_there(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["-u", "mine=hubert_base", "--submission", "out/predict.zip"])
    with zipfile.ZipFile("out/predict.zip") as file:
        assert {name: file.read(name).decode() for name in file.namelist()} == {
            f"predict/{name}": f"content of {source}" for name, source in PREDICTIONS.items()
        }
    shown = capsys.readouterr().out
    assert "parameters 94697600" in shown and "MACs 1669156022848 (1669 G)" in shown
    with pytest.raises(UserError, match="predict.zip: exists"):
        main(["-u", "mine", "--submission", "out/predict.zip"])


def test_unfinished_tasks_are_left_out_and_named(row, tmp_path):
    (row / "ks" / "result.json").unlink()
    found = write_submission(row, tmp_path / "predict.zip")
    assert found.missing == ["ks"] and "not in it, since there is no result: ks" in found.text()
    with zipfile.ZipFile(tmp_path / "predict.zip") as file:
        assert not any("ks_public" in name for name in file.namelist())


def test_a_result_from_the_middle_of_a_training_is_left_out(row, tmp_path):
    torch.save({"Step": 10}, row / "ks/states-10.ckpt")
    (row / "ks/args_1.yaml").write_text("upstream: hubert_base\n")
    (row / "ks/config_1.yaml").write_text("runner: {total_steps: 100}\n")
    assert write_submission(row, tmp_path / "predict.zip").missing == ["ks"]


def test_a_model_that_can_no_longer_be_counted_has_no_count(row, tmp_path):
    exported = tmp_path / "export"
    save_encoder(exported, random_encoder(tiny_base(), seed=1), {"teacher_note": None})
    for number, sha256 in enumerate([model_hash(exported), "another"]):
        for task in TASKS:
            upstream = Upstream(name="wavlm_pruned", path=str(exported), sha256=sha256)
            write_result(row / task / "result.json", replace(result(task), upstream=upstream))
        found = write_submission(row, tmp_path / f"{number}.zip")
        assert found.macs == (None if number else leaderboard_macs(tiny_base()))
    (exported / "config.json").write_text("{")
    assert write_submission(row, tmp_path / "damaged.zip").macs is None


def change(path, **fields):
    write_result(path / "result.json", replace(result(path.name), **fields))


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda row: change(row / "ks", protocol="quick"),
            "ks: must be an official result, but is not .quick protocol",
        ),
        (lambda row: change(row / "ks", split="dev"), "result.json: must be of test, .* but is of dev"),
        (
            lambda row: change(row / "ks", checkpoint=Checkpoint(file="a", step=1, rule="named by -i")),
            "ks: must be an official result, but is not .differs from the benchmark in the checkpoint, named by -i",
        ),
        (lambda row: change(row / "ks", upstream=Upstream(name="fbank")), "must be of one model"),
        (lambda row: (row / "er/fold3/test_fold3_predict.txt").unlink(), "predictions are missing: .*fold3_predict"),
        (lambda row: (row / "sd/scoring/predictions/a.h5").unlink(), "sd: must hold predictions of 2 recordings"),
    ],
)
def test_results_that_the_leaderboard_must_not_get_are_refused(row, tmp_path, damage, message):
    damage(row)
    with pytest.raises(UserError, match=message):
        write_submission(row, tmp_path / "predict.zip")
    assert not (tmp_path / "predict.zip").exists()


def test_nothing_finished_is_said(tmp_path):
    with pytest.raises(UserError, match="holds no finished task"):
        write_submission(Path(tmp_path), tmp_path / "predict.zip")
