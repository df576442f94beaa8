"""The shape of a dense encoder, as plain data.

Saved as JSON beside the weights, so that loading never guesses from key names.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from torch import Tensor

from s3prl_pruned.config import ADDED, UserError
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.models.time_reduction import TimeReduction

FAMILIES = ("wavlm", "hubert", "wav2vec2", "data2vec", "whisper")
MEL_HOP = 160
"""Samples from one frame of a log-mel spectrum to the next, 10 ms."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of a dense (unpruned) speech encoder. The defaults are WavLM Base (Chen et al. 2022)."""

    family: str = "wavlm"
    """The family of public models that this configuration belongs to, one of `FAMILIES`."""

    conv_layers: tuple[tuple[int, int, int], ...] = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)
    """(channels, kernel, stride) of each convolution of the feature extractor; the first one's kernel and stride are
    counted in samples, or in frames of the log-mel spectrum."""

    extractor_mode: str = "group_norm"
    """`group_norm`: one GroupNorm over time after the first convolution (Base); `layer_norm`: after each (Large);
    `none`: no norm (Whisper)."""

    conv_bias: bool = False
    """Whether the feature extractor's convolutions have a bias."""

    num_layers: int = 12
    """Transformer layers, L."""

    embed_dim: int = 768
    """Width of the residual stream, D."""

    num_heads: int = 12
    """Attention heads of a dense layer, H."""

    ffn_dim: int = 3072
    """Intermediate dimensions of a dense feed-forward, F."""

    norm_first: bool = False
    """True: LayerNorm before each sublayer (Large); False: after the residual sum (Base)."""

    pos_conv_kernel: int = 128
    """Kernel of (each of) the positional convolution(s), in frames."""

    pos_conv_depth: int = 1
    """Positional convolutions. 1: one, weight-normalised. More: data2vec's stack, each followed by a LayerNorm without
    parameters and GELU (Baevski et al. 2022)."""

    pos_conv_groups: int = 16
    """Groups of the positional convolution."""

    relative_position: bool = True
    """WavLM's bucketed relative position bias, shared by all layers."""

    num_buckets: int = 320
    """Buckets of the relative position bias."""

    max_distance: int = 800
    """Distance, in frames, from which on all positions share the last bucket."""

    gated_position: bool = True
    """WavLM's gate on the relative position bias, computed from the attention's input."""

    padding_rule: str = "chunks"
    """Which frames of a padded batch are padding, as s3prl decides it.

    `chunks` (WavLM, HuBERT): those whose share of the padded samples, S // T each, holds no sample of the utterance.
    `convolution` (wav2vec 2.0, data2vec): those beyond what the feature extractor makes of the utterance alone. Hugging
    Face takes the second for all families."""

    normalize_waveform: bool = False
    """Whether each utterance is layer-normalised over its samples before padding (Large: yes, Base: no)."""

    dropout: float = 0.0
    """Probability of dropping an element after each sublayer, in training."""

    attention_dropout: float = 0.0
    """Probability of dropping an attention weight, in training."""

    activation_dropout: float = 0.0
    """Probability of dropping an intermediate feed-forward element, in training."""

    feature_grad_mult: float = 1.0
    """Factor on the gradient that reaches the feature extractor; 0 freezes it (and saves its backward pass)."""

    channel_scale: bool = field(default=False, metadata=ADDED)
    """Whether the feature extractor's output is multiplied by a weight per channel, before the projection's LayerNorm
    (from DPHuBERT's masks of the last layer's channels)."""

    projection_norm: bool = field(default=True, metadata=ADDED)
    """Whether there is a LayerNorm between feature extractor and projection (DistilHuBERT has none)."""

    equal_projection: bool = field(default=False, metadata=ADDED)
    """Whether there is a projection even if it does not change the width (subnets of LightHuBERT)."""

    states: StateRule = field(default=StateRule(), metadata=ADDED)
    """Which hidden states the model publishes."""

    front_end: Literal["waveform", "log_mel"] = field(default="waveform", metadata=ADDED)
    """What the convolutions read: the samples; or their log-mel spectrum, `mel_bins` channels and a frame every 10 ms,
    where each convolution is padded by half its kernel (`models/log_mel.py`; Whisper)."""

    mel_bins: int = field(default=80, metadata=ADDED)
    """Channels of the log-mel spectrum."""

    positions: Literal["convolution", "fixed"] = field(default="convolution", metadata=ADDED)
    """What is added to the projected features: a convolution of them (`pos_conv_kernel` and so on), or a fixed vector
    for each frame of a window (Whisper: sinusoids)."""

    max_frames: int | None = field(default=None, metadata=ADDED)
    """Frames in a window with fixed positions (Whisper: 1500, 30 s). Longer audio is cut into windows, each
    encoded by itself, and their states are joined. None: no limit."""

    window: Literal["utterance", "padded"] = field(default="utterance", metadata=ADDED)
    """`utterance`: a window is as long as its audio, followed by silence: fast. `padded`: each window is padded to
     `max_frames` with silence that is attended to, as in Whisper's training and as its decoder needs it; states are
    then cut to the audio's own frames."""

    key_bias: bool = field(default=True, metadata=ADDED)
    """Whether the attention's key map has a bias. It changes no output: it shifts all scores of a query alike. Whisper
    has none."""

    time_reduction: TimeReduction | None = field(default=None, metadata=ADDED)
    """A lower frame rate from a layer on. The states behind it are repeated, so that all states have the same frames.
    None: one rate for all layers."""

    @property
    def head_dim(self) -> int:
        """Dimensions of a dense head, K."""
        return self.embed_dim // self.num_heads

    @property
    def num_states(self) -> int:
        """Hidden states that the model publishes."""
        return self.states.num_states(self.num_layers)

    @property
    def state_dim(self) -> int:
        """Width of the hidden states that the model publishes: D, unless they are mapped."""
        return self.states.state_dim(self.embed_dim)

    @property
    def has_projection(self) -> bool:
        """Whether there is a linear map between the feature extractor and the residual stream.

        There is if their widths differ, or by `equal_projection`.
        """
        return self.equal_projection or self.conv_layers[-1][0] != self.embed_dim

    @property
    def has_position_groups(self) -> bool:
        """Whether groups of the positional convolution can go: where there is one.

        A stack's LayerNorms count the channels of all groups (data2vec), and fixed positions have none (Whisper).
        """
        return self.positions == "convolution" and self.pos_conv_depth == 1

    @property
    def in_channels(self) -> int:
        """Channels that the first convolution reads."""
        return self.mel_bins if self.front_end == "log_mel" else 1

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next (320, 20 ms, in every public model)."""
        strides = math.prod(stride for _, _, stride in self.conv_layers)
        return strides * MEL_HOP if self.front_end == "log_mel" else strides

    @property
    def frame_samples(self) -> int:
        """The smallest number of samples that gives a frame.

        With convolutions over the waveform, their receptive field (400, 25 ms, in every public model); with a log-mel
        spectrum, the hop, since the samples around it are padding.
        """
        if self.front_end == "log_mel":
            return MEL_HOP
        samples = 1
        for _, kernel, stride in reversed(self.conv_layers):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def silent_frames(self) -> int:
        """Frames of the log-mel spectrum that are computed from the silence after a window that is not padded.

        The last frame of the encoder depends on some of them; each of the first three may still contain the last
        samples, and be the loudest.
        """
        stride, reach = 1, 0
        for _, kernel, step in self.conv_layers:
            reach, stride = reach + kernel // 2 * stride, stride * step
        return max(3, reach)

    @property
    def window_samples(self) -> int | None:
        """Samples of a window of `max_frames`; None where there is no limit."""
        return None if self.max_frames is None else self.max_frames * self.hop_samples

    @overload
    def conv_lengths(self, num_samples: int) -> list[int]: ...

    @overload
    def conv_lengths(self, num_samples: Tensor) -> list[Tensor]: ...

    def conv_lengths(self, num_samples: int | Tensor) -> list[int] | list[Tensor]:
        """Output steps of each convolution (integers); 0 or less if there are too few samples."""
        mel = self.front_end == "log_mel"
        length: Any = num_samples // MEL_HOP if mel else num_samples
        lengths: list[Any] = []
        for _, kernel, stride in self.conv_layers:
            around = kernel // 2 * 2 if mel else 0
            length = (length + around - kernel) // stride + 1  # stays at most 0 once there is too little
            lengths.append(length)
        return lengths

    @overload
    def num_frames(self, num_samples: int) -> int: ...

    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...

    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Frames of the feature extractor for `num_samples` samples (integers); 0 if there are too few."""
        last = self.conv_lengths(num_samples)[-1]
        return last.clamp(min=0) if isinstance(last, Tensor) else max(0, last)

    def computed_steps(self, num_samples: int) -> list[int]:
        """Steps that each convolution computes for audio of `num_samples` samples, in all windows together."""
        silence = self.silent_frames * MEL_HOP if self.front_end == "log_mel" and self.window == "utterance" else 0
        lengths = [self.conv_lengths(window + silence) for window in self.window_lengths(num_samples)]
        return [sum(steps) for steps in zip(*lengths, strict=True)]

    def window_lengths(self, num_samples: int) -> list[int]:
        """Samples that are computed in each window for audio of `num_samples` samples, silence included.

        One window, the audio itself, if there is no limit, or if it fits into one that is not padded.
        """
        size = self.window_samples
        if size is None or (self.window == "utterance" and num_samples <= size):
            return [num_samples]
        return [size] * -(-num_samples // size)

    def frames_of_layer(self, layer: int, num_frames: int) -> int:
        """Frames that a layer (from 0) computes where the feature extractor makes `num_frames`."""
        if self.time_reduction is None or layer < self.time_reduction.after:
            return num_frames
        return -(-num_frames // self.time_reduction.factor)

    def validate(self) -> None:
        """Raise UserError if a field, or a combination of fields, is invalid."""
        sizes = (
            "num_layers",
            "embed_dim",
            "num_heads",
            "ffn_dim",
            "pos_conv_kernel",
            "pos_conv_depth",
            "pos_conv_groups",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        for name in sizes:  # a configuration from a file must not exhaust the machine's memory
            most = 1000 if name in ("num_layers", "num_heads") else 2**20
            if getattr(self, name) > most:
                raise UserError(f"`{name}` must be at most {most}, but is {getattr(self, name)}.")
        if self.family not in FAMILIES:
            raise UserError(f"`family` must be one of {list(FAMILIES)}, but is {self.family!r}.")
        if self.padding_rule not in ("chunks", "convolution"):
            raise UserError(f"`padding_rule` must be chunks or convolution, but is {self.padding_rule!r}.")
        if not self.conv_layers or any(number < 1 for layer in self.conv_layers for number in layer):
            raise UserError(
                f"`conv_layers` must be (channels, kernel, stride) of 1 or more, but is {self.conv_layers}."
            )
        if len(self.conv_layers) > 100 or max(self.max_distance, *itertools.chain(*self.conv_layers)) > 2**20:
            raise UserError(
                f"`conv_layers` must be at most 100 and their numbers and `max_distance` at most {2**20}, but are "
                f"{str(self.conv_layers)[:200]} and {self.max_distance}."
            )
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"`{name}` must be from 0 to 1, but is {getattr(self, name)}.")
        if self.relative_position and not 4 <= self.num_buckets < 4 * self.max_distance:
            raise UserError(
                f"`num_buckets` must be at least 4 and less than 4 x `max_distance`, "
                f"but they are {self.num_buckets} and {self.max_distance}."
            )
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"`embed_dim` must be a multiple of `num_heads`, but they are {self.embed_dim} and {self.num_heads}."
            )
        self.states.check(self.embed_dim)
        if self.time_reduction is not None:
            self.time_reduction.check(self.num_layers)
        if self.extractor_mode not in ("group_norm", "layer_norm", "none"):
            raise UserError(f"`extractor_mode` must be group_norm, layer_norm or none, but is {self.extractor_mode!r}.")
        self._check_front_end()
        if self.positions == "convolution" and self.embed_dim % self.pos_conv_groups:
            raise UserError(
                f"`embed_dim` must be a multiple of `pos_conv_groups`, "
                f"but they are {self.embed_dim} and {self.pos_conv_groups}."
            )

    def _check_front_end(self) -> None:
        """A log-mel spectrum, no norm, fixed positions and windows must be used together."""
        together = {
            "front_end": self.front_end == "log_mel",
            "extractor_mode": self.extractor_mode == "none",
            "positions": self.positions == "fixed",
            "max_frames": self.max_frames is not None,
        }
        if len(set(together.values())) > 1:
            raise UserError(
                "`front_end` log_mel, `extractor_mode` none, `positions` fixed and `max_frames` must be given together "
                f"or not at all, but they are {self.front_end}, {self.extractor_mode}, {self.positions} and "
                f"{self.max_frames}."
            )
        if self.max_frames is None:
            if self.window != "utterance":
                raise UserError(f"`window` must be utterance where there is no `max_frames`, but is {self.window!r}.")
            return
        for name, low, high in (("max_frames", 1, 100_000), ("mel_bins", 1, 1000)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"`{name}` must be from {low} to {high}, but is {getattr(self, name)}.")
        if self.embed_dim % 2:
            raise UserError(f"`embed_dim` must be even for fixed positions, but is {self.embed_dim}.")
        if self.normalize_waveform or self.padding_rule != "convolution":
            raise UserError(
                "`normalize_waveform` must be false and `padding_rule` convolution with `front_end` log_mel, but they "
                f"are {self.normalize_waveform} and {self.padding_rule}."
            )
        if any(kernel % 2 == 0 for _, kernel, _ in self.conv_layers):
            raise UserError(f"the kernels of `conv_layers` must be odd on a log-mel spectrum: {self.conv_layers}.")
