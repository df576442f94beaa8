"""An encoder with its head for speaker verification: embeddings, and files of the head beside an exported encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.data.waveforms import normalize_waveform
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.objectives.verification import FEWEST_FRAMES, SpeakerHead, SpeakerHeadConfig
from s3prl_pruned.pretrain.one_pass.head_files import names_of, read_head, written_head

HEAD = "speaker_head"
"""Name of the files: weights of `SpeakerHead`; its settings, and the speakers of the training speech."""
HEAD_NOTE = (
    f"{names_of(HEAD)[0]}; s3prl_pruned.pretrain.sv.verifier.load_verifier(<this folder>).embed(wav) gives a "
    "speaker's embedding"
)
"""Text for cards."""


@dataclass
class Verifier:
    """An encoder (dense, masked or pruned), the head on its hidden states, and the speakers of the training speech."""

    encoder: SpeechEncoder
    head: SpeakerHead
    speakers: list[str]

    @torch.no_grad()
    def embed(self, wav: Tensor) -> Tensor:
        """Embedding of the speaker, (E,) of length 1. The product of two is the score of the pair, in [-1, 1].

        Args:
            wav: (S,) float32, unnormalised, 16 kHz.

        Raises:
            UserError: it is too short for the head.
        """
        frames = int(self.encoder.config.num_frames(len(wav)))
        if frames < FEWEST_FRAMES:
            raise UserError(f"`wav` must have at least {FEWEST_FRAMES} frames, but has {frames}. Use longer audio.")
        if self.encoder.config.normalize_waveform:
            wav = normalize_waveform(wav)
        device = self.head.connector.weight.device
        return self.head.embed(self.encoder.states(self.encoder(wav[None].to(device))))[0]


def head_files(state: dict[str, Any]) -> dict[str, bytes]:
    """Files of the head and its settings: content by file name.

    Args:
        state: a training checkpoint, with the weights to export in `Head`.
    """
    settings = {"head": state["Upstream_Config"]["head"], "speakers": list(state["Speakers"])}
    return written_head(HEAD, state["Head"], settings)


def load_verifier(folder: str | Path) -> Verifier:
    """Load an encoder with its head from an export of `-u <family>_pruned_sv`.

    Returns:
        Both, on the CPU and in evaluation mode.

    Raises:
        UserError: it is not such an export, or is damaged; or s3prl is not installed.
    """
    folder = Path(folder)
    encoder, _ = load_encoder(folder, for_inference=True)

    def make(settings: Any) -> SpeakerHead:
        config = from_dict(SpeakerHeadConfig, settings["head"], str(folder / names_of(HEAD)[1]))
        return SpeakerHead(encoder.config.num_states, encoder.config.state_dim, len(settings["speakers"]), config)

    head, settings = read_head(folder, HEAD, make, what="head for speakers", objective="sv")
    return Verifier(encoder, head, [str(name) for name in settings["speakers"]])
