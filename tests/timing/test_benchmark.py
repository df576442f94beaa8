"""A whole benchmark on a small shape, and its document."""

import logging

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.timing import benchmark
from s3prl_pruned.timing.benchmark import Options
from tests.tiny_benchmark import tiny_benchmark

KEYS = {"name", "length_s", "batch", "params", "macs", "seconds", "seconds_spread", "ratio", "peak_bytes"}


@pytest.fixture(scope="module")
def data():
    return tiny_benchmark()


def rows(data, **wanted):
    return [row for row in data["results"] if all(row[key] == value for key, value in wanted.items())]


def test_the_document_has_all_that_makes_a_number_readable(data):
    assert {
        "baseline",
        "device",
        "threads",
        "dtype",
        "versions",
        "results",
        "commit",
        "repeats",
        "noise_bound",
        "machine",
    } <= data.keys()
    assert {"torch", "s3prl", "transformers", "torchaudio", "s3prl_pruned"} <= data["versions"].keys()
    assert all(row.keys() >= KEYS for row in data["results"])
    assert (data["baseline"], data["device"], data["threads"], data["dtype"]) == (
        "s3prl:wavlm_embedded",
        "cpu",
        1,
        "float32",
    )


def test_the_baseline_is_added_and_its_ratio_is_one(data):
    assert [row["name"] for row in rows(data, workload="0.5 s")][:2] == ["s3prl:wavlm_embedded", "ours:wavlm_embedded"]
    for wanted in ({"workload": "0.5 s"}, {"arrangement": "padded"}):
        (baseline,) = rows(data, name="s3prl:wavlm_embedded", **wanted)
        assert baseline["ratio"] == 1


def test_both_arrangements_are_against_the_baseline_padded(data):
    (baseline,) = rows(data, name="s3prl:wavlm_embedded", arrangement="padded")
    (alone,) = rows(data, name="s3prl:wavlm_embedded", arrangement="unpadded")
    assert alone["ratio"] != 1 and alone["macs"] < baseline["macs"] and alone["peak_bytes"] < baseline["peak_bytes"]
    assert any("comes of the bucketing, not of the model" in " ".join(note.split()) for note in data["notes"])


def test_a_model_that_cannot_pad_is_only_in_the_unpadded_rows(data):
    assert [row["arrangement"] for row in rows(data, name="torchaudio:wavlm_embedded")] == ["even", "unpadded"]


def test_derived_numbers_fit_one_another(data):
    for row in data["results"]:
        assert row["real_time_factor"] == pytest.approx(row["seconds"] / row["audio_s"])
        assert row["audio_per_second"] == pytest.approx(1 / row["real_time_factor"])
        assert row["peak_bytes"] > 4 * row["params"] or row["precision"] == "int8"
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.2)


def test_what_was_checked_before_timing_is_told(data):
    assert [check["models"][0] for check in data["checks"]] == ["ours:wavlm_embedded", "torchaudio:wavlm_embedded"]
    assert all(check["bound"] for check in data["checks"])
    assert "ours:wavlm_embedded" in data["macs_checked_with_torch"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dtype": "fp8"}, "`dtype` must be one of"),
        ({"dtype": "int8"}, "int8 is a model's variant"),
        ({"repeats": 0}, "`repeats` and `threads` must be at least 1"),
        ({"lengths": [0.02]}, "at least one frame"),
        ({"lengths": []}, "nothing to time models on"),
        ({"tf32": True}, "`tf32` is of CUDA GPUs only"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_built(changes, message, monkeypatch):
    monkeypatch.setattr(benchmark, "Builder", None)
    options = {"baseline": "ours:wavlm_embedded", "models": [], "random": True, "lengths": [0.5], **changes}
    with pytest.raises(UserError, match=message):
        benchmark.run(Options(**options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(UserError, match="sees no GPU here. Use --device cpu"):
        benchmark.run(Options(baseline="ours:wavlm_embedded", models=[], random=True, lengths=[1], device="cuda"))


def test_a_corpus_is_timed_one_at_a_time_and_bucketed(caplog):
    caplog.set_level(logging.ERROR)
    options = Options(
        baseline="ours:wavlm_embedded", models=[], random=True, use_corpus=True, limit=3, repeats=2, bucket_s=20
    )
    single, bucketed = benchmark.run(options)["results"]
    assert (single["arrangement"], bucketed["arrangement"]) == ("single", "bucketed")
    assert single["batch"] == 1 < bucketed["batch"]
    assert single["audio_s"] == bucketed["audio_s"] and single["macs"] < bucketed["macs"]
    assert single["seconds_mean"] > 0
