"""An encoder with its diarisation head: who speaks in which frame, and files of the head beside an exported encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import from_dict
from s3prl_pruned.data.waveforms import normalize_waveform
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.objectives.diarization import DiarizationHead, DiarizationHeadConfig
from s3prl_pruned.pretrain.one_pass.head_files import names_of, read_head, written_head

HEAD = "diarization_head"
"""Name of the files: weights of `DiarizationHead`, and its settings."""
HEAD_NOTE = (
    f"{names_of(HEAD)[0]}; s3prl_pruned.pretrain.sd.diarizer.load_diarizer(<this folder>).activity(wav) tells who "
    "speaks when"
)
"""Text for cards."""


@dataclass
class Diarizer:
    """An encoder (dense, masked or pruned), and the head on its hidden states."""

    encoder: SpeechEncoder
    head: DiarizationHead

    @torch.no_grad()
    def activity(self, wav: Tensor) -> Tensor:
        """Probability that each speaker is active, (T, speakers), in frames of `EncoderConfig.hop_samples`.

        Args:
            wav: (S,) float32, unnormalised, 16 kHz; at least 400 samples.
        """
        if self.encoder.config.normalize_waveform:
            wav = normalize_waveform(wav)
        device = self.head.layers.weights.device
        return self.head(self.encoder.states(self.encoder(wav[None].to(device))))[0].sigmoid()


def head_files(state: dict[str, Any]) -> dict[str, bytes]:
    """Files of the head and its settings: content by file name.

    Args:
        state: a training checkpoint, with the weights to export in `Head`.
    """
    return written_head(HEAD, state["Head"], {"head": state["Upstream_Config"]["head"]})


def load_diarizer(folder: str | Path) -> Diarizer:
    """Load an encoder with its head from an export of `-u <family>_pruned_sd`.

    Returns:
        Both, on the CPU and in evaluation mode.

    Raises:
        UserError: it is not such an export, or is damaged; or s3prl is not installed.
    """
    folder = Path(folder)
    encoder, _ = load_encoder(folder, for_inference=True)

    def make(settings: Any) -> DiarizationHead:
        config = from_dict(DiarizationHeadConfig, settings["head"], str(folder / names_of(HEAD)[1]))
        return DiarizationHead(encoder.config.num_states, encoder.config.state_dim, config)

    head, _ = read_head(folder, HEAD, make, what="head for diarisation", objective="sd")
    return Diarizer(encoder, head)
