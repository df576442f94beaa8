"""Calling each library from B waveforms to hidden states, as its user would.

Each adapter takes the library's own call (a module or method), so that a variant can replace it by a compiled one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import collate, normalize_waveform
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig

Encode = Callable[[list[Tensor]], list[Tensor]]
"""B waveforms (S,), fp32, 16 kHz, on the model's device -> hidden states (B, T, D), in the model's precision."""
Call = Callable[..., Any]
"""A library's callable: a model, or one of its methods."""


def encode_ours(call: Call, encoder: SpeechEncoder, dtype: torch.dtype) -> Encode:
    """Call an encoder of ours as `upstream.expert.UpstreamExpert` does."""

    def encode(wavs: list[Tensor]) -> list[Tensor]:
        if encoder.config.normalize_waveform:
            wavs = [normalize_waveform(wav) for wav in wavs]
        padded, lengths = collate(wavs)
        return encoder.states(call(padded.to(dtype), lengths.to(padded.device) if ragged(wavs) else None))

    return encode


def encode_s3prl(call: Call, dtype: torch.dtype) -> Encode:
    """Call an upstream of s3prl, which pads by itself."""
    return lambda wavs: list(call([wav.to(dtype) for wav in wavs])["hidden_states"])


def encode_hf(call: Call, normalise: bool, dtype: torch.dtype) -> Encode:
    """Call a model of transformers, with an attention mask where utterances are padded."""

    def encode(wavs: list[Tensor]) -> list[Tensor]:
        if normalise:
            wavs = [normalize_waveform(wav) for wav in wavs]
        padded, lengths = collate(wavs)
        mask = None
        if ragged(wavs):
            mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long().to(padded.device)
        output = call(padded.to(dtype), attention_mask=mask, output_hidden_states=True)
        # the last state of Large models in its list is the one before the encoder's LayerNorm
        return [*output.hidden_states[:-1], output.last_hidden_state]

    return encode


def encode_torchaudio(call: Call, normalise: bool, dtype: torch.dtype) -> Encode:
    """Call `extract_features` of a model of torchaudio; its list lacks the first layer's input."""

    def encode(wavs: list[Tensor]) -> list[Tensor]:
        if normalise:
            wavs = [normalize_waveform(wav) for wav in wavs]
        padded, lengths = collate(wavs)
        return call(padded.to(dtype), lengths.to(padded.device) if ragged(wavs) else None)[0]

    return encode


def ragged(wavs: list[Tensor]) -> bool:
    """Whether a batch must be padded."""
    return any(len(wav) != len(wavs[0]) for wav in wavs)


def torchaudio_model(config: EncoderConfig) -> nn.Module:
    """Torchaudio's own model of a dense shape, with its initial weights.

    Raises:
        UserError: if torchaudio has no such architecture.
    """
    import torchaudio

    if config.family == "data2vec":
        raise UserError("torchaudio has no data2vec.")
    shape = {
        "extractor_mode": config.extractor_mode,
        "extractor_conv_layer_config": [list(layer) for layer in config.conv_layers],
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.embed_dim,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": config.pos_conv_kernel,
        "encoder_pos_conv_groups": config.pos_conv_groups,
        "encoder_num_layers": config.num_layers,
        "encoder_num_heads": config.num_heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": config.ffn_dim,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": config.norm_first,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
    if config.family == "wavlm":
        shape |= {"encoder_num_buckets": config.num_buckets, "encoder_max_distance": config.max_distance}
        return torchaudio.models.wavlm_model(**shape)
    return torchaudio.models.wav2vec2_model(**shape)
