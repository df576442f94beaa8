"""What the tests of measurements share."""

import json

import pytest

from s3prl_pruned.models.dummies import random_spec, tiny_base


@pytest.fixture(scope="session")
def structure_file(tmp_path_factory):
    """A ragged structure of a tiny shape, as JSON that the timing harness reads."""
    config = tiny_base(embed_dim=64, num_heads=4, ffn_dim=96)
    path = tmp_path_factory.mktemp("structure") / "structure.json"
    path.write_text(json.dumps({"encoder": vars(config), "spec": random_spec(config, seed=1, channels=True).to_dict()}))
    return path
