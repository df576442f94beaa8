"""A moving average of the trained weights, which a run evaluates and exports if its recipe asks for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of parameters, in their own precision (fp32 in a run).

    After optimiser step t it is `d_t a + (1 - d_t) w`, with `d_t = min(decay, (1 + t) / (10 + t))`: the rising decay
    (TensorFlow's `ExponentialMovingAverage` with `num_updates`) lets the weights of the beginning, the teacher's, fade.

    `torch.optim.swa_utils.AveragedModel` is not used: it copies the whole model with gates and teacher, and it cannot
    skip a step by a flag on the device, which a run needs so that it does not wait for the GPU.

    Args:
        parameters: the parameters to average; the average starts with their values.
        decay: in (0, 1).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float):
        self.decay, self._parameters = decay, list(parameters)
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    def decay_at(self, step: int) -> float:
        """Factor of the old average in optimiser step `step` (1-based)."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int, *, unless: Tensor) -> None:
        """Update the average after an optimiser step.

        Args:
            step: its number, 1-based.
            unless: a scalar tensor, fp32: 1 leaves the average unchanged. It is not copied to the CPU.
        """
        share = (1 - self.decay_at(step)) * (1 - unless)
        shares = [share.to(average.dtype) for average in self._average]
        torch._foreach_lerp_(self._average, [parameter.detach() for parameter in self._parameters], shares)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the average as the parameters inside the block, and restore the weights afterwards; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for number, parameter in enumerate(self._parameters):
            parameter.data, self._average[number] = self._average[number], parameter.data
