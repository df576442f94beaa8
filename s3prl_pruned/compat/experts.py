"""Import and run s3prl's downstream experts without packages that they import but hardly use.

No host's package declares these. A replacement here does all that an expert needs, or raises when
used; it is in ``sys.modules`` only while the expert is imported, and never replaces an installed package.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import io
import os
import sys
import types
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch.utils.data import Dataset, DistributedSampler, Sampler

from s3prl_pruned.compat.hosts import host
from s3prl_pruned.config import UserError


def import_expert(downstream: str) -> types.ModuleType:
    """Import ``s3prl.downstream.<downstream>.expert``. ``compat.apply()`` must have been called.

    Raises:
        UserError: if a package that the expert really needs is missing.
    """
    with _stand_ins():
        try:
            return importlib.import_module(f"s3prl.downstream.{downstream}.expert")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("s3prl"):
                raise
            raise UserError(
                f"s3prl's {downstream} needs the package {error.name}, which is not installed. "
                "Type `pip install s3prl_pruned[superb]`."
            ) from error


def keep_voxceleb1_lists_in(folder: Path) -> None:
    """Make s3prl's ``voxceleb1`` keep its lists of files in ``folder``.

    By default it keeps them as ``.cache/{train,dev,test}.pkl`` beside its code, whatever the corpus: a second corpus
    on a machine gets the first one's files, or those of a folder that no longer exists.
    """
    _replace(importlib.import_module("s3prl.downstream.voxceleb1.dataset"), "CACHE_PATH", os.fspath(folder))


def read_asr_transcripts_by(reader: Callable[[str], str]) -> None:
    """Make s3prl's ``asr`` read each ``*.trans.txt`` through ``reader``, which returns its text.

    By default, it stops at a blank line and takes a byte order mark as part of the first id.
    """
    module = importlib.import_module("s3prl.downstream.asr.dataset")
    names = module.SequenceDataset._load_transcript.__code__.co_names
    _require("open" in names, "asr's `_load_transcript` opens no file")
    vars(module)["open"] = lambda path, mode="r": io.StringIO(reader(path))


def keep_settings_of(downstream: str) -> None:
    """Give an expert a copy of the settings.

    So what it writes into them (``diarization``: its frame shift) is not saved in checkpoints as if it were a setting.
    """
    expert = importlib.import_module(f"s3prl.downstream.{downstream}.expert").DownstreamExpert
    theirs = expert.__init__
    if hasattr(theirs, "__wrapped__"):
        return
    _require(
        "downstream_expert" in inspect.signature(theirs).parameters,
        f"{downstream}'s expert takes no `downstream_expert`",
    )

    @functools.wraps(theirs)
    def initialise(self: Any, *args: Any, downstream_expert: dict, **kwargs: Any) -> None:
        theirs(self, *args, downstream_expert=copy.deepcopy(downstream_expert), **kwargs)

    expert.__init__ = initialise


def keep_sv_voxceleb1_lengths_in(file: Path) -> None:
    """Make s3prl's ``sv_voxceleb1`` read the lengths of its training files from ``file``.

    By default that is ``.wav_lengths/Voxceleb1_length.pt`` beside its code, whatever the corpus, found by ``__file__``.
    ``file`` must end in the same path.
    """
    dataset = importlib.import_module("s3prl.downstream.sv_voxceleb1.dataset")
    names = dataset.SpeakerVerifi_train.__init__.__code__.co_names
    _require("__file__" in names, "sv_voxceleb1's dataset does not find its lengths by `__file__`")
    dataset.__file__ = os.fspath(file.parents[1] / "dataset.py")


def let_sv_voxceleb1_follow_its_device() -> None:
    """Make s3prl's ``sv_voxceleb1`` put its mask on the device of its features.

    It calls ``.cuda()``, whatever ``--device`` says. A host whose expert does not call it is not changed.
    """
    expert = importlib.import_module("s3prl.downstream.sv_voxceleb1.expert").DownstreamExpert
    theirs = expert.forward
    if hasattr(theirs, "__wrapped__") or "cuda" not in theirs.__code__.co_names:
        return

    @functools.wraps(theirs)
    def forward(self: Any, mode: str, features: list[torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        device = features[0].device
        with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor.to(device)):
            return theirs(self, mode, features, *args, **kwargs)

    expert.forward = forward


def read_ctc_corpora_by(create_dataset: Callable) -> None:
    """Make s3prl's ``ctc`` create its datasets with this function.

    Its own function imports readers that its package lacks. It also removes ``num_workers`` from the settings at the
    first split, so that all other splits get twelve, and a checkpoint has none.
    """
    data = importlib.import_module("s3prl.downstream.ctc.data")
    expert = importlib.import_module("s3prl.downstream.ctc.expert")
    _replace(data, "create_dataset", create_dataset)
    _replace(expert, "load_dataset", lambda split, tokenizer, corpus: data.load_dataset(split, tokenizer, dict(corpus)))


def train_on_all_processes() -> None:
    """Make s3prl's runner wrap models for distributed training on any device.

    It names a GPU, which fails on a CPU. On a GPU the wrapper then copies the runner's records, a ``defaultdict``
    that it cannot copy; s3prl replaces ``builtins.isinstance`` to avoid that. Without device ids nothing is copied:
    the features are on the right device already. Buffers are not broadcast either: the first process evaluates alone,
    and a broadcast from there would be received by the others in their next step.
    """
    from torch.nn.parallel import DistributedDataParallel

    def wrap(model: torch.nn.Module, *, find_unused_parameters: bool = False, **theirs: Any) -> DistributedDataParallel:
        return DistributedDataParallel(
            model,
            **{**theirs, "device_ids": None},
            find_unused_parameters=find_unused_parameters,
            broadcast_buffers=False,
        )

    _replace(importlib.import_module("s3prl.downstream.runner"), "DDP", wrap)


def save_checkpoints_by(save: Callable[[Path, dict], Path], then: Callable[[], None]) -> None:
    """Make s3prl's runner save checkpoints with this function, and delete the oldest only after the new one is saved.

    By default it deletes first and then writes in place: a kill or a full disk in between loses the only checkpoint, or
    the best.

    Args:
        save: called with path and states, returns the path that it wrote. If that is another path, no old checkpoint is
            deleted.
        then: called when a step's checkpoint is saved; an exception that it raises ends the training.
    """
    runner = importlib.import_module("s3prl.downstream.runner")
    _require({"torch", "os"} <= vars(runner).keys(), "its runner does not save by `torch` and delete by `os`")
    oldest: list[str] = []

    def save_then_delete(states: dict, path: str) -> None:
        written = save(Path(path), states)
        if Path(path).name.startswith("states-"):
            while oldest:
                old = oldest.pop()
                if written == Path(path):
                    os.remove(old)
            then()

    vars(runner).update(torch=_Over(torch, save=save_then_delete), os=_Over(os, remove=oldest.append))


class _Over(types.ModuleType):
    """A module with some of its names replaced."""

    def __init__(self, module: types.ModuleType, **ours: object) -> None:
        super().__init__(module.__name__)
        vars(self).update(ours)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def write_scalars_by(writer: Callable) -> None:
    """Make s3prl's runner write its scalars with this class: its own waits forever once the disk is full."""
    _replace(importlib.import_module("s3prl.downstream.runner"), "SummaryWriter", writer)


class DistributedSamplerWrapper(DistributedSampler):
    """Any sampler, divided among processes; replaces catalyst's class of this name.

    In each epoch all processes draw from the sampler with the same random state, which depends on the process's seed
    and the epoch, and each takes every n-th item that was drawn.
    """

    def __init__(self, sampler: Sampler, num_replicas: int | None = None, rank: int | None = None):
        drawn = cast(Dataset, range(len(cast(Sized, sampler))))  # only its length is used
        super().__init__(drawn, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() + self.epoch)
            drawn = list(self.sampler)
        return iter([drawn[position] for position in super().__iter__()])


def _replace(module: types.ModuleType, name: str, ours: object) -> None:
    """Replace what the host's module has under this name.

    A module that lacks the name is an error, since nothing would read the replacement.
    """
    _require(hasattr(module, name), f"{module.__name__} has no `{name}`")
    setattr(module, name, ours)


def _require(found: bool, gap: str) -> None:
    if not found:
        raise UserError(
            f"{host()}: this task needs a workaround that does not fit this host ({gap}). Install one that was tested: "
            "`pip install s3prl==0.4.18` or `pip install espnet-s3prl==2026.5.14`."
        )


def _absent(name: str) -> Callable:
    def raise_when_used(*args: Any, **kwargs: Any) -> Any:
        raise UserError(f"{name}: s3prl calls this, but it is not installed. pip install {name.split('.')[0]}")

    return raise_when_used


STAND_INS: dict[str, dict[str, Any]] = {
    # speech_commands: only where several processes train
    "catalyst.data.sampler": {"DistributedSamplerWrapper": DistributedSamplerWrapper},
    # voxceleb1, sv_voxceleb1: imported, never called
    "librosa.util": {"find_files": _absent("librosa.util.find_files")},
    "sox": {"Transformer": _absent("sox.Transformer")},
}
"""Module, and the names in it that an expert imports."""


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    made = []
    try:
        for name, contents in STAND_INS.items():
            top = name.split(".")[0]
            if top in sys.modules or importlib.util.find_spec(top) is not None:
                continue
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                made.append(".".join(parts[:end]))
                sys.modules[made[-1]] = types.ModuleType(made[-1])
            vars(sys.modules[name]).update(contents)
        yield
    finally:
        for name in made:
            del sys.modules[name]
