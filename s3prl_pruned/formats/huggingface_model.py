"""The encoder as a speech model of transformers. This file and the modules it imports are copied into exported folders.

It does the same as transformers' WavLMModel and Wav2Vec2Model. Their code is not imported, because it imports
torchaudio, which does not load with every version of torch.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import Wav2Vec2BaseModelOutput

from s3prl_pruned.formats.huggingface_config import PrunedSpeechConfig, parse
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.attention import Indices, PositionGate, SelfAttention
from s3prl_pruned.models.cnn import FeatureProjection
from s3prl_pruned.models.components import WeightNorm, WeightNormConv1d, normalize_utterances
from s3prl_pruned.models.encoder import EncoderLayer, SpeechEncoder, freeze_idle
from s3prl_pruned.models.log_mel import LogMel
from s3prl_pruned.models.state_heads import Predictions

try:
    from transformers.modeling_layers import GradientCheckpointingLayer
except (ImportError, OSError):  # transformers before 4.53, or its torchaudio does not load
    GradientCheckpointingLayer = nn.Module  # type: ignore[misc, assignment]  # `PrunedSpeechModel._run` replaces it


class PrunedSpeechPreTrainedModel(PreTrainedModel):
    """Base class of the encoder and of models with a head (`huggingface_heads.py`)."""

    config_class = PrunedSpeechConfig
    base_model_prefix = "speech_encoder"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: Any = ("CheckpointedLayer",)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`, which unfreezes all parameters; idle ones are frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        model.base_model.freeze_idle()
        return loaded

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # else, transformers would search the text of this file

    def freeze_feature_encoder(self) -> None:
        """Freeze the CNN, and skip its backward pass."""
        base: Any = self.base_model
        extractor = base.encoder.feature_extractor
        extractor.grad_mult = 0.0
        extractor.requires_grad_(False)

    def freeze_base_model(self) -> None:
        """Freeze everything but the head."""
        self.base_model.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise weights that the file lacks: transformers creates models without values, which would be arbitrary.

        As in a new `SpeechEncoder`, but linear maps and embeddings use `initializer_range` of the configuration.
        """
        if isinstance(module, (Indices, WeightNorm, PositionGate, FeatureProjection, LogMel, Predictions)):
            module.reset()
        elif isinstance(module, WeightNormConv1d):
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, SpeechEncoder):
            nn.init.uniform_(module.mask_embedding)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            if module.weight.numel():
                nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv1d, nn.LayerNorm, nn.GroupNorm)):
            module.reset_parameters()
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)

    def _get_feat_extract_output_lengths(
        self, input_lengths: Tensor | int, add_adapter: bool | None = None
    ) -> Tensor | int:
        """Numbers of samples -> numbers of frames of the CNN's output."""
        base: Any = self.base_model
        return base.encoder.config.num_frames(input_lengths)

    def _get_feature_vector_attention_mask(
        self, feature_vector_length: int, attention_mask: Tensor, add_adapter: bool | None = None
    ) -> Tensor:
        """Mask of samples (B, S), 1 for speech -> mask of frames (B, T) bool, as in the encoder."""
        base: Any = self.base_model
        lengths = attention_mask.long().sum(-1)
        frames = base.encoder.frame_lengths(lengths, attention_mask, feature_vector_length)
        return torch.arange(feature_vector_length, device=attention_mask.device) < frames[:, None]


class CheckpointedLayer(EncoderLayer, GradientCheckpointingLayer):
    """A layer that transformers' gradient checkpointing recognises, and recomputes in the backward pass."""


class PrunedSpeechModel(PrunedSpeechPreTrainedModel):
    """Waveforms in, hidden states out; created by `AutoModel.from_pretrained(folder, trust_remote_code=True)`.

    Waveforms are unnormalised (16 kHz). If the encoder needs them normalised, this model does it exactly as in
    training; transformers' own feature extractor has another epsilon.
    """

    def __init__(self, config: PrunedSpeechConfig):
        super().__init__(config)
        shape, spec = parse(config.encoder, config.spec)
        dropout: dict[str, Any] = {
            "dropout": float(config.hidden_dropout),
            "attention_dropout": float(config.attention_dropout),
            "activation_dropout": float(config.activation_dropout),
        }
        self.encoder = accelerate(SpeechEncoder(replace(shape, **dropout), spec))
        for layer in self.encoder.layers:
            layer.__class__ = CheckpointedLayer  # as in `accelerate`, names of weights do not change
        self.gradient_checkpointing = False
        self.post_init()
        self.freeze_idle()

    def freeze_idle(self) -> None:
        """Freeze parameters that never get a gradient; SpecAugment's embedding gets one if it is used."""
        weighted = self.config.use_weighted_layer_sum
        freeze_idle(self.encoder, self.encoder.config.states if weighted else None)
        masks = self.config.apply_spec_augment and self.config.mask_time_prob > 0
        self.encoder.mask_embedding.requires_grad_(masks)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Wav2Vec2BaseModelOutput | tuple:
        """Encode a batch.

        Args:
            input_values: (B, S) float, 16 kHz, zero-padded at the end.
            attention_mask: (B, S), 1 for speech and 0 for the padding after it; None if none is padded.
            mask_time_indices: (B, T) bool, frames to mask; None draws them in training, with the configured settings.
            output_attentions: whether to return `attentions`; None uses the configuration, also for the next two.
            output_hidden_states: whether to return `hidden_states`.
            return_dict: False returns a tuple.

        Returns:
            `last_hidden_state` (B, T, D), output of the encoder; `extract_features` (B, T, C), output of the CNN after
            its LayerNorm; `hidden_states`, the published states, (B, T, D) each (`EncoderConfig.states`: by default L +
            1, of which 0 is the first layer's input); `attentions`, L tensors (B, heads kept in the layer, T, T).
        """
        encoder, config = self.encoder, self.config
        lengths = None if attention_mask is None else attention_mask.long().sum(-1)
        wavs = input_values.to(torch.promote_types(input_values.dtype, torch.float32))
        if encoder.config.normalize_waveform:
            wavs = normalize_utterances(wavs, lengths)
        wavs = wavs.to(encoder.layer_norm.weight.dtype)
        extracted: list[Tensor] = []
        attentions: list[Tensor] | None = [] if _or(output_attentions, config.output_attentions) else None

        def project(features: Tensor) -> Tensor:
            extracted.append(encoder.feature_projection.normalise(features))
            x = F.dropout(encoder.feature_projection(features), config.feat_proj_dropout, self.training)
            if attention_mask is None:
                return self._mask_hidden_states(x, mask_time_indices)
            frames = self._get_feature_vector_attention_mask(x.shape[1], attention_mask)
            return self._mask_hidden_states(x, mask_time_indices, frames)

        encoded = encoder(wavs, lengths, project=project, run=partial(self._run, attentions=attentions))
        wanted = _or(output_hidden_states, config.output_hidden_states)
        output = Wav2Vec2BaseModelOutput(
            last_hidden_state=encoded.hidden_states[-1],
            extract_features=extracted[0],
            hidden_states=tuple(encoder.states(encoded)) if wanted else None,
            attentions=None if attentions is None else tuple(attentions),
        )
        return output if _or(return_dict, config.return_dict) else output.to_tuple()

    def _run(
        self,
        layer: Callable[..., Tensor],
        x: Tensor,
        position_bias: Tensor | None,
        padding: Tensor | None,
        *,
        attentions: list[Tensor] | None,
    ) -> Tensor:
        """Run a layer, (B, T, D) -> (B, T, D), with layer drop and gradient checkpointing; appends to `attentions`."""
        weights: list[Tensor] = []
        if attentions is not None or self.config._attn_implementation == "eager":
            layer = partial(layer, attend=partial(attend_eagerly, weights=weights))
        if self.training and self.config.layerdrop > 0 and float(torch.rand(())) < self.config.layerdrop:
            y = x
        elif self.training and self.gradient_checkpointing and GradientCheckpointingLayer is nn.Module:
            y = self._gradient_checkpointing_func(layer, x, position_bias, padding)
        else:
            y = layer(x, position_bias, padding)
        if attentions is not None:  # a layer without attention has weights of 0 heads
            attentions.append(weights[0] if weights else x.new_zeros(len(x), 0, x.shape[1], x.shape[1]))
        return y

    def _mask_hidden_states(
        self, hidden_states: Tensor, mask_time_indices: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """SpecAugment (Park et al. 2019) on the projected features, (B, T, D) -> (B, T, D).

        Args:
            hidden_states: (B, T, D).
            mask_time_indices: (B, T) bool; None draws them in training.
            attention_mask: (B, T), frames that are not padding.
        """
        config, x = self.config, hidden_states
        if not config.apply_spec_augment:
            return x
        batch, frames, width = x.shape
        if mask_time_indices is None and self.training and config.mask_time_prob > 0:
            lengths = [frames] * batch if attention_mask is None else attention_mask.sum(-1).tolist()
            mask_time_indices = self._spans(lengths, frames, "time")
        if mask_time_indices is not None:
            masked_frames = mask_time_indices.to(x.device, torch.bool)[..., None]
            x = torch.where(masked_frames, self.encoder.mask_embedding.to(x.dtype), x)
        if self.training and config.mask_feature_prob > 0:
            dims = self._spans([width] * batch, width, "feature")
            x = x.masked_fill(dims.to(x.device)[:, None], 0.0)
        return x

    def _spans(self, lengths: list[int], size: int, axis: str) -> Tensor:
        """Masks of SpecAugment: (len(lengths), size) bool, True in spans with random starts, which may overlap.

        Args:
            lengths: length of each row, within which its spans stay.
            size: number of columns.
            axis: `time` or `feature`, selects the settings.
        """
        prob, span, least = (getattr(self.config, f"mask_{axis}_{name}") for name in ("prob", "length", "min_masks"))
        mask = torch.zeros(len(lengths), size, dtype=torch.bool)
        for row, length in zip(mask, lengths, strict=True):
            width = min(span, length)
            if width > 0:
                count = max(int(prob * length / width + float(torch.rand(()))), least)
                starts = torch.randperm(length - width + 1)[: min(count, length // width)]
                row[(starts[:, None] + torch.arange(width)).flatten()] = True
        return mask


def attend_eagerly(
    attention: SelfAttention,
    x: Tensor,
    position_bias: Tensor | None,
    padding: Tensor | None,
    *,
    weights: list[Tensor],
) -> Tensor:
    """Self-attention (B, T, D) -> (B, T, D) that also returns its attention weights.

    Args:
        attention: has no masks.
        x: (B, T, D).
        position_bias: as in `SelfAttention.forward`.
        padding: as in `SelfAttention.forward`.
        weights: list to which the attention weights (B, kept heads, T, T) are appended.
    """
    if not attention.vo_heads.sizes:
        return attention(x, position_bias, padding)
    weights.append(attention.weights(x, position_bias, padding))
    value = attention.vo_heads.split(attention.v_proj(x))
    context = F.dropout(weights[-1], attention.dropout, attention.training) @ value
    return attention.out_proj(attention.vo_heads.merge(context))


def _or(given: bool | None, otherwise: bool | None) -> bool:
    return bool(otherwise if given is None else given)
