"""`s3prl_pruned.load`: an encoder of any known format as a plain module that takes audio."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE, read_waveform, resample
from s3prl_pruned.features.chunks import Chunks, encode_in_chunks, refuse_windows
from s3prl_pruned.formats import registry
from s3prl_pruned.formats.format import LoadedModel
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.accelerate.graphs import GraphedEncoder, graphed
from s3prl_pruned.models.components import normalize_utterances
from s3prl_pruned.models.encoder import EncoderOutput, SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.distill.teachers import load_teacher
from s3prl_pruned.sparsity.counts import macs, realised_sparsity
from s3prl_pruned.upstream.download import fetch_model
from s3prl_pruned.upstream.load import load_model, rule_named

Audio = str | Path | Tensor | np.ndarray
"""Path of a file that libsndfile reads, or samples (S,)."""


def load(
    source: str | Path, *, device: str | torch.device = "cpu", compiled: bool = False, states: str = "own"
) -> "LoadedEncoder":
    """Load an encoder.

    Args:
        source: folder of an export, training checkpoint (with its masks applied), checkpoint in any public format, URL
            of one, name in s3prl's hub such as `wavlm_base_plus`, or `embedded`.
        device: torch device.
        compiled: on a GPU, run through CUDA graphs. In half precision, 1 s of audio takes half the time; in fp32, audio
            longer than a few seconds takes more time. The first call with each length takes longer.
        states: `own` for the states that the model publishes (`EncoderConfig.states`), `s3prl` for those of s3prl's own
            models: L + 1, the first layer's input and the output of each layer.

    Raises:
        UserError: there is no such model, or it is damaged or in an unknown format.
    """
    text = str(source)
    if "://" in text:
        model = load_model(fetch_model(text))
    elif Path(source).exists():
        model = load_model(source)
    else:
        teacher = load_teacher(text)
        provenance = {"teacher_note": teacher.note} if teacher.note else {}
        model = LoadedModel(teacher.encoder, Path(teacher.name), teacher.sha256, provenance)
        accelerate(model.encoder)
    return LoadedEncoder(model, compiled=compiled, states=states).to(device)


class LoadedEncoder(nn.Module):
    """An encoder in evaluation mode, for inference and fine-tuning. B utterances, S samples, T frames of 20 ms.

    Attributes:
        encoder: the module with all weights.
        path: where it was loaded from.
        sha256: hash of its weights files; None for random weights.
        provenance: origin of the model, as written in its file.
        rule: which states the model publishes.
    """

    def __init__(self, model: LoadedModel, *, compiled: bool = False, states: str = "own"):
        super().__init__()
        self.encoder: SpeechEncoder = model.encoder
        self.path, self.sha256, self.provenance = model.path, model.sha256, model.provenance
        self.rule = rule_named(states) or self.encoder.config.states
        self.compiled = compiled
        self._graphs: GraphedEncoder | None = None

    @property
    def num_states(self) -> int:
        """Number of hidden states; L + 1 unless the model has its own rule."""
        return self.rule.num_states(self.encoder.config.num_layers)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the computation: fp32 after loading; `.to(torch.bfloat16)` changes it."""
        return next(self.encoder.parameters()).dtype

    def forward(self, wavs: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Encode a padded batch, differentiable where gradients are enabled.

        Args:
            wavs: (B, S) unnormalised, 16 kHz, zero-padded, on the model's device.
            lengths: (B,) int64, number of samples of each; None if none is padded.

        Returns:
            `hidden_states`, `num_states` tensors (B, T, D), and the number of frames of each utterance.
        """
        output = self._encode(wavs, lengths)
        return replace(output, hidden_states=self.encoder.states(output, self.rule))

    def _encode(self, wavs: Tensor, lengths: Tensor | None) -> EncoderOutput:
        wavs = wavs.to(self.dtype)
        if not (self.compiled and wavs.is_cuda):
            return self.encoder.encode_raw(wavs, lengths)
        if self.encoder.config.normalize_waveform:
            wavs = normalize_utterances(wavs, lengths)
        if self._graphs is None:
            self._graphs = graphed(self.encoder)
        return self._graphs(wavs, lengths)

    @overload
    def extract(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, audio: Audio, *, layer: int | None = None, sample_rate: int = SAMPLE_RATE, chunks: Chunks | None = None
    ) -> Tensor: ...

    @overload
    def extract(
        self,
        audio: Sequence[Audio],
        *,
        layer: int | None = None,
        sample_rate: int = SAMPLE_RATE,
        chunks: Chunks | None = None,
    ) -> list[Tensor]: ...

    def extract(
        self,
        audio: Audio | Sequence[Audio],
        *,
        layer: int | None = None,
        sample_rate: int = SAMPLE_RATE,
        chunks: Chunks | None = None,
    ) -> Tensor | list[Tensor]:
        """Hidden states of audio, without gradients.

        Several are encoded one by one: in a padded batch, padding would change the states of a Base model.

        Args:
            audio: a file, or samples (S,) in [-1, 1]; or a list of these.
            layer: 0 for the first Transformer layer's input (or another state, if the model has its own rule), up to L
                for the output of the last layer; negative from the end; None for all.
            sample_rate: sampling rate of samples in Hz. A file has its own.
            chunks: cut audio that is longer than a chunk, so that memory does not grow with its length; None encodes it
                whole.

        Returns:
            (`num_states`, T, D), or (T, D) for one layer, on the model's device; a list of these for a list of audio.

        Raises:
            UserError: there is no such layer, a file cannot be read, or samples are not of shape (S,).
        """
        self.check_layer(layer)
        if chunks is not None:
            refuse_windows(self.encoder.config)
        if isinstance(audio, (str, Path, Tensor, np.ndarray)):
            return self._states(_waveform(audio, sample_rate), layer, chunks)
        return [self._states(_waveform(one, sample_rate), layer, chunks) for one in audio]

    def check_layer(self, layer: int | None) -> None:
        """Raise a `UserError` if `extract` has no such `layer`."""
        if layer is not None and not -self.num_states <= layer < self.num_states:
            raise UserError(
                f"`layer` must be from 0 to {self.num_states - 1} (or negative, from the end), but is {layer}."
            )

    @torch.no_grad()
    def _states(self, wav: Tensor, layer: int | None, chunks: Chunks | None) -> Tensor:
        wav = wav.to(next(self.encoder.parameters()).device)
        if chunks is not None and len(wav) > chunks.seconds * SAMPLE_RATE:
            return encode_in_chunks(self.encoder, wav.to(self.dtype), chunks, layer=layer, rule=self.rule)
        states = self(wav[None]).hidden_states
        return torch.cat(states) if layer is None else states[layer][0]

    def save(self, path: str | Path, format: str = "folder") -> None:
        """Write the model, completely or not at all, and never over an existing file.

        Args:
            path: the new file or folder.
            format: `folder` (this project's), `huggingface`, `onnx`, or for a dense model any format of `convert`.

        Raises:
            UserError: the format cannot hold the encoder, `path` exists or cannot be written, or the model is a
                training checkpoint with masks, which `tools/export.py` has to cut first.
        """
        if any(
            value is not None
            for part in self.encoder.modules()
            for name, value in vars(part).items()
            if name[:2] == "z_"
        ):
            raise UserError(f"{self.path}: is a training checkpoint with masks. Cut it first: tools/export.py.")
        registry.write(path, format, self.encoder, self.provenance)

    def info(self) -> dict[str, Any]:
        """Description of the model as JSON data, with its counts of parameters and of MACs for 5 s of audio."""
        encoder, dense = self.encoder, CompactSpec.dense(self.encoder.config)
        samples = 5 * SAMPLE_RATE
        return {
            "source": str(self.path),
            "sha256": self.sha256,
            "family": encoder.config.family,
            "license": self.provenance.get("license"),
            "states": self.num_states,
            "dim": self.rule.state_dim(encoder.config.embed_dim),
            "parameters": encoder.num_parameters(),
            "macs_5s": sum(macs(encoder.config, encoder.spec, samples).values()),
            "dense_macs_5s": sum(macs(encoder.config, dense, samples).values()),
            "sparsity": realised_sparsity(encoder.config, encoder.spec),
            "layers": [
                {
                    "heads": {head.index: [len(head.qk), len(head.vo)] for head in layer.heads}
                    if layer.attention
                    else {},
                    "ffn": len(layer.ffn) if layer.feed_forward else 0,
                }
                for layer in encoder.spec.layers
            ],
            "provenance": self.provenance,
        }

    def __getstate__(self) -> dict:
        """Pickle without CUDA graphs, which exist in one process only."""
        return {**self.__dict__, "_graphs": None}


def _waveform(audio: Audio, sample_rate: int) -> Tensor:
    """Samples (S,) float32 at 16 kHz."""
    if isinstance(audio, (str, Path)):
        return read_waveform(audio)
    samples = audio.detach().cpu().float().numpy() if isinstance(audio, Tensor) else np.asarray(audio, np.float32)
    if samples.ndim != 1 or not len(samples):
        raise UserError(
            f"samples must be of shape (S,), one channel, but are {samples.shape}. Pass a list for several utterances."
        )
    return torch.from_numpy(np.ascontiguousarray(resample(samples, sample_rate), np.float32))
