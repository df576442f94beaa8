"""A moving average of the weights that a run trains, by which it is judged and which it exports where a recipe asks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of parameters, beside them, in their own precision (fp32 in a run).

    After optimiser step t it is `d_t a + (1 - d_t) w`, with `d_t = min(decay, (1 + t) / (10 + t))`: the rising decay
    (TensorFlow's `ExponentialMovingAverage` with `num_updates`) lets the weights of the beginning, the teacher's, fade.

    `torch.optim.swa_utils.AveragedModel` would copy the whole model, gates and teacher among it, and cannot leave a
    step out by a number on the device, which is how a run skips steps without waiting for a GPU.

    Args:
        parameters: what is averaged; the average starts as they are.
        decay: in (0, 1).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float):
        self.decay, self._parameters = decay, list(parameters)
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    def decay_at(self, step: int) -> float:
        """What the average keeps of itself in optimiser step `step` (1-based)."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int, *, unless: Tensor) -> None:
        """Let the weights join, after the optimiser's step.

        Args:
            step: its number, 1-based.
            unless: a scalar, fp32: where it is 1, nothing changes. Nothing is read from its device.
        """
        share = (1 - self.decay_at(step)) * (1 - unless)
        shares = [share.to(average.dtype) for average in self._average]
        torch._foreach_lerp_(self._average, [parameter.detach() for parameter in self._parameters], shares)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters be the average, and afterwards the weights again; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for number, parameter in enumerate(self._parameters):
            parameter.data, self._average[number] = self._average[number], parameter.data
