"""The encoder: waveform in, L + 1 hidden states out, dense or pruned, with slots for masks."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.attention import SelfAttention
from s3prl_pruned.models.cnn import FeatureProjection
from s3prl_pruned.models.components import (
    FeedForward,
    PositionalConvolution,
    RelativePosition,
    Stack,
    TrainingDropout,
    exporting,
    normalize_utterances,
    positional_convolution,
)
from s3prl_pruned.models.log_mel import LogMelExtractor, feature_extractor
from s3prl_pruned.models.masks import LAYER_KINDS, Slot, SlotTable
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.models.state_heads import state_heads
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.models.time_reduction import merge_frames, repeat_frames, thin_position_bias
from s3prl_pruned.models.windows import cut, join

_SLOTS = {"attention": ("z_mha", "z_qk", "z_vo", "z_head"), "feed_forward": ("z_ffn", "z_int")}


@dataclass
class EncoderOutput:
    """The encoder's output for a batch.

    Attributes:
        hidden_states: L + 1 tensors (B, T, D); state 0 is the first layer's input, the last the encoder's output.
        frame_lengths: (B,) int64, frames of each utterance that are not padding.
        projected: (B, T, D), the projection's output, before the positional convolution; 0 in padded frames.
        before_norm: (B, T, D), the last layer's output, before the final LayerNorm of a pre-norm encoder; for
            other encoders, the last state.
    """

    hidden_states: list[Tensor]
    frame_lengths: Tensor
    projected: Tensor
    before_norm: Tensor


class EncoderLayer(nn.Module):
    """Attention and feed-forward with residuals; (B, T, D) -> (B, T, D).

    A removed sublayer is None: it keeps its residual path and its LayerNorm.
    """

    def __init__(self, config: EncoderConfig, spec: LayerSpec):
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = SelfAttention(config, spec.heads, spec.ranks) if spec.attention else None
        self.attention_layer_norm = nn.LayerNorm(config.embed_dim)
        self.feed_forward = FeedForward(config, len(spec.ffn), spec.ranks) if spec.feed_forward else None
        self.final_layer_norm = nn.LayerNorm(config.embed_dim)
        self.dropout = TrainingDropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        position_bias: Tensor | None,
        padding: Tensor | None,
        *,
        attend: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x: (B, T, D).
            position_bias: as `SelfAttention.forward`.
            padding: (B, T) bool, True where a frame is padding; None for none.
            attend: called in place of the attention, with the attention and its arguments.
        """
        if self.attention is not None:
            y = self.attention_layer_norm(x) if self.norm_first else x
            attention = self.attention if attend is None else partial(attend, self.attention)
            x = x + self.dropout(attention(y, position_bias, padding))
        if not self.norm_first:
            x = self.attention_layer_norm(x)
        if self.feed_forward is not None:
            y = self.final_layer_norm(x) if self.norm_first else x
            x = x + self.dropout(self.feed_forward(y))
        if not self.norm_first:
            x = self.final_layer_norm(x)
        return x


class SpeechEncoder(nn.Module):
    """wav2vec-2.0-like encoder: CNN, projection, positional convolution, Transformer.

    Or, as configured, Whisper's: the CNN reads a log-mel spectrum, positions are fixed, and audio is
    encoded in windows of at most `max_frames`.

    Args:
        config: the dense shape.
        spec: the structure to keep; None for everything.
    """

    def __init__(self, config: EncoderConfig, spec: CompactSpec | None = None):
        super().__init__()
        config.validate()
        self.config = config
        self.spec = spec or CompactSpec.dense(config)
        self.spec.check(config)
        channels = [len(kept) for kept in self.spec.channels_of(config)]
        self.feature_extractor = feature_extractor(config, channels)
        self.feature_projection = FeatureProjection(config, channels[-1])
        self.mask_embedding = nn.Parameter(torch.empty(config.embed_dim).uniform_())  # used by masked pre-training only
        self.positional_convolution = positional_convolution(config, self.spec.position_groups)
        with_bias = config.relative_position and self.spec.has_attention
        self.relative_position = RelativePosition(config) if with_bias else None
        self.layers: Stack[EncoderLayer] = Stack(EncoderLayer(config, layer) for layer in self.spec.layers)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.state_heads = state_heads(config)
        self.dropout = TrainingDropout(config.dropout)
        self.apply(_initialise)

    def forward(
        self,
        wavs: Tensor,
        lengths: Tensor | None = None,
        *,
        features: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        inside: Tensor | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
        run: Callable[..., Tensor] | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            wavs: (B, S) float, 16 kHz, zero-padded; layer-normalised before padding where the config says so. Audio
                shorter than one frame is padded to one.
            lengths: (B,) int64 samples of each utterance; None when none is padded. A shorter one than a frame has one.
            features: (B, T, C), the output of `feature_extractor` for `wavs`, if the caller has it already.
            frame_lengths: (B,) int64, frames of each utterance that are not padding, if the caller knows them;
                else they follow from `lengths`.
            inside: (T,) bool, True for frames that exist, if the features have more; None for all.
            project: in place of `feature_projection`, (B, T, C) -> (B, T, D).
            run: called in place of each layer, with the layer and its arguments.

        Returns:
            L + 1 hidden states (B, T, D) and the frames of each utterance. Padded frames hold what s3prl's
            model of the same family has there.
        """
        wavs = self.one_frame_at_least(wavs)
        features = self.feature_extractor(wavs) if features is None else features
        x = (project or self.feature_projection)(features)  # (B, T, D)
        with_silence = self.config.window == "padded"  # x has more frames than the audio, and all are attended to
        num_frames = self.config.num_frames(wavs.shape[1]) if with_silence else x.shape[1]
        is_long = self.config.max_frames is not None and x.shape[1] > self.config.max_frames and not exporting()
        padded = (lengths is not None or frame_lengths is not None or is_long) and not with_silence
        if frame_lengths is None:
            frame_lengths = self.frame_lengths(lengths, wavs, num_frames)
        padding = None
        if padded:
            padding = torch.arange(num_frames, device=x.device) >= frame_lengths[:, None]  # (B, T)
            x = x.masked_fill(padding[..., None], 0.0)
        projected = x
        if is_long:
            x, padding = self._windows(x, padding)  # (B x windows, frames of one, D); so are the states
        x = x + self.positional_convolution(x, inside)
        if not self.config.norm_first:
            x = self.layer_norm(x)
        x = self.dropout(x)

        position_bias = self.position_bias(x)
        states, reduction, full = [], self.config.time_reduction, x.shape[1]
        for i, layer in enumerate(self.layers):
            states.append(x)
            if reduction is not None and i == reduction.after:
                x, padding = merge_frames(x, padding, reduction.factor)
                position_bias = None if position_bias is None else thin_position_bias(position_bias, reduction.factor)
            x = layer(x, position_bias, padding) if run is None else run(layer, x, position_bias, padding)
        states.append(self.layer_norm(x) if self.config.norm_first else x)
        if reduction is not None:
            merged = [repeat_frames(state, reduction.factor, full) for state in (*states[reduction.after + 1 :], x)]
            states[reduction.after + 1 :], x = merged[:-1], merged[-1]
        if is_long:
            *states, x = (join(state, len(features), num_frames) for state in (*states, x))
        if with_silence:
            *states, x, projected = (state[:, :num_frames] for state in (*states, x, projected))
        return EncoderOutput(hidden_states=states, frame_lengths=frame_lengths, projected=projected, before_norm=x)

    def _windows(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) and (B, T) in windows of `max_frames`: (B x windows, max_frames, D) and (B x windows, max_frames).

        Frames after the end are padding, but never all frames of a window: attention needs at least one.
        """
        size = self.config.max_frames
        assert size is not None
        if padding is not None:
            padding = cut(~padding, size).logical_not_()
            padding[:, 0] = False
        return cut(x, size), padding

    def states(self, output: EncoderOutput, rule: StateRule | None = None) -> list[Tensor]:
        """The hidden states that the model publishes: `EncoderConfig.num_states` tensors (B, T, `state_dim`).

        Args:
            output: of `forward`.
            rule: in place of the model's own, with its heads or none; `StateRule()` is s3prl's.
        """
        rule = rule or self.config.states
        first = {"input": output.hidden_states[:1], "projection": [output.projected], "none": []}[rule.first]
        last = output.hidden_states[-1] if rule.final_norm else output.before_norm
        layers = [*output.hidden_states[1:-1], last]
        if rule.heads is None:
            return [*first, *layers]
        assert self.state_heads is not None and rule.heads == self.config.states.heads
        return [*first, *self.state_heads(layers, output.hidden_states[-1])]

    def one_frame_at_least(self, wavs: Tensor) -> Tensor:
        """Pad (B, S) with zeros to the length of one frame if it is shorter."""
        missing = self.config.frame_samples - wavs.shape[1]
        if exporting():
            return F.pad(wavs, (0, torch.sym_max(missing, 0)))
        return F.pad(wavs, (0, missing)) if missing > 0 else wavs

    def position_bias(self, x: Tensor) -> Tensor | None:
        """The layers' `position_bias` for hidden states (B, T, D): (H, T, T), or None."""
        return None if self.relative_position is None else self.relative_position(x.shape[1])

    def encode_raw(self, wavs: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """`forward` on waveforms as recorded: they are normalised first where the config says so.

        Args:
            wavs: (B, S) float, 16 kHz, zero-padded.
            lengths: (B,) int64 samples of each utterance; None when none is padded.
        """
        if self.config.normalize_waveform:
            wavs = normalize_utterances(wavs, lengths)
        return self(wavs, lengths)

    def frame_lengths(self, lengths: Tensor | None, wavs: Tensor, num_frames: int) -> Tensor:
        """Frames of each utterance that are not padding, by the family's rule (`EncoderConfig.padding_rule`).

        At least one, as in s3prl's and transformers' models, so that a very short utterance does not stop a batch.

        Args:
            lengths: (B,) int64 samples, or None when nothing is padded.
            wavs: (B, S).
            num_frames: T.
        """
        if lengths is None or self.config.padding_rule == "chunks":
            return count_frames(lengths, wavs, num_frames)
        return self.config.num_frames(lengths).clamp(min=1)

    def set_masks(self, masks: Mapping[Slot, Tensor] | None) -> None:
        """Fill the slots that `masks` has, and empty all others (None: all). The tensors are used as they are.

        Args:
            masks: (n,) by slot; gradients flow back to them.

        Raises:
            ValueError: this encoder has no such slot, or one of another size.
        """
        masks = {} if masks is None else masks
        sizes = SlotTable.of(self.spec, LAYER_KINDS).sizes
        sizes |= {(i, "z_conv"): len(kept) for i, kept in enumerate(self.spec.channels_of(self.config))}
        if isinstance(self.positional_convolution, PositionalConvolution):
            sizes[0, "z_pos"] = len(self.positional_convolution.kept)
        for slot, z in masks.items():
            if z.numel() != sizes.get(slot):
                raise ValueError(f"{slot}: must be a slot of this encoder, with as many masks, but has {z.numel()}.")
        convolutions = self.feature_extractor.layers
        for i, convolution in enumerate(convolutions):
            convolution.z_conv = masks.get((i, "z_conv"))
        self.feature_projection.z_conv = masks.get((len(convolutions) - 1, "z_conv"))
        if isinstance(self.positional_convolution, PositionalConvolution):
            self.positional_convolution.z_pos = masks.get((0, "z_pos"))
        for i, layer in enumerate(self.layers):
            for part, names in _SLOTS.items():
                module = getattr(layer, part)
                for name in names if module is not None else ():
                    setattr(module, name, masks.get((i, name)))

    def num_parameters(self) -> int:
        """`numel()` of all parameters, biases included."""
        return sum(p.numel() for p in self.parameters())


def count_frames(lengths: Tensor | None, wavs: Tensor, num_frames: int) -> Tensor:
    """Frames that hold any of an utterance's samples, by WavLM's and HuBERT's rule (s3prl's `forward_padding_mask`).

    The padded batch of S samples is cut into T chunks of S // T samples; a frame is padding when its whole chunk is,
    but never an utterance's first.

    Args:
        lengths: (B,) int64 samples, or None when nothing is padded.
        wavs: (B, S).
        num_frames: T.
    """
    if lengths is None:
        return torch.full((wavs.shape[0],), num_frames, device=wavs.device)
    chunk = wavs.shape[1] // num_frames
    return ((lengths + chunk - 1) // chunk).clamp(min=1, max=num_frames)


def in_window(encoder: SpeechEncoder, window: Literal["own", "utterance", "padded"]) -> SpeechEncoder:
    """The encoder, or a copy of it in windows of another kind (`EncoderConfig.window`).

    Args:
        encoder: dense or compact, also with fast forms or in int8; without masks.
        window: `own` for its own.

    Raises:
        UserError: the encoder has no windows that could be padded.
    """
    if window == "own" or window == encoder.config.window:
        return encoder
    config = replace(encoder.config, window=window)
    config.validate()
    changed = copy.deepcopy(encoder)
    changed.config = config
    for module in changed.modules():
        if isinstance(module, LogMelExtractor):
            module.is_padded = window == "padded"
    return changed


def freeze_idle(encoder: SpeechEncoder, rule: StateRule | None = None) -> None:
    """Turn off `requires_grad` of parameters that get no gradient: torch's plain DistributedDataParallel waits for one.

    These are the mask embedding (for masked pre-training), the CNN if its gradient is multiplied by 0, parameters
    around a sublayer that is removed or has no heads, those that the used states do not need, and empty ones.

    Args:
        encoder: as it will be fine-tuned; without masks.
        rule: the rule of the states that are used, if nothing else is; None if other outputs are used, too.
    """
    idle: list[nn.Module] = [encoder.feature_extractor] if encoder.feature_extractor.grad_mult == 0 else []
    for layer in encoder.layers:
        if layer.norm_first:
            idle += [layer.attention_layer_norm] * (layer.attention is None)
            idle += [layer.final_layer_norm] * (layer.feed_forward is None)
        if layer.attention is not None and not layer.attention.vo_heads.sizes:
            idle += [layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj]
    heads = None if rule is None else rule.heads
    if heads is None and encoder.state_heads is not None:
        idle.append(encoder.state_heads)
    predicting = heads is not None and heads.kind == "predictions"
    if encoder.config.norm_first and rule is not None and not rule.final_norm and not predicting:
        idle.append(encoder.layer_norm)
    encoder.mask_embedding.requires_grad_(False)
    for module in idle:
        module.requires_grad_(False)
    for parameter in encoder.parameters():
        if not parameter.numel():
            parameter.requires_grad_(False)


def _initialise(module: nn.Module) -> None:
    """BERT's initialisation, as WavLM's: weights N(0, 0.02), biases 0."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
        bias = getattr(module, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)
