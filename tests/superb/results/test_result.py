"""Results are read back as they were written; impossible results are refused."""

import dataclasses
import json

import pytest

from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.result import (
    RESULT_FILE,
    Checkpoint,
    Result,
    Seconds,
    SplitRead,
    Upstream,
    Versions,
    read_result,
    write_result,
)


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
        (lambda data: data.update(task="ks", metrics=[{"name": "acc", "value": 96, "unit": "fraction"}]),
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


def test_a_result_must_be_of_the_tasks_test_split_and_of_a_finished_training(tmp_path):
    write_result(tmp_path / "result-dev-clean.json", a_result(split="dev-clean"))
    assert read_result(tmp_path / "result-dev-clean.json").split == "dev-clean"
    write_result(tmp_path / RESULT_FILE, a_result(split="dev-clean"))
    with pytest.raises(UserError, match="must be of test-clean, by which SUPERB scores asr, but is of dev-clean"):
        read_result(tmp_path / RESULT_FILE)
    write_result(tmp_path / RESULT_FILE, a_result(look="the training stood at step 2 of 4"))
    with pytest.raises(UserError, match="is no result: the training stood at step 2 of 4"):
        read_result(tmp_path / RESULT_FILE)
