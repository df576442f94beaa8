"""Weights in several files, as transformers writes large models: read completely, or refused with the reason."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.huggingface_weights import weight_files
from s3prl_pruned.formats.registry import read, write
from s3prl_pruned.models.dummies import random_encoder, tiny_families

CONFIG = tiny_families()["hubert_large"]
PARTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def encoder():
    return random_encoder(CONFIG, seed=1)


@pytest.fixture
def folder(encoder, tmp_path):
    """A tiny Hugging Face folder with two files of weights and an index."""
    write(tmp_path / "hubert", "huggingface", encoder)
    whole = tmp_path / "hubert" / "model.safetensors"
    state, places = load_file(whole), {}
    for i, part in enumerate(PARTS):
        keys = sorted(state)[i::2]
        save_file({key: state[key] for key in keys}, whole.with_name(part))
        places |= dict.fromkeys(keys, part)
    index = {"metadata": {"total_size": whole.stat().st_size}, "weight_map": places}
    (tmp_path / "hubert" / "model.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()
    return tmp_path / "hubert"


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def change(folder, **places):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= places
    path.write_text(json.dumps(index))


def test_several_files_are_read_as_one(folder, encoder):
    assert same(read(folder).encoder, encoder)
    assert same(read(folder / "model.safetensors.index.json").encoder, encoder)
    assert weight_files(folder) == [folder / part for part in PARTS]


def test_several_pickled_files_are_read_as_one(folder, encoder):
    places = {}
    for i, part in enumerate(PARTS):
        state = load_file(folder / part)
        torch.save(state, folder / f"pytorch_model-{i}.bin")
        places |= dict.fromkeys(state, f"pytorch_model-{i}.bin")
        (folder / part).unlink()
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(read(folder).encoder, encoder)


@pytest.mark.parametrize(
    "part",
    [
        "../evil.safetensors",
        "/etc/evil.safetensors",
        "sub/evil.safetensors",
        "..",
        "",
        "evil.bin",
        r"..\evil.safetensors",
        7,
        None,
    ],
)
def test_an_index_with_a_file_outside_the_folder_is_refused(part, folder):
    (folder / "sub").mkdir()
    for evil in (
        folder / ".." / "evil.safetensors",
        folder / "sub" / "evil.safetensors",
    ):  # the files exist, but are not read
        save_file({"masked_spec_embed": torch.zeros(CONFIG.embed_dim)}, evil)
    change(folder, masked_spec_embed=part)
    with pytest.raises(
        UserError, match=r"index.json: a tensor's file must be the name of a .safetensors file in the same folder"
    ):
        read(folder)


def test_a_missing_file_is_named(folder):
    (folder / PARTS[1]).unlink()
    with pytest.raises(UserError, match=f"hubert: lacks '{PARTS[1]}', which model.safetensors.index.json names"):
        read(folder)


def test_a_half_downloaded_file_is_named(folder):
    part = folder / PARTS[1]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{PARTS[1]}: is truncated"):
        read(folder)


def test_a_tensor_in_two_files_is_refused(folder):
    first, second = (load_file(folder / part) for part in PARTS)
    key = min(first)
    save_file({**second, key: first[key]}, folder / PARTS[1])
    with pytest.raises(UserError, match=f"{PARTS[1]}: holds '{re.escape(key)}', which .* places elsewhere"):
        read(folder)


def test_a_tensor_that_is_not_in_the_file_of_the_index_is_named(folder):
    first = load_file(folder / PARTS[0])
    key = min(first)
    save_file({name: value for name, value in first.items() if name != key}, folder / PARTS[0])
    with pytest.raises(UserError, match=f"{PARTS[0]}: lacks '{re.escape(key)}', which .* places there"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weight_map": {"a": "model-1.safetensors", "a": "model-2.safetensors"}}', "names 'a' twice"),
        ('{"weight_map": {', "is damaged, not JSON"),
        ("[" * 100_000, "is damaged, not JSON"),
        ('{"weight_map": {}}', "`weight_map` must map each tensor to its file"),
        ('{"weight_map": ["a"]}', "`weight_map` must map each tensor to its file"),
        ("[]", "`weight_map` must map each tensor to its file"),
    ],
)
def test_a_damaged_index_is_one_clear_error(text, message, folder):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=f"model.safetensors.index.json: {message}"):
        read(folder)


def test_a_folder_without_weights_is_refused(folder):
    for part in folder.glob("model*"):
        part.unlink()
    with pytest.raises(UserError, match="hubert: holds no weights: neither model.safetensors nor pytorch_model.bin"):
        read(folder)
