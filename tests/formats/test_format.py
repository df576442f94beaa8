"""`Source`: the path and content of a file or folder, as every format gets it."""

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import fairseq, registry
from s3prl_pruned.formats.format import Source
from s3prl_pruned.models.dummies import random_encoder, tiny_base


def test_a_file_of_a_folder_means_the_folder_and_any_other_file_itself(tmp_path):
    registry.write(tmp_path / "x", "folder", random_encoder(tiny_base(), seed=0), {})
    for name in ("config.json", "model.safetensors"):
        assert Source(tmp_path / "x" / name).path == tmp_path / "x"
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "x" / "model.safetensors").read_bytes())
    assert Source(tmp_path / "model.safetensors").path == tmp_path / "model.safetensors", "without config.json"


def test_a_configuration_beside_the_file_is_found(tmp_path):
    torch.save({}, tmp_path / "weights.bin")
    (tmp_path / "pruned_config.json").write_text('{"layers": 2}')
    source = Source(tmp_path / "weights.bin")
    assert source.json("pruned_config.json") == {"layers": 2} and source.json("config.json") is None
    (tmp_path / "damaged.json").write_text('{"layers"')
    with pytest.raises(UserError, match="damaged.json: is damaged, not JSON"):
        source.json("damaged.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="list.json: must hold a JSON object, but holds a list"):
        source.json("list.json")


def test_a_file_that_is_named_by_its_url_keeps_its_suffix(tmp_path):
    (tmp_path / "x.onnx?download=true").write_bytes(b"\x08")
    assert Source(tmp_path / "x.onnx?download=true").suffix == ".onnx"


def test_a_weight_whose_name_is_not_a_string_is_refused():
    with pytest.raises(UserError, match="here: has the key 7, but names of weights must be strings"):
        fairseq.KEYS.to_ours({7: torch.zeros(1)}, tiny_base(), "here")
