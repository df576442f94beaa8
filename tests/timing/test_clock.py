"""The clock is fair: same input, interleaved, paired; no speed of a real model is tested."""

import json
import re
import time

import pytest
import torch
from torch import nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.timing import runs
from s3prl_pruned.timing.clock import compare, race
from s3prl_pruned.timing.document import document
from s3prl_pruned.timing.runs import REPEATS, CannotRun, TimedCalls, TimingSetting


class Recorder:
    """A callable that records its calls and their input, and sleeps."""

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


def test_every_model_gets_the_same_input_in_every_repeat():
    calls = []
    models = {name: Recorder(name, calls) for name in "abc"}
    compare(models, TimingSetting(baseline="a", repeats=3), seconds=0.5, batch=2)
    first = calls[0][1]
    assert first.shape == (2, 8000) and first.dtype == torch.float32
    assert all(wavs is first for _, wavs in calls)


def order_of(seed):
    calls = []
    models = {name: Recorder(name, calls) for name in "abc"}
    compare(models, TimingSetting(baseline="a", repeats=20, seed=seed), seconds=0.1)
    return "".join(name for name, _ in calls)


def test_repeats_are_interleaved_in_an_order_drawn_by_seed_after_a_warm_up():
    order = order_of(0)
    assert order.startswith("aabbcc")
    repeats = [order[start : start + 3] for start in range(6, len(order), 3)]
    assert len(repeats) == 20 and all(sorted(repeat) == ["a", "b", "c"] for repeat in repeats)
    assert len(set(repeats)) > 3, "a rotation has three orders"
    assert order_of(0) == order != order_of(1)


def test_each_model_is_timed_long_enough_if_the_number_of_repeats_is_not_set():
    calls = []
    models = {"slow": Recorder("slow", calls, 40), "quick": Recorder("quick", calls, 4)}
    setting = TimingSetting(baseline="slow", repeats=None, min_seconds=0.3)
    slow, quick = compare(models, setting, seconds=0.1)
    assert REPEATS[0] <= slow.repeats == quick.repeats <= REPEATS[1]
    assert slow.runs == slow.repeats and quick.runs > 3 * slow.runs
    assert slow.runs * slow.seconds_mean >= 0.3 and quick.runs * quick.seconds_mean >= 0.3
    assert 4 < quick.ratio < 12


def test_every_shape_of_batch_is_called_before_the_clock_counts():
    calls = []
    batches = [torch.zeros(1, 800), torch.zeros(1, 900), torch.ones(1, 800)]
    one = TimedCalls(name="a", model=Recorder("a", calls), batches=batches)
    race([one], TimingSetting(baseline="a", repeats=2))
    lengths = [wavs.shape[1] for _, wavs in calls]
    assert lengths == [800, 900] + [800, 900, 800] * 3, "each shape, a run to see how long it takes, two repeats"


def test_a_model_that_fails_is_named_with_its_reason():
    def fail(wavs):
        raise NotImplementedError("no such kernel\nand more")

    with pytest.raises(CannotRun, match="b: cannot run: no such kernel$") as refusal:
        compare({"a": len, "b": fail}, TimingSetting(baseline="a"), seconds=0.1)
    assert (refusal.value.name, refusal.value.reason) == ("b", "no such kernel")


def test_loading_the_input_is_timed_if_requested():
    def load(wavs):
        time.sleep(0.03)
        return wavs + 1

    heard, wavs = [], torch.zeros(1, 800)
    one = TimedCalls(name="a", model=lambda wavs: heard.append(float(wavs.max())), batches=[wavs], load=load)
    (result,) = race([one], TimingSetting(baseline="a", repeats=2))
    assert set(heard) == {1.0} and result.seconds >= 0.03


def test_an_asynchronous_device_is_synchronised_before_and_after(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: seen.append("wait"))
    one = TimedCalls(name="a", model=lambda wavs: seen.append("run"), batches=[torch.zeros(1, 8)])
    assert runs._seconds_of(one, torch.device("mps")) > 0
    assert seen == ["wait", "run", "wait"]


def test_a_second_gpu_is_timed_by_its_own_events(monkeypatch):
    """Torch creates an event on the current device, whichever stream it is recorded on later."""
    current, seen = [0], []

    class Device:
        def __init__(self, device):
            self.index = device.index

        def __enter__(self):
            self.before, current[0] = current[0], self.index

        def __exit__(self, *error):
            current[0] = self.before

    class Event:
        def __init__(self, enable_timing):
            self.device = current[0]

        def record(self, stream):
            seen.append((self.device, stream))

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 500.0

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    one = TimedCalls(name="a", model=len, batches=[torch.zeros(1, 8)])
    assert runs._seconds_of(one, torch.device("cuda:1")) == 0.5
    assert seen == [(1, "stream of cuda:1")] * 2 and current == [0]


def test_ratios_are_taken_pair_by_pair(monkeypatch):
    """The median of the pairs' ratios; the ratio of the medians would be 2 here."""
    seconds = {"a": iter([9.0, 1.0, 4.0, 2.0]), "b": iter([9.0, 1.0, 1.0, 4.0])}  # the first is the warm-up
    monkeypatch.setattr(runs, "_seconds_of", lambda one, device: next(seconds[one.name]))
    a, b = compare({"a": len, "b": len}, TimingSetting(baseline="a", repeats=3), seconds=0.1)
    assert (a.seconds, b.seconds) == (2.0, 1.0)
    assert b.seconds_mean == 2.0 and b.seconds_std == pytest.approx(3**0.5)  # of 1, 1 and 4
    assert b.ratio == 1.0
    assert b.noisy and not a.noisy


def test_a_noisy_machine_is_reported(monkeypatch, caplog):
    seconds = {"a": iter([1.0, 1.0, 3.0, 1.0]), "b": iter([1.0, 1.0, 1.0, 5.0])}
    monkeypatch.setattr(runs, "_seconds_of", lambda one, device: next(seconds[one.name]))
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


def test_models_with_different_inputs_are_not_compared():
    one, other = torch.zeros(1, 800), torch.ones(1, 800)
    timed = [TimedCalls(name="a", model=len, batches=[one]), TimedCalls(name="b", model=len, batches=[other])]
    with pytest.raises(UserError, match="get the same input") as refusal:
        race(timed, TimingSetting(baseline="a"))
    assert re.search(r"\['a'\] got [0-9a-f]{16}", str(refusal.value)) and re.search(
        r"\['b'\] got [0-9a-f]{16}", str(refusal.value)
    )
    almost = torch.zeros(1, 800)
    almost[0, -1] = 1e-9
    with pytest.raises(UserError, match="get the same input"):
        race([timed[0], TimedCalls(name="b", model=len, batches=[almost])], TimingSetting(baseline="a"))


def test_the_same_utterances_in_other_batches_are_the_same_input():
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
