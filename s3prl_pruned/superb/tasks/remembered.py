"""In-memory caches: batches are decoded once, and a frozen upstream computes each of them once.

s3prl's ``asr`` makes its batches once, by length, and shuffles only their order, so that a frozen
upstream sees the very same batches in every epoch and every evaluation. Caching them and the
upstream's features is bit-identical, and saves most of the time with a small corpus on a CPU.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

MAX_BYTES = 1 << 30
"""1 GiB each for audio and for features (the embedded corpus with a small upstream takes about a third of it);
batches that do not fit are computed every time."""


class RememberedUpstream(nn.Module):
    """Wraps an upstream in evaluation mode whose weights do not change.

    The same features are returned again and again: callers must not change them in place.
    """

    def __init__(self, upstream: nn.Module, *, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self.upstream = upstream
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._memory: dict[bytes, Any] = {}

    def forward(self, wavs: list[Tensor]) -> Any:
        """Features of a batch of (S,) waveforms, as the upstream returns them."""
        key = fingerprint(wavs)
        if key not in self._memory:
            features = self.upstream(wavs)
            size = _num_bytes(features)
            if self.num_bytes + size > self.max_bytes:
                return features
            self._memory[key] = features
            self.num_bytes += size
        return self._memory[key]


class RememberedBatches(Dataset):
    """Wraps s3prl's ``asr`` dataset, whose items are whole batches: (wavs, labels, file names)."""

    def __init__(self, dataset: Any, *, max_bytes: int = MAX_BYTES) -> None:
        self.dataset = dataset
        self.collate_fn = dataset.collate_fn
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._memory: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if index not in self._memory:
            batch = self.dataset[index]
            size = sum(wav.nbytes for wav in batch[0])
            if self.num_bytes + size > self.max_bytes:
                return batch
            self._memory[index] = batch
            self.num_bytes += size
        return self._memory[index]


def fingerprint(wavs: list[Tensor]) -> bytes:
    """Identifies waveforms: a hash of their types, shapes and samples."""
    digest = hashlib.blake2b()
    for wav in wavs:
        digest.update(f"{wav.dtype} {tuple(wav.shape)} ".encode())
        digest.update(wav.detach().cpu().contiguous().numpy().data)
    return digest.digest()


def _num_bytes(features: Any) -> int:
    """Bytes of all tensors inside; a tensor with several names counts once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(features)}
    return sum(storages.values())


def _tensors(node: Any) -> list[Tensor]:
    if isinstance(node, Tensor):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    return [tensor for child in children for tensor in _tensors(child)]
