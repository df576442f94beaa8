"""Whisper's checkpoints with random weights, as OpenAI and Hugging Face write them, including a decoder."""

import json
from pathlib import Path

import safetensors.torch
import torch

from s3prl_pruned.formats import huggingface_whisper, whisper
from s3prl_pruned.models.encoder import SpeechEncoder


def openai_checkpoint(encoder: SpeechEncoder, dtype: torch.dtype = torch.float16) -> dict:
    """The content of OpenAI's `.pt` for a dense encoder."""
    config, state = encoder.config, encoder.state_dict()
    weights = {theirs: state[ours].to(dtype) for theirs, ours in whisper.KEYS.keys(config).items()}
    dims = {
        "n_mels": config.mel_bins,
        "n_vocab": 60,
        "n_audio_ctx": config.max_frames,
        "n_audio_state": config.embed_dim,
        "n_audio_head": config.num_heads,
        "n_audio_layer": config.num_layers,
        "n_text_ctx": 8,
        "n_text_state": config.embed_dim,
        "n_text_head": config.num_heads,
        "n_text_layer": 1,
    }
    decoder = {"decoder.token_embedding.weight": torch.zeros(60, config.embed_dim, dtype=dtype)}
    return {"dims": dims, "model_state_dict": {**decoder, **weights}}


def write_huggingface(folder: Path, encoder: SpeechEncoder) -> None:
    """A folder of WhisperForConditionalGeneration."""
    config, state = encoder.config, encoder.state_dict()
    weights = {f"model.{theirs}": state[ours] for theirs, ours in huggingface_whisper.KEYS.keys(config).items()}
    weights["model.decoder.embed_tokens.weight"] = torch.zeros(60, config.embed_dim)
    folder.mkdir()
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    cfg = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "activation_function": "gelu",
        "d_model": config.embed_dim,
        "encoder_layers": config.num_layers,
        "encoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.ffn_dim,
        "num_mel_bins": config.mel_bins,
        "max_source_positions": config.max_frames,
    }
    extractor = {"feature_extractor_type": "WhisperFeatureExtractor", "hop_length": 160, "n_fft": 400}
    (folder / "config.json").write_text(json.dumps(cfg))
    (folder / "preprocessor_config.json").write_text(json.dumps({**extractor, "sampling_rate": 16_000}))
