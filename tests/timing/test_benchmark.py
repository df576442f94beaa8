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
    assert any("comes from the bucketing, not from the model" in " ".join(note.split()) for note in data["notes"])


def test_a_model_that_cannot_pad_is_only_in_the_unpadded_rows(data):
    assert [row["arrangement"] for row in rows(data, name="torchaudio:wavlm_embedded")] == ["even", "unpadded"]


def test_derived_numbers_fit_one_another(data):
    for row in data["results"]:
        assert row["real_time_factor"] == pytest.approx(row["seconds"] / row["audio_s"])
        assert row["audio_per_second"] == pytest.approx(1 / row["real_time_factor"])
        assert row["peak_bytes"] > 4 * row["params"] or row["precision"] == "int8"
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.2)


def test_the_checks_before_timing_are_recorded(data):
    assert [check["models"][0] for check in data["checks"]] == ["ours:wavlm_embedded", "torchaudio:wavlm_embedded"]
    assert all(check["bound"] for check in data["checks"])
    assert "ours:wavlm_embedded" in data["macs_checked_with_torch"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dtype": "fp8"}, "`dtype` must be one of"),
        ({"dtype": "int8"}, "int8 is a model's variant"),
        ({"repeats": 0}, "`repeats` and `threads` must be at least 1"),
        ({"lengths": [(0.02, 1)]}, "at least one frame"),
        ({"lengths": []}, "no input to time models on"),
        ({"tf32": True}, "`tf32` is for CUDA GPUs only"),
        ({"autocast": True}, "`autocast` needs a lower precision"),
        ({"min_seconds": 0.0}, "`min-seconds` must be positive, but is 0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_built(changes, message, monkeypatch):
    monkeypatch.setattr(benchmark, "Builder", None)
    options = {"baseline": "ours:wavlm_embedded", "models": [], "random": True, "lengths": [(0.5, 1)], **changes}
    with pytest.raises(UserError, match=message):
        benchmark.run(Options(**options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_missing_gpu_is_reported():
    with pytest.raises(UserError, match="sees no GPU here. Use --device cpu"):
        benchmark.run(Options(baseline="ours:wavlm_embedded", models=[], random=True, lengths=[(1, 1)], device="cuda"))


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


def test_a_model_that_cannot_be_timed_loses_only_its_own_row(monkeypatch):
    """One model cannot be built, one has other states than its equals, one fails at one length."""
    from s3prl_pruned.timing.models import Builder

    build = Builder.build

    def broken(self, name):
        if name.text.endswith("+reference"):
            raise ImportError("no module named so")
        made = build(self, name)
        encode = made.encode

        def fail(wavs):
            if len(wavs[0]) > 8000:
                raise torch.OutOfMemoryError("out of memory\nTried to allocate")
            return [state + 1 for state in encode(wavs)] if "lowmem" in name.variants else encode(wavs)

        made.encode = encode if name.library == "s3prl" else fail
        return made

    monkeypatch.setattr(Builder, "build", broken)
    names = [f"ours:wavlm_embedded{variant}" for variant in ("", "+reference", "+lowmem")]
    data = benchmark.run(
        Options(baseline="s3prl:wavlm_embedded", models=names, random=True, lengths=[(0.5, 1), (0.6, 1)], repeats=1)
    )
    assert [(row["name"], row["length_s"]) for row in data["results"]] == [
        ("s3prl:wavlm_embedded", 0.5),
        ("ours:wavlm_embedded", 0.5),
        ("s3prl:wavlm_embedded", 0.6),
    ]
    lost = [(one["name"], one["workload"]) for one in data["lost"]]
    assert lost == [(names[1], None), (names[2], None), (names[0], "0.6 s")]
    reasons = [one["reason"] for one in data["lost"]]
    assert reasons[0] == "no module named so" and reasons[2] == "out of memory"
    assert "the same weights must agree" in reasons[1]


def test_without_the_baseline_there_is_no_ratio(monkeypatch):
    from s3prl_pruned.timing.models import Builder

    monkeypatch.setattr(Builder, "build", lambda self, name: 1 / 0)
    with pytest.raises(UserError, match="the baseline ours:wavlm_embedded cannot be timed: division by zero"):
        benchmark.run(Options(baseline="ours:wavlm_embedded", models=[], random=True, lengths=[(0.5, 1)]))


def test_what_the_numbers_depend_on_is_in_the_document(data):
    found = data["environment"]
    assert found["torch"].keys() >= {"sdpa", "cudnn_benchmark", "float32_matmul_precision"} and found["cpu"]["cores"]
    for row in data["results"]:
        assert row["threads"] == 1 and row["instruction_sets"] == found["cpu"]["instruction_sets"]
        assert row["machine"] == data["machine"] and row["seconds_std"] >= 0 and not row["loading"]


def test_a_corpus_is_read_from_its_files_in_each_run_if_requested(monkeypatch):
    from s3prl_pruned.data.manifest import Utterance

    read, times = Utterance.read, []
    monkeypatch.setattr(Utterance, "read", lambda self: times.append(self) or read(self))
    options = Options(
        baseline="ours:wavlm_embedded", models=[], random=True, use_corpus=True, limit=2, repeats=2, bucket_s=20,
        include_loading=True,
    )  # fmt: skip
    rows = benchmark.run(options)["results"]
    # once to load them; for each of two ways the warm-up, the run that measures the duration, and two repeats
    assert len(times) == 2 + 2 * 4 * 2 and all(row["loading"] for row in rows)
