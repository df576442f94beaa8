"""The configuration of the exported model for transformers. This file is copied into the exported folder."""

from typing import Any

from transformers import Wav2Vec2Config

from s3prl_pruned.config import from_dict
from s3prl_pruned.formats.huggingface_sizes import sizes
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec


class PrunedSpeechConfig(Wav2Vec2Config):
    """`config.json` in transformers' form: `encoder` is the dense shape, `spec` the kept structure.

    The sizes that follow from these two have wav2vec 2.0's names, for other code that needs them. Dropout, SpecAugment
    (on in training, as in transformers' models) and settings of the heads have wav2vec 2.0's names too, and may be
    changed.

    Args:
        encoder: `EncoderConfig` as JSON data.
        spec: `CompactSpec` as JSON data; None for a dense encoder.
        kwargs: arguments of `Wav2Vec2Config`.
    """

    model_type = "s3prl_pruned"

    def __init__(self, encoder: dict | None = None, spec: dict | None = None, **kwargs: Any):
        shape, kept = parse(encoder, spec)
        dropout = {
            "hidden_dropout": shape.dropout,
            "attention_dropout": shape.attention_dropout,
            "activation_dropout": shape.activation_dropout,
            "layerdrop": 0.0,
        }
        super().__init__(**{**dropout, **kwargs, **sizes(shape, kept)})
        self.encoder = encoder or {}
        self.spec = spec or {}


def parse(encoder: dict | None, spec: dict | None) -> tuple[EncoderConfig, CompactSpec]:
    """Parse shape and kept structure from JSON data.

    Raises:
        UserError: they are not a valid encoder.
    """
    shape = from_dict(EncoderConfig, encoder or {}, "config.json: encoder")
    return shape, from_dict(CompactSpec, spec, "config.json: spec") if spec else CompactSpec.dense(shape)
