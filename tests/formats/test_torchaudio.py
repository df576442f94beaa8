"""torchaudio's state dicts: the user names their shape."""

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, tiny_families

SHAPES = tiny_families()


def test_public_shapes_are_found_by_name():
    assert families.named("data2vec_base").pos_conv_depth == 5
    with pytest.raises(UserError, match="must be one of .*hubert_large.* but is 'hubert_huge'"):
        families.named("hubert_huge")


def test_a_state_dict_without_its_shape_is_refused_with_what_to_do(tmp_path):
    registry.write(tmp_path / "x.pt", "torchaudio", random_encoder(SHAPES["hubert_base"], seed=1))
    with pytest.raises(UserError, match="x.pt: is a torchaudio state dict, which does not say its shape. Name it"):
        registry.read(tmp_path / "x.pt")
