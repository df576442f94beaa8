"""The exported model's configuration, as transformers reads it. It travels in the exported folder, with the model."""

from typing import Any

from transformers import Wav2Vec2Config

from s3prl_pruned.config import from_dict
from s3prl_pruned.formats.huggingface_sizes import sizes
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig


class PrunedSpeechConfig(Wav2Vec2Config):
    """transformers' view of `config.json`: `encoder` is the dense shape, `spec` what is left of it.

    Other code finds the sizes, which follow from those two, under wav2vec 2.0's names. Dropout, SpecAugment (on in
    training, as in transformers' models) and the heads' settings are wav2vec 2.0's too, and may be set.

    Args:
        encoder: `EncoderConfig` as JSON data.
        spec: `CompactSpec` as JSON data; None for a dense encoder.
        kwargs: `Wav2Vec2Config`'s.
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
    """The shape and what is left of it, of JSON data.

    Raises:
        UserError: they describe no encoder.
    """
    shape = from_dict(EncoderConfig, encoder or {}, "config.json: encoder")
    return shape, from_dict(CompactSpec, spec, "config.json: spec") if spec else CompactSpec.dense(shape)
