"""The clock is fair: same input, interleaved, paired; nothing here says how fast any model is."""

import json
import re
import time

import pytest
import torch
from torch import nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.timing import clock
from s3prl_pruned.timing.clock import TimedCalls, TimingSetting, compare, race
from s3prl_pruned.timing.document import document


class Recorder:
    """A callable that notes when it was called and with what, and sleeps."""

    def __init__(self, name, calls, milliseconds=0.0):
        self.name, self.calls, self.milliseconds = name, calls, milliseconds

    def __call__(self, wavs):
        assert torch.is_inference_mode_enabled()
        self.calls.append((self.name, wavs))
        time.sleep(self.milliseconds / 1000)


def test_a_model_that_sleeps_a_quarter_as_long_is_about_four_times_as_fast():
    calls = []
    models = {"slow": Recorder("slow", calls, 40), "fast": Recorder("fast", calls, 10)}
    slow, fast = compare(models, TimingSetting(baseline="slow", repeats=5), seconds=0.1)
    assert slow.ratio == 1.0 and slow.ratio_spread == 0.0
    assert 2 < fast.ratio < 6
    assert slow.seconds >= 0.040 and fast.seconds >= 0.010


def test_every_model_hears_the_same_input_in_every_repeat():
    calls = []
    models = {name: Recorder(name, calls) for name in "abc"}
    compare(models, TimingSetting(baseline="a", repeats=3), seconds=0.5, batch=2)
    first = calls[0][1]
    assert first.shape == (2, 8000) and first.dtype == torch.float32
    assert all(wavs is first for _, wavs in calls)


def test_repeats_are_interleaved_in_rotating_order_after_a_warm_up():
    calls = []
    models = {name: Recorder(name, calls) for name in "abc"}
    compare(models, TimingSetting(baseline="a", repeats=4), seconds=0.1)
    order = "".join(name for name, _ in calls)
    assert order == "abcabc" + "abc" + "bca" + "cab" + "abc"


def test_ratios_are_taken_pair_by_pair(monkeypatch):
    """The median of the pairs' ratios; the ratio of the medians would be 2 here."""
    seconds = iter([1.0, 1.0, 1.0, 4.0, 2.0, 4.0])  # (a, b), then rotated (b, a), then (a, b)
    monkeypatch.setattr(clock, "_seconds_of", lambda one, device: next(seconds))
    a, b = compare({"a": len, "b": len}, TimingSetting(baseline="a", repeats=3), seconds=0.1)
    assert (a.seconds, b.seconds) == (2.0, 1.0)
    assert b.seconds_mean == 2.0  # of 1, 1 and 4
    assert b.ratio == 1.0
    assert b.noisy and not a.noisy


def test_a_noisy_machine_is_said(monkeypatch, caplog):
    seconds = iter([1.0, 1.0, 3.0, 1.0, 1.0, 0.2])
    monkeypatch.setattr(clock, "_seconds_of", lambda one, device: next(seconds))
    compare({"a": len, "b": len}, TimingSetting(baseline="a", repeats=3), seconds=0.1)
    assert "b at 0.1 s: the machine is noisy" in caplog.text


def test_threads_are_set_for_the_runs_and_put_back():
    before, seen = torch.get_num_threads(), []
    compare(
        {"a": lambda wavs: seen.append(torch.get_num_threads())},
        TimingSetting(baseline="a", threads=before + 1, repeats=1),
        seconds=0.1,
    )
    assert set(seen) == {before + 1} and torch.get_num_threads() == before


def test_the_document_is_json_with_all_that_makes_a_number_readable():
    setting = TimingSetting(baseline="linear", repeats=2)
    model = nn.Sequential(nn.Linear(1600, 3)).eval()
    text = json.dumps(document(setting, compare({"linear": model}, setting, seconds=0.1)))
    found = json.loads(text)
    assert {"baseline", "device", "threads", "dtype", "versions", "results"} <= found.keys()
    assert found["versions"]["torch"] == torch.__version__ and found["dtype"] == "float32"
    assert found["versions"][compat.host().name] == compat.host().version
    (result,) = found["results"]
    assert result["name"] == "linear" and result["params"] == 1600 * 3 + 3 and result["length_s"] == 0.1


@pytest.mark.parametrize(
    "setting, message",
    [
        (TimingSetting(baseline="b"), "`baseline` must be one of the models .'a'., but is 'b'"),
        (TimingSetting(baseline="a", repeats=0), "`repeats` and `threads` must be at least 1, but are 0 and 1"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        compare({"a": len}, setting, seconds=0.1)


def test_a_module_in_training_mode_is_refused():
    with pytest.raises(UserError, match=r"evaluation mode.*'a'"):
        compare({"a": nn.Linear(2, 2)}, TimingSetting(baseline="a"), seconds=0.1)


def test_models_that_were_not_given_the_same_input_are_not_compared():
    one, other = torch.zeros(1, 800), torch.ones(1, 800)
    timed = [TimedCalls(name="a", model=len, batches=[one]), TimedCalls(name="b", model=len, batches=[other])]
    with pytest.raises(UserError, match="given the same input") as refusal:
        race(timed, TimingSetting(baseline="a"))
    assert re.search(r"\['a'\] got [0-9a-f]{16}", str(refusal.value)) and re.search(
        r"\['b'\] got [0-9a-f]{16}", str(refusal.value)
    )
    almost = torch.zeros(1, 800)
    almost[0, -1] = 1e-9
    with pytest.raises(UserError, match="given the same input"):
        race([timed[0], TimedCalls(name="b", model=len, batches=[almost])], TimingSetting(baseline="a"))


def test_the_same_utterances_batched_otherwise_are_the_same_input():
    wavs = [torch.full((400 + i,), float(i)) for i in range(4)]
    timed = [
        TimedCalls(name="together", model=len, batches=[wavs]),
        TimedCalls(name="alone", model=len, batches=[[wav] for wav in reversed(wavs)]),
    ]
    together, alone = race(timed, TimingSetting(baseline="together", repeats=1))
    assert (together.batch, alone.batch) == (4, 1)
    assert together.length_s == alone.length_s == pytest.approx(401.5 / 16_000)


def test_a_model_that_writes_into_its_input_is_found():
    timed = [TimedCalls(name="a", model=lambda wavs: wavs.mul_(2), batches=[torch.ones(1, 800)])]
    with pytest.raises(UserError, match="one of the models writes into its input"):
        race(timed, TimingSetting(baseline="a", repeats=1))
