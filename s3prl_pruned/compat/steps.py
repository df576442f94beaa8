"""Let s3prl's runner be told after each of its steps, save when it is asked to, and stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader


class LastStep(Exception):
    """The last step that a process is to make was made."""


def call_after_each_step(runner: Any, made: Callable[[], None]) -> None:
    """Call a function after each optimizer step, in every process, before s3prl logs, evaluates and saves.

    Args:
        runner: before it trains.
        made: the function; what it raises ends the training.
    """
    make = runner._get_optimizer

    def make_told(models: list) -> Any:
        optimizer = make(models)
        zero_grad = optimizer.zero_grad

        # Called once a step, even where the gradient is NaN.
        def zero_grad_and_tell(*args: Any, **kwargs: Any) -> None:
            zero_grad(*args, **kwargs)
            made()

        optimizer.zero_grad = zero_grad_and_tell
        return optimizer

    runner._get_optimizer = make_told


class SaveStep(int):
    """s3prl's ``runner.save_step``, by which every step can be divided once it is to be saved.

    s3prl asks ``step % save_step == 0``, and then saves all that its own resumption reads.
    """

    wanted: Callable[[], bool] = staticmethod(lambda: False)
    """Whether the step under way is to be saved."""

    def __rmod__(self, step: int) -> int:
        return 0 if self.wanted() else step % int(self)


def save_when_wanted(runner: Any, wanted: Callable[[], bool]) -> None:
    """Let a runner save a step beyond its interval.

    Args:
        runner: before it trains.
        wanted: asked after each step.
    """
    save_step = SaveStep(runner.config["runner"]["save_step"])
    save_step.wanted = wanted
    runner.config["runner"]["save_step"] = save_step


def start_readers_by(runner: Any, kind: type[DataLoader], prepare: Callable[[int], None]) -> None:
    """Let a loader of another kind start the processes that read data for a runner, and let each call a function first.

    Args:
        runner: whose loaders name none of their own.
        kind: of loader, without state of its own.
        prepare: given the reading process's number.
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
