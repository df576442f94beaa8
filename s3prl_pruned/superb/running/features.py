"""Features extracted one utterance at a time, and cached on disk: ``--single-utterance``, ``--cache-features``.

s3prl pads a batch to its longest utterance. In a model whose first layer normalises over time (GroupNorm, the Base
models) and in any model that does not mask everywhere, padding changes an utterance's features: they depend on the
other utterances of the batch and cannot be cached. Features of a single utterance can: a file per utterance, found by
the model's hash and the samples themselves, so that tasks on one corpus share them. Features read from the cache are
bit for bit those that were extracted, unless half precision was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.tasks.corpora import cache_folder
from s3prl_pruned.superb.tasks.remembered import fingerprint

FEATURES = "features"
"""The folder in the cache that holds all features."""


class SingleUtterances(nn.Module):
    """Wraps an upstream; returns a list of its features, one entry per utterance.

    Args:
        upstream: a frozen upstream in evaluation mode.
        selection: s3prl's ``-s``, the name of the output that is used.
        folder: where features are cached; None to extract them every time.
        layer: the only layer to read from the cache, the other layers are left empty; None to read all.
        half: store features in half precision; they are read as single precision.
    """

    def __init__(
        self,
        upstream: nn.Module,
        *,
        selection: str,
        folder: Path | None = None,
        layer: int | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.upstream, self.selection = upstream, selection
        self.folder, self.layer, self.in_half = folder, layer, half

    def forward(self, wavs: list[Tensor]) -> list[dict[str, Any]]:
        """Features of each (S,) waveform: ``{selection: states of (1, T, D)}``."""
        return [self._features(wav) for wav in wavs]

    def _features(self, wav: Tensor) -> dict[str, Any]:
        path = None if self.folder is None else kept_file(self.folder, wav)
        if path is not None and path.is_file():
            return {self.selection: _read(path, wav.device, layer=self.layer)}
        features = self.upstream([wav])[self.selection]
        features = list(features.values()) if isinstance(features, dict) else features
        if path is None:
            return {self.selection: features}
        _write(path, features, half=self.in_half)
        # Rounded features are read back, so that the first call returns the same as later calls.
        return {self.selection: _read(path, wav.device, layer=self.layer) if self.in_half else features}


class ChosenLayers(nn.Module):
    """Wraps an upstream; returns some of its layers only.

    Args:
        upstream: an upstream whose output `selection` is a list.
        selection: s3prl's ``-s``.
        layers: their numbers, from 0.
    """

    def __init__(self, upstream: nn.Module, *, selection: str, layers: Sequence[int]) -> None:
        super().__init__()
        self.upstream, self.selection, self.layers = upstream, selection, layers
        if hasattr(upstream, "get_downsample_rates"):
            self.get_downsample_rates = upstream.get_downsample_rates

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """The chosen layers of a batch of (S,) waveforms: ``{selection: [(B, T, D), ...]}``."""
        features = self.upstream(wavs)[self.selection]
        states = list(features.values()) if isinstance(features, dict) else features
        return {self.selection: [states[layer] for layer in self.layers]}


def extract_singly(
    runner: Any, *, selection: str, folder: Path | None, layer: int | None = None, half: bool = False
) -> None:
    """Make a runner of s3prl extract one utterance at a time; its featurizer then weighs and cuts each separately.

    Args:
        runner: the runner, before it trains or evaluates.
        selection: ``-s``.
        folder: where features are cached, or None.
        layer: as in `SingleUtterances`.
        half: as in `SingleUtterances`.
    """
    runner.upstream.model = SingleUtterances(
        runner.upstream.model, selection=selection, folder=folder, layer=layer, half=half
    )
    featurizer = getattr(runner.featurizer.model, "module", runner.featurizer.model)  # wrapped under torchrun
    of_batch = featurizer.forward

    def forward(wavs: list[Tensor], features: list[dict[str, Any]]) -> list[Tensor]:
        return [of_batch([wav], found)[0] for wav, found in zip(wavs, features, strict=True)]

    featurizer.forward = forward


def features_folder(model_hash: str, selection: str, *, half: bool = False, layers: Sequence[int] = ()) -> Path:
    """The folder in the cache for the features of a model.

    Args:
        model_hash: identifies the model.
        selection: ``-s``.
        half: whether in half precision.
        layers: as in `ChosenLayers`; empty for all.
    """
    chosen = f" layers {' '.join(map(str, layers))}" if layers else ""
    return cache_folder(FEATURES, f"{model_hash} {selection}{chosen}{' half' if half else ''}")


def kept_file(folder: Path, wav: Tensor) -> Path:
    """The file for the features of a waveform.

    Args:
        folder: from `features_folder`.
        wav: (S,) float32 samples, as s3prl's runner passes them to an upstream.
    """
    return folder / f"{fingerprint([wav]).hex()[:32]}.safetensors"


def _write(path: Path, features: Any, *, half: bool) -> None:
    """Write under a temporary name first: another process may write the same utterance."""
    from safetensors.torch import save_file

    states = features if isinstance(features, (list, tuple)) else [features]
    kind = torch.float16 if half else None
    tensors = {str(i): state.detach().cpu().to(kind).contiguous().clone() for i, state in enumerate(states)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={"list": str(isinstance(features, (list, tuple)))})
        os.replace(temporary, path)
    except Exception as error:  # safetensors has its own exception for a full disk
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: features cannot be saved ({error}). Make room, or leave --cache-features out."
        ) from error


def _read(path: Path, device: torch.device, *, layer: int | None) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            is_list, number = file.metadata()["list"] == "True", len(file.keys())
            wanted = [layer % number] if is_list and layer is not None else range(number)
            states = {i: _single(file.get_tensor(str(i))) for i in wanted}
            return [states.get(i, torch.empty(0)) for i in range(number)] if is_list else states[0]
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no file of cached features ({error}). Remove it.") from error


def _single(state: Tensor) -> Tensor:
    return state.float() if state.dtype == torch.float16 else state
