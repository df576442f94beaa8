"""s3prl's conversions: weights that do not fit the declared configuration are named."""

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.models.dummies import random_encoder, tiny_families

SHAPES = tiny_families()


def test_weights_of_another_size_than_declared_are_named(tmp_path):
    registry.write(tmp_path / "x", "s3prl", random_encoder(SHAPES["hubert_base"], seed=1))
    content = torch.load(tmp_path / "x", weights_only=True)
    content["model_cfg"]["encoder_embed_dim"] = 48
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(UserError, match=r"wrong.pt: `\S+` must have shape .*48.*, but has .*24"):
        registry.read(tmp_path / "wrong.pt")


@pytest.mark.parametrize("change", ["unknown", "missing"])
def test_an_unknown_or_missing_key_is_named(change, tmp_path):
    registry.write(tmp_path / "x", "s3prl", random_encoder(SHAPES["wav2vec2_base"], seed=1))
    content = torch.load(tmp_path / "x", weights_only=True)
    if change == "unknown":
        content["model_weight"]["encoder.novel"] = torch.zeros(1)
    else:
        del content["model_weight"]["encoder.layers.1.fc1.bias"]
    torch.save(content, tmp_path / "wrong.pt")
    key = {"unknown": r"unknown keys \['encoder.novel'\]", "missing": r"missing keys \['encoder.layers.1.fc1.bias'\]"}[
        change
    ]
    with pytest.raises(UserError, match=key):
        registry.read(tmp_path / "wrong.pt")
