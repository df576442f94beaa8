"""A training step is queued without reading anything from the device, with the same result."""

import collections
import json
import math

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s3prl_pruned import transfers
from s3prl_pruned.config import apply_overrides, from_dict, to_dict
from s3prl_pruned.models.accelerate import closed_units
from s3prl_pruned.pretrain.config import LoopConfig, RunnerConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert
from s3prl_pruned.pretrain.records import STEPS_BEHIND
from s3prl_pruned.pretrain.trainer import Trainer
from tests.latency_tables import table_of
from tests.tiny_run import tiny_wavlm

READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
METHODS = ("tolist", "cpu", "numpy")
"""Methods of a tensor that a dispatcher does not see on a CPU."""
KINDS = {
    "the paper's": [],
    "whole heads": ["gates.kinds=[mha,head,ffn,int]"],
    "a pruned CNN, towards MACs": ["gates.kinds=[mha,qk,vo,ffn,int,conv]", "sparsity={target: {of: macs, share: 0.7}}"],
    "towards time": ["sparsity={target: {of: time, speedup: 2.0, table: TABLE}}"],
    "fixed pairs": ["distill.pairing=fixed", "distill.loss=l1_cosine"],
    "self-pinching": ["self_pinching={kinds: [head, int]}"],
    "single weights": ["self_pinching={kinds: [attention_weights, ffn_weights]}"],
}


class ReadsOfTheDevice(TorchDispatchMode):
    """Counts reads that would wait for a GPU: reads of tensors computed from the model's, as if these were on a GPU.

    Attributes:
        found: reads by operator.
    """

    def __init__(self, on_the_device):
        super().__init__()
        self.found, self._storages, self._kept = collections.Counter(), set(), []
        self.mark(on_the_device)

    def mark(self, tensors):
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._storages:
                self._storages.add(tensor.untyped_storage()._cdata)
                self._kept.append(tensor)  # keeps the storage alive, so that its address is not reused

    def holds(self, tensors):
        return any(
            isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata in self._storages
            for tensor in tree_leaves(tensors)
        )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self.holds((args, kwargs)):
            name = func.overloadpacket.__name__
            self.found.update([name] if name in READS else [])
            self.mark(result)
        return result


@pytest.fixture
def reads_of(monkeypatch):
    """`reads_of(trainer, batches)`: reads of one more step, by name; copies without a wait have their own entry."""
    monkeypatch.setattr(closed_units, "SHARE_THAT_PAYS", {})  # as on CUDA

    def reads(trainer, batches):
        states = [optimizer.state for optimizer in trainer.optimizers._all]
        expert = trainer.expert
        held = [state for each in states for state in each.values()]
        mode = ReadsOfTheDevice([*expert.model.parameters(), *expert.model.buffers(), held, expert._running_errors])
        to_numpy = torch.Tensor.numpy
        for name in METHODS:
            real = getattr(torch.Tensor, name)

            def method(tensor, *args, name=name, real=real, **options):
                mode.found.update([name] if mode.holds(tensor) else [])
                return real(tensor, *args, **options)

            monkeypatch.setattr(torch.Tensor, name, method)

        def copied(copy):
            mode.found["copied"] += 1
            return torch.from_numpy(to_numpy(copy._copy).copy())

        monkeypatch.setattr(transfers.HostCopy, "get", copied)
        with mode:
            trainer.start(batches)
        return mode.found

    return reads


def trainer_of(recipe, changes, *, device="cpu", steps=100, crop_lengths=None, **loop):
    model = yaml.safe_load((recipe.recipe / "config_model.yaml").read_text())
    model["student"] = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    model = from_dict(ModelConfig, apply_overrides(model, changes), "tiny")
    model.teacher = str(recipe.teacher)
    data = {"corpus": str(recipe.corpus), "min_seconds": 0.3, "num_workers": 0}
    data |= {"crop_lengths": crop_lengths, "max_seconds": 0.4, "train_batch_size": 2}
    expert = UpstreamPretrainExpert(data, model, device, seed=3)
    return Trainer(expert, RunnerConfig(runner=LoopConfig(total_steps=steps, **loop)), seed=3)


def batches_of(*lengths, seed=0):
    """Micro-batches of two utterances with these numbers of samples."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(2, length, generator=generator) * 0.1, torch.full((2,), length)) for length in lengths]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_reads_only_asynchronous_copies_from_the_device(recipe, reads_of, tmp_path, kind):
    table = tmp_path / "table.json"
    table.write_text(json.dumps(to_dict(table_of(tiny_wavlm()))))
    trainer = trainer_of(recipe, [change.replace("TABLE", str(table)) for change in KINDS[kind]], ema_decay=0.9)
    for _ in range(2):
        trainer.advance(batches_of(6_000, 6_000))
    found = reads_of(trainer, batches_of(6_000, 5_000))
    asked = found.pop("copied", 0)
    assert not found
    assert asked == (0 if kind == "fixed pairs" else 2), "running errors and kept units, once for all micro-batches"


def test_the_count_notices_a_read(recipe, reads_of, monkeypatch):
    trainer = trainer_of(recipe, [])
    trainer.advance(batches_of(6_000))
    real = trainer.optimizers.clip
    monkeypatch.setattr(trainer.optimizers, "clip", lambda limit: torch.tensor(float(real(limit))))
    assert reads_of(trainer, batches_of(6_000))["_local_scalar_dense"] == 1


def test_records_that_are_read_later_are_the_same(recipe):
    """Two steps later, as on a GPU, in order, and complete at the end."""
    at_once, later = trainer_of(recipe, []), trainer_of(recipe, [])
    later._behind = STEPS_BEHIND
    wanted, found, numbers = [], [], []
    for step in range(6):
        batches = batches_of(6_000, seed=step)
        wanted.append(at_once.advance(batches))
        later.start(batches)
        done = later.finished()
        numbers.append(len(done))
        found += done
    found += later.finished(wait=True)
    assert numbers == [0, 0, 1, 1, 1, 1]
    of_the_machine = {"train_seconds", "memory_gib"}
    for mine, theirs in zip(found, wanted, strict=True):
        assert {k: v for k, v in mine.items() if k not in of_the_machine} == {
            k: v for k, v in theirs.items() if k not in of_the_machine
        }


def test_a_bad_step_noticed_late_changes_nothing_and_is_counted_before_a_checkpoint(recipe, tmp_path):
    trainer = trainer_of(recipe, [])
    trainer._behind = STEPS_BEHIND
    trainer.start(batches_of(6_000))
    trainer.finished(wait=True)
    before = {name: value.clone() for name, value in trainer.expert.model.state_dict().items()}
    steps = [state["step"].clone() for state in trainer.optimizers.weights.state.values()]
    ((wavs, lengths),) = batches_of(6_000)
    trainer.start([(wavs * math.nan, lengths)])
    assert trainer.finished() == [] and trainer.bad_steps == 0
    with pytest.raises(AssertionError, match="would be lost"):
        trainer.save(tmp_path)
    (records,) = trainer.finished(wait=True)
    assert math.isnan(records["distill"]) and records["bad_steps"] == trainer.bad_steps == 1
    for name, value in trainer.expert.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert steps == [state["step"] for state in trainer.optimizers.weights.state.values()], "no step of the optimiser"


@pytest.mark.slow
@pytest.mark.parametrize(
    "crop_lengths, checkpointing",
    [
        pytest.param(None, False, id="for all lengths"),
        pytest.param(2, False, id="for each length"),
        pytest.param(None, True, id="under checkpointing"),
    ],
)
def test_compiled_steps_have_the_losses_of_plain_ones(recipe, crop_lengths, checkpointing):
    """fp32, several lengths, masks with and without gradients. Rounding errors grow a little from step to step."""
    settling = ["sparsity.settle_fraction=0.9", "sparsity.warmup_fraction=0.1"]
    plain = trainer_of(recipe, settling, steps=30, gradient_checkpointing=checkpointing)
    compiled = trainer_of(
        recipe, settling, steps=30, gradient_checkpointing=checkpointing, compile=True, crop_lengths=crop_lengths
    )
    assert compiled.compiles and not plain.compiles
    graphs = []
    for step, length in enumerate([6_000, 5_000, 5_500, 4_000, 6_000]):
        batches = batches_of(length, seed=step)
        assert compiled.advance(batches)["distill"] == pytest.approx(plain.advance(batches)["distill"], rel=1e-5), step
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compiled.expert.masks_are_learned is False
    assert graphs[3] > graphs[0], "masks without gradients need other kernels"
    if crop_lengths is None:
        assert graphs[0] == graphs[1] == graphs[2] and graphs[3] == graphs[4], "one length is compiled like all"
    else:
        assert graphs[1] > graphs[0], "another length is compiled separately"
