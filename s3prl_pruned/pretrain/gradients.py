"""Gradients summed over processes in buckets, sent while the backward pass is still running."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s3prl_pruned import distributed

BUCKET_BYTES = 25 * 2**20
"""Bytes of gradients per message (as in DistributedDataParallel)."""


class GradientSums:
    """Sums the gradients of a step over all processes, once; does nothing with one process.

    The set of parameters with a gradient changes little from step to step, and is the same in all processes, since they
    share masks and matched layers. Parameters that had a gradient in the step before are assigned to buckets, the last
    parameters first, in the order of the backward pass. A bucket is sent when it is full and all buckets before it are
    sent. Incomplete buckets and unexpected gradients are sent at the end. So all processes send the same messages in
    the same order.

    Args:
        parameters: in the order of the forward pass.
        bucket_bytes: bytes of gradients per message.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, bucket_bytes: int = BUCKET_BYTES):
        self._parameters = list(parameters)[::-1]
        self._bucket_bytes = bucket_bytes
        self._buckets: list[list[nn.Parameter]] = []
        self._missing: list[set[int]] = []  # per bucket: ids of the parameters whose gradients are missing
        self._bucket_of: dict[int, int] = {}
        self._sent: list[tuple[dist.Work, Tensor, list[Tensor]]] = []
        self._next, self._watches = 0, False
        if distributed.world_size() > 1:
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._arrived)

    def watch(self) -> None:
        """Announce the last backward pass of the step; no gradient may change after it."""
        self._watches = True
        self._missing = [{id(parameter) for parameter in bucket} for bucket in self._buckets]

    def _arrived(self, parameter: Tensor) -> None:
        if not self._watches or id(parameter) not in self._bucket_of:
            return
        self._missing[self._bucket_of[id(parameter)]].discard(id(parameter))
        while self._next < len(self._buckets) and not self._missing[self._next]:
            self._send(self._buckets[self._next])
            self._next += 1

    def _send(self, parameters: list[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            message = torch.cat([gradient.flatten() for gradient in gradients])
            with distributed.losses_named():
                work = dist.all_reduce(message, op=dist.ReduceOp.SUM, async_op=True)
            assert work is not None
            self._sent.append((work, message, gradients))

    def finish(self) -> int:
        """Replace each gradient by its sum over all processes.

        Returns:
            Number of messages that were sent during the backward pass.

        Raises:
            ProcessLost: another process has ended, or did not answer in time.
        """
        if distributed.world_size() == 1:
            return 0
        early = self._next
        for bucket in [*self._buckets[early:], self._unexpected()]:
            self._send(bucket)
        for work, message, gradients in self._sent:
            with distributed.losses_named():
                work.wait()
            parts = message.split([gradient.numel() for gradient in gradients])
            torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
        self._deal()
        self._sent, self._next, self._watches = [], 0, False
        return early

    def _unexpected(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._parameters if id(parameter) not in self._bucket_of]

    def _deal(self) -> None:
        """Assign parameters that have a gradient now to buckets."""
        self._buckets, size = [], self._bucket_bytes
        for parameter in self._parameters:
            if parameter.grad is not None:
                if size >= self._bucket_bytes:
                    self._buckets.append([])
                    size = 0
                self._buckets[-1].append(parameter)
                size += parameter.grad.numel() * parameter.grad.element_size()
        self._bucket_of = {id(parameter): i for i, bucket in enumerate(self._buckets) for parameter in bucket}
