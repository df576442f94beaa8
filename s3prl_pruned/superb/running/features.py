"""Features of one utterance at a time, and kept on disk: ``--single-utterance`` and ``--cache-features``.

s3prl pads a batch to its longest utterance. In a model whose first layer normalises over time (GroupNorm, the Base
models) and in any model that does not mask everywhere, padding changes an utterance's features, so that they depend on
its neighbours in the batch and cannot be kept. Extracted alone they can: a file per utterance, found by the model's
hash and the samples themselves, so that tasks on one corpus share them. What is read is bit for bit what was extracted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.tasks.corpora import cache_folder
from s3prl_pruned.superb.tasks.remembered import fingerprint


class SingleUtterances(nn.Module):
    """Wraps an upstream; gives a list of its features, one entry per utterance.

    Args:
        upstream: a frozen upstream in evaluation mode.
        selection: s3prl's ``-s``, the name of the output that is used.
        folder: where features are kept; None to extract them every time.
    """

    def __init__(self, upstream: nn.Module, *, selection: str, folder: Path | None = None) -> None:
        super().__init__()
        self.upstream = upstream
        self.selection = selection
        self.folder = folder

    def forward(self, wavs: list[Tensor]) -> list[dict[str, Any]]:
        """Features of each (S,) waveform: ``{selection: states of (1, T, D)}``."""
        return [self._features(wav) for wav in wavs]

    def _features(self, wav: Tensor) -> dict[str, Any]:
        path = None if self.folder is None else self.folder / f"{fingerprint([wav]).hex()[:32]}.safetensors"
        if path is not None and path.is_file():
            return {self.selection: _read(path, wav.device)}
        features = self.upstream([wav])[self.selection]
        features = list(features.values()) if isinstance(features, dict) else features
        if path is not None:
            _write(path, features)
        return {self.selection: features}


def extract_singly(runner: Any, *, selection: str, folder: Path | None) -> None:
    """Let a runner of s3prl extract one utterance at a time; its featurizer then weighs and cuts each by itself.

    Args:
        runner: before it trains or evaluates.
        selection: ``-s``.
        folder: where features are kept, or None.
    """
    runner.upstream.model = SingleUtterances(runner.upstream.model, selection=selection, folder=folder)
    featurizer = getattr(runner.featurizer.model, "module", runner.featurizer.model)  # in torchrun it is wrapped
    of_batch = featurizer.forward

    def forward(wavs: list[Tensor], features: list[dict[str, Any]]) -> list[Tensor]:
        return [of_batch([wav], found)[0] for wav, found in zip(wavs, features, strict=True)]

    featurizer.forward = forward


def features_folder(model_hash: str, selection: str) -> Path:
    """Where the features of a model are kept, below the cache.

    Args:
        model_hash: what tells the model from others.
        selection: ``-s``.
    """
    return cache_folder("features", f"{model_hash} {selection}")


def _write(path: Path, features: Any) -> None:
    """Write under a temporary name first: another process may be at the same utterance."""
    from safetensors.torch import save_file

    states = features if isinstance(features, (list, tuple)) else [features]
    tensors = {str(index): state.detach().cpu().contiguous().clone() for index, state in enumerate(states)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={"list": str(isinstance(features, (list, tuple)))})
        os.replace(temporary, path)
    except Exception as error:  # safetensors has its own exception for a full disk
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: features cannot be kept ({error}). Make room, or leave --cache-features out."
        ) from error


def _read(path: Path, device: torch.device) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            states = [file.get_tensor(str(index)) for index in range(len(file.keys()))]
            return states if file.metadata()["list"] == "True" else states[0]
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no file of kept features ({error}). Remove it.") from error
