"""s3prl's experts are imported without packages that they hardly use, and train on several processes on any device."""

import importlib.util
import re
import sys
import types

import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from s3prl_pruned import compat
from s3prl_pruned.compat import experts, steps
from s3prl_pruned.compat.experts import DistributedSamplerWrapper
from s3prl_pruned.compat.steps import LastStep
from s3prl_pruned.config import UserError


@pytest.fixture(autouse=True)
def applied():
    compat.apply()


def forget(monkeypatch, *names):
    for name in [name for name in sys.modules if name.startswith(names)]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(("downstream", "package"), [("speech_commands", "catalyst"), ("voxceleb1", "librosa")])
def test_a_stand_in_is_there_only_while_an_expert_is_imported(monkeypatch, downstream, package):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    forget(monkeypatch, f"s3prl.downstream.{downstream}")
    assert hasattr(experts.import_expert(downstream), "DownstreamExpert")
    assert package not in sys.modules and importlib.util.find_spec(package) is None


def test_what_an_expert_imports_and_does_not_call_raises_when_called(monkeypatch):
    forget(monkeypatch, "s3prl.downstream.voxceleb1")
    expert = experts.import_expert("voxceleb1")
    dataset = sys.modules[expert.SpeakerClassifiDataset.__module__]
    if importlib.util.find_spec("librosa") is None:
        with pytest.raises(UserError, match="librosa.util.find_files: s3prl calls this, but it is not installed"):
            dataset.find_files("folder")


def test_a_package_that_is_installed_is_not_replaced(monkeypatch):
    real = types.ModuleType("catalyst.data.sampler")
    real.DistributedSamplerWrapper = marker = type("Real", (), {})
    for name in ("catalyst", "catalyst.data"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "catalyst.data.sampler", real)
    forget(monkeypatch, "s3prl.downstream.speech_commands")
    assert experts.import_expert("speech_commands").DistributedSamplerWrapper is marker
    forget(monkeypatch, "s3prl.downstream.speech_commands")


def test_a_package_that_an_expert_needs_is_named_with_what_to_install(monkeypatch):
    forget(monkeypatch, "s3prl.downstream.fluent_commands")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        UserError, match=r"s3prl's fluent_commands needs the package pandas.*pip install s3prl_pruned\[superb\]"
    ):
        experts.import_expert("fluent_commands")


def test_a_workaround_that_does_not_fit_the_host_is_an_error_and_no_silent_nothing(monkeypatch, tmp_path):
    expert = experts.import_expert("voxceleb1").DownstreamExpert
    monkeypatch.delattr(sys.modules["s3prl.downstream.voxceleb1.dataset"], "CACHE_PATH")
    rule = (
        re.escape(f"{compat.host()}: this task needs a workaround that does not fit this host")
        + r".*voxceleb1\.dataset has no `CACHE_PATH`"
    )
    with pytest.raises(UserError, match=rule):
        experts.keep_voxceleb1_lists_in(tmp_path)
    monkeypatch.setattr(expert, "__init__", lambda self, settings: None)
    with pytest.raises(UserError, match="voxceleb1's expert takes no `downstream_expert`"):
        experts.keep_settings_of("voxceleb1")


def test_an_expert_that_follows_its_device_already_is_left_alone(monkeypatch):
    def forward(self, mode, features):
        return features

    expert = experts.import_expert("sv_voxceleb1").DownstreamExpert
    monkeypatch.setattr(expert, "forward", forward)
    experts.let_sv_voxceleb1_follow_its_device()
    assert expert.forward is forward


@pytest.mark.parametrize(
    "arguments", [{"device_ids": [None], "find_unused_parameters": True}, {}], ids=["as today", "as it may be"]
)
def test_the_wrapper_for_several_processes_takes_what_a_host_gives_it(monkeypatch, arguments):
    import s3prl.downstream.runner

    given = []
    monkeypatch.setattr("torch.nn.parallel.DistributedDataParallel", lambda model, **options: given.append(options))
    monkeypatch.setattr(s3prl.downstream.runner, "DDP", None)
    experts.train_on_all_processes()
    s3prl.downstream.runner.DDP(torch.nn.Linear(1, 1), **arguments)
    assert given == [{"device_ids": None, "find_unused_parameters": bool(arguments), "broadcast_buffers": False}]


def shares(epoch, *, seed=3, weights=(1.0,) * 10):
    """What each of two processes gets."""
    found = []
    for rank in (0, 1):
        torch.manual_seed(seed)
        torch.rand(7 * (rank + 1))  # the processes' random states differ by what each of them drew
        sampler = WeightedRandomSampler(torch.tensor(weights), len(weights), replacement=False)
        wrapped = DistributedSamplerWrapper(sampler, num_replicas=2, rank=rank)
        wrapped.set_epoch(epoch)
        found.append(list(wrapped))
        assert len(wrapped) == len(found[-1])
    return found


def test_processes_share_one_draw_of_a_sampler():
    one, other = shares(0)
    assert len(one) == len(other) == 5 and sorted(one + other) == list(range(10))
    assert shares(0) == [one, other] != shares(1)
    one, other = shares(0, weights=(1.0,) * 11)  # an odd number: one item is given twice
    assert len(one) == len(other) == 6 and set(one + other) == set(range(11))


def test_each_step_is_told_after_the_optimizer_made_it():
    weight = torch.nn.Parameter(torch.ones(1))
    runner = types.SimpleNamespace(_get_optimizer=lambda models: torch.optim.SGD([weight], lr=0.5))
    values = []

    def made():
        values.append((weight.item(), weight.grad))
        if len(values) == 3:
            raise LastStep

    steps.call_after_each_step(runner, made)
    optimizer = runner._get_optimizer([])
    with pytest.raises(LastStep):
        while True:
            weight.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert values == [(0.5, None), (0.0, None), (-0.5, None)]


def test_an_interval_can_be_left_for_one_step_and_is_a_number_otherwise():
    wanted = []
    runner = types.SimpleNamespace(config={"runner": {"save_step": 20}})
    steps.save_when_wanted(runner, lambda: bool(wanted))
    interval = runner.config["runner"]["save_step"]
    assert interval == 20 and [step % interval for step in (19, 20, 21)] == [19, 0, 1]
    wanted.append(True)
    assert [step % interval for step in (19, 20, 21)] == [0, 0, 0]
