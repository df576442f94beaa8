"""What an encoder looks like, as plain data: its dense configuration and the structure that pruning keeps.

Both are saved as JSON beside the weights, so that loading never guesses from key names.
"""

import itertools
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, overload

from torch import Tensor

from s3prl_pruned.config import ADDED, UserError

FAMILIES = ("wavlm", "hubert", "wav2vec2", "data2vec", "whisper")
MEL_HOP = 160
"""Samples from one frame of a log-mel spectrum to the next, 10 ms."""


@dataclass(frozen=True, kw_only=True)
class StateHeads:
    """Linear maps whose outputs a model publishes among its states, or in their place (`models/state_heads.py`)."""

    kind: Literal["maps", "predictions"]
    """`maps`: each layer's output is replaced by a linear map of it (MaskHuBERT). `predictions`: predictions from the
    last state follow the layers' outputs (DistilHuBERT)."""

    dim: int
    """Width of their outputs."""

    number: int = 0
    """Number of predictions."""

    inner_dim: int = 0
    """Width of each prediction's inner layer."""

    def validate(self) -> None:
        """Raise UserError for sizes out of range."""
        for name in ("dim", "number", "inner_dim") if self.kind == "predictions" else ("dim",):
            if not 1 <= getattr(self, name) <= 2**16:
                raise UserError(f"`{name}` must be from 1 to {2**16}, but is {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class StateRule:
    """Which hidden states a model publishes: those that downstream tasks and other users get.

    The default is s3prl's rule for its own models. Training sees the same L + 1 states whatever the rule
    (`EncoderOutput.hidden_states`); `SpeechEncoder.states` makes the published ones of them.
    """

    first: Literal["input", "projection", "none"] = "input"
    """State 0: the first layer's input; the projection's output, before the positional convolution (DPHuBERT); or left
    out, so that only layers' outputs are published (STaRHuBERT)."""

    final_norm: bool = True
    """Whether the last state of a pre-norm model is the encoder's final LayerNorm's output; False: its input (DPHuBERT,
    DiariZen)."""

    heads: StateHeads | None = field(default=None, metadata=ADDED)
    """What is published besides layers' outputs, or in their place; None for nothing."""

    def num_states(self, num_layers: int) -> int:
        """Number of published states of a model with `num_layers` layers."""
        predictions = self.heads.number if self.heads is not None and self.heads.kind == "predictions" else 0
        return num_layers + (self.first != "none") + predictions

    def state_dim(self, embed_dim: int) -> int:
        """Width of every published state of a model with this `embed_dim`."""
        return self.heads.dim if self.heads is not None and self.heads.kind == "maps" else embed_dim

    def check(self, embed_dim: int) -> None:
        """Raise UserError where the states would have different widths."""
        heads = self.heads
        if heads is None:
            return
        if heads.kind == "maps" and self.first != "none":
            raise UserError(f"`states.first` must be none where layers' outputs are mapped, but is {self.first!r}.")
        if heads.kind == "predictions" and heads.dim != embed_dim:
            raise UserError(
                f"`states.heads.dim` of predictions must be `embed_dim`, so that all states have one width, but they "
                f"are {heads.dim} and {embed_dim}."
            )


@dataclass(frozen=True, kw_only=True)
class TimeReduction:
    """A lower frame rate in the upper layers (`models/time_reduction.py`)."""

    after: int
    """Layers that run at the full frame rate. The input of the next one is the first to be merged."""

    factor: int = 2
    """Frames that are averaged into one. 2 makes 25 Hz of 50 Hz."""

    def check(self, num_layers: int) -> None:
        """Raise UserError where no layer would run at the lower rate."""
        if not 0 <= self.after < num_layers:
            raise UserError(f"`time_reduction.after` must be from 0 to {num_layers - 1}, but is {self.after}.")
        if not 2 <= self.factor <= 16:
            raise UserError(f"`time_reduction.factor` must be from 2 to 16, but is {self.factor}.")


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


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """One surviving attention head: which of its original dimensions are kept (0..K-1, ascending)."""

    index: int
    """Position of the head in the dense layer, 0..H-1."""
    qk: tuple[int, ...]
    """Query/key dimensions that are kept. May be empty: the head then attends by position bias only."""
    vo: tuple[int, ...]
    """Value/output dimensions that are kept."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Ranks of a layer's linear maps that are held as two factors, (in, rank) and (rank, out); None: held whole."""

    q_proj: int | None = None
    k_proj: int | None = None
    v_proj: int | None = None
    out_proj: int | None = None
    fc1: int | None = None
    fc2: int | None = None


ATTENTION_MAPS, FEED_FORWARD_MAPS = ("q_proj", "k_proj", "v_proj", "out_proj"), ("fc1", "fc2")
"""The linear maps whose weights are prunable, by sublayer. Each maps between D and dimensions of the layer."""


def kept_ranks(ranks: Ranks, *, attention: bool, feed_forward: bool) -> Ranks:
    """The ranks of the sublayers that are kept."""
    kept = ATTENTION_MAPS * attention + FEED_FORWARD_MAPS * feed_forward
    return Ranks(**{name: getattr(ranks, name) for name in kept})


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One Transformer layer: which sublayers, heads and intermediate dimensions are kept."""

    attention: bool
    """Whether the attention sublayer is kept. True without heads keeps only its output bias."""
    heads: tuple[HeadSpec, ...]
    feed_forward: bool
    """Whether the feed-forward sublayer is kept. True without dimensions keeps only its output bias."""
    ffn: tuple[int, ...]
    """Intermediate dimensions that are kept (0..F-1, ascending)."""
    ranks: Ranks = Ranks()
    """Ranks of the kept sublayers' linear maps."""

    @property
    def mask_sizes(self) -> dict[str, int]:
        """Number of masks of each kind (Wang et al. 2023, eq. 3; `head` for the ablation) in this layer."""
        return {
            "mha": int(self.attention),
            "qk": sum(len(head.qk) for head in self.heads),
            "vo": sum(len(head.vo) for head in self.heads),
            "head": len(self.heads),
            "ffn": int(self.feed_forward),
            "int": len(self.ffn),
        }


@dataclass(frozen=True, kw_only=True)
class CompactSpec:
    """The structure of a pruned encoder, by original index; one entry per layer."""

    layers: tuple[LayerSpec, ...]
    channels: tuple[tuple[int, ...], ...] | None = None
    """Kept channels of each layer of the feature extractor (ascending, at least one); None if the CNN is not pruned, as
    in the paper: it is then whole, and not counted in the sparsity (`sparsity/counts.py`)."""
    position_groups: tuple[int, ...] | None = field(default=None, metadata=ADDED)
    """Kept groups of the positional convolution (ascending; without any, it adds nothing); None if it is not pruned, as
    in the paper: it is then whole, and not counted in the sparsity."""

    @classmethod
    def dense(cls, config: EncoderConfig) -> "CompactSpec":
        """Everything is kept, and the CNN is not pruned."""
        dims = tuple(range(config.head_dim))
        layer = LayerSpec(
            attention=True,
            heads=tuple(HeadSpec(index=h, qk=dims, vo=dims) for h in range(config.num_heads)),
            feed_forward=True,
            ffn=tuple(range(config.ffn_dim)),
        )
        return cls(layers=(layer,) * config.num_layers)

    @property
    def has_attention(self) -> bool:
        """Whether any layer still has an attention head."""
        return any(layer.heads for layer in self.layers)

    def channels_of(self, config: EncoderConfig) -> tuple[tuple[int, ...], ...]:
        """Kept channels of each layer of the feature extractor, also if the CNN is not pruned."""
        return self.channels or tuple(tuple(range(channels)) for channels, _, _ in config.conv_layers)

    def conv_mask_sizes(self, config: EncoderConfig) -> tuple[int, ...]:
        """Number of masks `z_conv` of each layer of the feature extractor: its channels.

        0 for the last layer if no projection follows it, since its channels are those of the residual stream.
        """
        sizes = [len(channels) for channels in self.channels_of(config)]
        return (*sizes[:-1], sizes[-1] if config.has_projection else 0)

    def groups_of(self, config: EncoderConfig) -> tuple[int, ...]:
        """Kept groups of the positional convolution, also if it is not pruned."""
        return tuple(range(config.pos_conv_groups)) if self.position_groups is None else self.position_groups

    def check(self, config: EncoderConfig) -> None:
        """Raise UserError unless every index exists in `config`, is ascending and belongs to a kept sublayer."""
        if len(self.layers) != config.num_layers:
            raise UserError(f"the spec has {len(self.layers)} layers, but the encoder has {config.num_layers}.")
        for i, layer in enumerate(self.layers):
            _check_indices(f"layer {i} ffn", layer.ffn, config.ffn_dim)
            _check_indices(f"layer {i} heads", tuple(h.index for h in layer.heads), config.num_heads)
            for head in layer.heads:
                _check_indices(f"layer {i} head {head.index} qk", head.qk, config.head_dim)
                _check_indices(f"layer {i} head {head.index} vo", head.vo, config.head_dim)
            if (layer.heads and not layer.attention) or (layer.ffn and not layer.feed_forward):
                raise UserError(f"layer {i} of the spec keeps dimensions of a sublayer that it removes.")
            for names, alive in ((ATTENTION_MAPS, layer.attention), (FEED_FORWARD_MAPS, layer.feed_forward)):
                ranks = {name: rank for name in names if (rank := getattr(layer.ranks, name)) is not None}
                if ranks and not alive:
                    raise UserError(f"layer {i} of the spec has ranks of a sublayer that it removes: {ranks}.")
                if any(not 1 <= rank <= config.embed_dim for rank in ranks.values()):
                    raise UserError(
                        f"layer {i} of the spec: ranks must be from 1 to {config.embed_dim}, but are {ranks}."
                    )
        if self.channels is not None:
            self._check_channels(config, self.channels)
        if self.position_groups is not None:
            check_position_groups(config)
            _check_indices("groups of the positional convolution", self.position_groups, config.pos_conv_groups)

    def _check_channels(self, config: EncoderConfig, channels: tuple[tuple[int, ...], ...]) -> None:
        if len(channels) != len(config.conv_layers):
            raise UserError(f"the spec has {len(channels)} CNN layers, but the encoder has {len(config.conv_layers)}.")
        for i, (kept, (whole, _, _)) in enumerate(zip(channels, config.conv_layers, strict=True)):
            _check_indices(f"CNN layer {i} channels", kept, whole)
            if not kept:
                raise UserError(f"CNN layer {i} of the spec keeps no channel, and at least one must stay.")
        if not config.has_projection and len(channels[-1]) < config.embed_dim:
            raise UserError(
                f"the spec keeps {len(channels[-1])} channels of the last CNN layer, but without a projection behind "
                f"it all {config.embed_dim} must stay."
            )

    def to_dict(self) -> dict:
        """Plain lists and dicts, for JSON. `config.from_dict(CompactSpec, ...)` is the inverse."""
        data = asdict(self)
        for layer, plain in zip(self.layers, data["layers"], strict=True):
            if layer.ranks == Ranks():
                del plain["ranks"]  # as in exports from before factorised layers
        if self.channels is None:
            del data["channels"]  # as in exports from before CNNs could be pruned
        if self.position_groups is None:
            del data["position_groups"]  # as in exports from before it could be pruned
        return data


def check_position_groups(config: EncoderConfig) -> None:
    """Raise UserError unless groups of the encoder's positional convolution can go."""
    if not config.has_position_groups:
        found = "fixed positions" if config.positions == "fixed" else f"a stack of {config.pos_conv_depth}"
        raise UserError(
            "a single positional convolution can be pruned by groups (gates of the kind `pos`), but this "
            f"{config.family} encoder has {found}. Leave the kind out."
        )


def _check_indices(what: str, indices: tuple[int, ...], size: int) -> None:
    if any(b <= a for a, b in itertools.pairwise(indices)) or (indices and not 0 <= indices[0] <= indices[-1] < size):
        raise UserError(f"{what} of the spec must be ascending indices below {size}, but is {list(indices)[:8]}...")
