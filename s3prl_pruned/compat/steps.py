"""Make s3prl's runner call a function after each step, save on request, and stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader


class LastStep(Exception):
    """A process has finished its last step."""


def call_after_each_step(runner: Any, made: Callable[[], None]) -> None:
    """Call a function after each optimizer step, in every process, before s3prl logs, evaluates and saves.

    Args:
        runner: s3prl's, before training.
        made: the function; an exception that it raises ends the training.
    """
    make = runner._get_optimizer

    def make_wrapped(models: list) -> Any:
        optimizer = make(models)
        zero_grad = optimizer.zero_grad

        # Called once a step, even where the gradient is NaN.
        def zero_grad_and_call(*args: Any, **kwargs: Any) -> None:
            zero_grad(*args, **kwargs)
            made()

        optimizer.zero_grad = zero_grad_and_call
        return optimizer

    runner._get_optimizer = make_wrapped


class SaveStep(int):
    """s3prl's ``runner.save_step``, which also divides every step that ``wanted`` asks to save.

    s3prl checks ``step % save_step == 0``, and then saves all that it needs to resume.
    """

    wanted: Callable[[], bool] = staticmethod(lambda: False)
    """Whether the current step is to be saved."""

    def __rmod__(self, step: int) -> int:
        return 0 if self.wanted() else step % int(self)


def save_when_wanted(runner: Any, wanted: Callable[[], bool]) -> None:
    """Make a runner also save steps between its regular ones.

    Args:
        runner: s3prl's, before training.
        wanted: called after each step; True saves it.
    """
    save_step = SaveStep(runner.config["runner"]["save_step"])
    save_step.wanted = wanted
    runner.config["runner"]["save_step"] = save_step


def start_readers_by(runner: Any, kind: type[DataLoader], prepare: Callable[[int], None]) -> None:
    """Make another class of loader start the workers that read a runner's data, and each worker call a function first.

    Args:
        runner: s3prl's; a loader that has a ``worker_init_fn`` already is not changed.
        kind: subclass of ``DataLoader``, without state of its own.
        prepare: called in each worker with its number.
    """
    model = runner.downstream.model
    theirs = model.get_dataloader

    def get_dataloader(*args: Any, **kwargs: Any) -> Any:
        loader = theirs(*args, **kwargs)
        if isinstance(loader, DataLoader) and loader.worker_init_fn is None:
            loader.worker_init_fn = prepare
            if type(loader) is DataLoader:
                loader.__class__ = kind
        return loader

    model.get_dataloader = get_dataloader
