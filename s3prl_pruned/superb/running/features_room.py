"""Disk space of cached features: estimated and checked before the first is written, and freed by a command."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.superb.running.features import FEATURES, kept_file
from s3prl_pruned.superb.tasks.corpora import cache_root

logger = logging.getLogger(__name__)

SAMPLED = 32
"""Items of a split that are decoded to estimate the length of its audio, and how much of it is cached already."""

MARGIN = 1.05
"""Factor on an estimate; another 1 GiB is left free for checkpoints and logs."""


def require_room(runner: Any, splits: list[str], folder: Path, *, selection: str, half: bool) -> None:
    """Stop before features are cached that the disk has no room for.

    Args:
        runner: s3prl's runner, before it trains or evaluates.
        splits: splits that it will read.
        folder: where features will be cached.
        selection: ``-s``.
        half: whether in half precision.

    Raises:
        UserError: with the bytes needed, the bytes free, and how to need less.
    """
    found = [_seconds(runner.downstream.model.get_dataloader(split), folder) for split in splits]
    seconds, kept = (sum(parts) for parts in zip(*found, strict=True))
    a_second = MARGIN * bytes_per_second(runner.upstream.model, selection, half=half)
    needed, there = seconds * a_second, kept * a_second  # the folder may hold features of other corpora too
    free = shutil.disk_usage(folder).free - 2**30
    logger.info("features of %.1f h of audio take about %s", seconds / 3600, in_words(needed))
    if needed - there > free:
        raise UserError(
            f"{folder}: features of {seconds / 3600:.1f} h of audio need about {in_words(needed)}, of which "
            f"{in_words(there)} are there, but only {in_words(max(free, 0))} are free. Make room "
            "(run_downstream.py --drop-features removes cached features), set XDG_CACHE_HOME to another disk, give "
            "--cache-half (half of it) or --layers, or leave --cache-features out."
        )


def bytes_per_second(upstream: torch.nn.Module, selection: str, *, half: bool) -> float:
    """Bytes that the features of a second of audio take.

    Args:
        upstream: the upstream, before `extract_singly`.
        selection: ``-s``.
        half: whether in half precision.
    """
    device = next((parameter.device for parameter in upstream.parameters()), torch.device("cpu"))
    with torch.no_grad():
        features = upstream([torch.zeros(10 * SAMPLE_RATE, device=device)])[selection]
    states = list(features.values()) if isinstance(features, dict) else features
    states = states if isinstance(states, (list, tuple)) else [states]
    return sum(state.numel() * (2 if half else state.element_size()) for state in states) / 10


def drop_features(folder: Path | None = None) -> int:
    """Remove cached features.

    Args:
        folder: the features of one upstream; None for all.

    Returns:
        The size of the removed files in bytes.
    """
    folder = folder or cache_root() / FEATURES
    size = size_of(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise UserError(f"{folder}: cannot be removed. Get the right to write it, or remove it by hand.")
    return size


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder and below; 0 if the folder does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def in_words(size: float) -> str:
    """A size in bytes as text, such as ``723.4 GB`` or ``12 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _seconds(loader: Any, folder: Path) -> tuple[float, float]:
    """Seconds of all waveforms of one of s3prl's data loaders, and of those whose features are in a folder.

    Both are estimated from some of its dataset's items.
    """
    total = len(loader.dataset)
    indices = numpy.unique(numpy.linspace(0, total - 1, min(SAMPLED, total)).astype(int))
    samples = kept = 0.0
    for index in indices.tolist():
        wavs, weight = _waveforms(loader, index)
        for wav in wavs:
            there = kept_file(folder, torch.as_tensor(wav, dtype=torch.float32)).is_file()
            samples += weight * len(wav)
            kept += weight * len(wav) * there
    share = total / len(indices) / SAMPLE_RATE
    return samples * share, kept * share


def _waveforms(loader: Any, index: int) -> tuple[list[Any], float]:
    """The waveforms of an item of the dataset, and the weight of each in the estimate.

    An item of ``asr`` is a batch, and there are as many items as batches. An item of ``ctc`` (PR, SF) names the files
    that its collation reads: one, or a batch, and there are as many items as utterances.
    """
    item = loader.dataset[index]
    wavs = item[0]
    if isinstance(wavs, (str, Path, tuple)):
        wavs = loader.collate_fn([item])[0]
        return list(wavs), 1 / len(wavs)
    return (list(wavs) if isinstance(wavs, (list, tuple)) else [wavs]), 1.0
