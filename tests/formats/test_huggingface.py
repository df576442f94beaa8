"""Folders of transformers' own models: another architecture is refused, and its mask embedding may be absent."""

import json

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.models.dummies import random_encoder, tiny_families

SHAPES = tiny_families()


def hugging_face_folder(tmp_path, **changes):
    registry.write(tmp_path / "x", "huggingface", random_encoder(SHAPES["hubert_large"], seed=1))
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps({**config, **changes}))
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "bert"},
            r"`model_type` must be one of \['data2vec-audio', 'hubert', 'wav2vec2', 'wavlm'\], but is 'bert'",
        ),
        ({"hidden_act": "relu"}, "`hidden_act` must be 'gelu' for this encoder, but is 'relu'"),
        ({"feat_proj_layer_norm": False}, "`feat_proj_layer_norm` must be True"),
        ({"conv_kernel": [3]}, "`conv_dim`, `conv_kernel` and `conv_stride` must be lists of one length"),
        ({"hidden_size": "many"}, "embed_dim: must be a whole number"),
        ({"num_hidden_layers": 7}, "missing keys"),
        ({"num_hidden_layers": 10**9}, "`num_layers` must be at most 1000"),
        ({"intermediate_size": 2**40}, "`ffn_dim` must be at most 1048576"),
    ],
)
def test_a_hugging_face_folder_of_another_architecture_is_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        registry.read(hugging_face_folder(tmp_path, **changes))


def test_a_folder_that_declares_no_mask_embedding_needs_none(tmp_path):
    folder = hugging_face_folder(tmp_path, mask_time_prob=0.0)
    with pytest.raises(UserError, match=r"unknown keys \['masked_spec_embed'\]"):
        registry.read(folder)
