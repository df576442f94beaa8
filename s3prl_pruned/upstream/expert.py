"""s3prl's expert interface around our encoder (s3prl 0.4.18, `upstream/interfaces.py`)."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import normalize_waveform
from s3prl_pruned.models.accelerate.graphs import GraphedEncoder, graphed
from s3prl_pruned.models.encoder import EncoderOutput, freeze_idle
from s3prl_pruned.upstream.load import load_model, rule_named

DOWNSAMPLE_RATE = 320  # samples per frame of every public configuration


class UpstreamExpert(nn.Module):
    """An upstream of s3prl: list of waveforms in, constant number of hidden states out.

    Args:
        ckpt: what `upstream.load.load_model` takes.
        model_config: not used; s3prl passes it to every upstream.
        refresh: not used; s3prl passes it to every upstream.
        family: required family of the encoder, one of `models.shape.FAMILIES`; None accepts any.
        compiled: on a GPU in inference, run through CUDA graphs (`models.accelerate.graphs`): short inputs are several
            times as fast, and the first call with each length takes longer.
        states: `own` for the states that the model publishes (`EncoderConfig.states`), `s3prl` for those of s3prl's own
            models: L + 1, the first layer's input and the output of each layer.

    Attributes:
        model: the encoder.
        model_path, model_hash, teacher_note: identify the model in results.
    """

    def __init__(
        self,
        ckpt: str | Path,
        model_config: str | None = None,
        refresh: bool = False,
        *,
        family: str | None = None,
        compiled: bool = False,
        states: str = "own",
    ):
        super().__init__()
        loaded = load_model(ckpt)
        self.model = loaded.encoder
        found = self.model.config.family
        if family not in (None, found):
            raise UserError(
                f"{ckpt}: holds a {found} encoder, but a {family} is required. Use -u {found}_pruned_local."
            )
        self.model.feature_extractor.grad_mult = 0.0  # as in s3prl's experts, the CNN is frozen in fine-tuning
        self.model_path = str(loaded.path)
        self.model_hash = loaded.sha256
        self.teacher_note = loaded.note
        self.compiled = compiled
        self.rule = rule_named(states) or self.model.config.states
        freeze_idle(self.model, self.rule)
        self._graphs: GraphedEncoder | None = None

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame, the same for every feature."""
        return DOWNSAMPLE_RATE

    def forward(self, wavs: list[Tensor]) -> dict[str, list[Tensor] | Tensor]:
        """Encode a batch.

        Args:
            wavs: B waveforms (S,), 16 kHz, on the model's device; one shorter than a frame (400 samples) has one frame.

        Returns:
            `hidden_states`: tensors (B, T, D), their number independent of pruning (L + 1 unless the model has its own
            rule); `last_hidden_state`: the last of them.
        """
        if self.model.config.normalize_waveform:
            wavs = [normalize_waveform(wav) for wav in wavs]
        lengths = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        even = all(len(wav) == len(wavs[0]) for wav in wavs)
        padded = pad_sequence(list(wavs), batch_first=True).to(next(self.model.parameters()).dtype)
        states = self.model.states(self._encode(padded, None if even else lengths), self.rule)
        return {"hidden_states": states, "last_hidden_state": states[-1]}

    def _encode(self, wavs: Tensor, lengths: Tensor | None) -> EncoderOutput:
        if not (self.compiled and wavs.is_cuda):
            return self.model(wavs, lengths)
        if self._graphs is None:
            self._graphs = graphed(self.model)
        return self._graphs(wavs, lengths)

    def __getstate__(self) -> dict:
        """Pickle without CUDA graphs, which exist in one process and for one model only."""
        return {**self.__dict__, "_graphs": None}
