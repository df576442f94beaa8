"""Every command that takes a checkpoint refuses a bad one: exit status 2, one line, nothing written, nothing run."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from s3prl_pruned.formats.registry import write
from s3prl_pruned.models.dummies import random_encoder, tiny_families

REPO = Path(__file__).resolve().parents[2]
SHAPES = tiny_families()
COMMANDS = {
    "convert_checkpoint": "tools/convert_checkpoint.py BAD OUT --to folder",
    "export": "tools/export.py BAD OUT",
    "run_pretrain --teacher": "run_pretrain.py -u hubert_pruned_distill --teacher BAD -p OUT --device cpu",
    "run_downstream -k": "run_downstream.py -u hubert_pruned_local -k BAD -d asr -p OUT --device cpu",
}


class Payload:
    """Pickled, it asks whoever loads it to write a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def malicious(folder):
    write(folder / "x.pt", "s3prl", random_encoder(SHAPES["hubert_base"], seed=1))
    content = torch.load(folder / "x.pt", weights_only=True)
    torch.save({**content, "more": Payload(folder / "written")}, folder / "x.pt")
    return folder / "x.pt"


def malicious_folder(folder):
    return _folder_of_pickles(folder, {"more": Payload(folder / "written")})


def half_downloaded(folder):
    write(folder / "x.pt", "fairseq", random_encoder(SHAPES["hubert_base"], seed=1))
    content = (folder / "x.pt").read_bytes()
    (folder / "x.pt").write_bytes(content[: len(content) // 2])
    return folder / "x.pt"


def half_downloaded_folder(folder):
    write(folder / "x", "huggingface", random_encoder(SHAPES["hubert_base"], seed=1))
    content = (folder / "x" / "model.safetensors").read_bytes()
    (folder / "x" / "model.safetensors").write_bytes(content[: len(content) // 2])
    return folder / "x"


def a_missing_part(folder):
    write(folder / "x", "huggingface", random_encoder(SHAPES["hubert_base"], seed=1))
    (folder / "x" / "model.safetensors").unlink()
    index = {"weight_map": {"masked_spec_embed": "model-00001-of-00002.safetensors"}}
    (folder / "x" / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "x"


def another_size(folder):
    write(folder / "x.pt", "s3prl", random_encoder(SHAPES["hubert_base"], seed=1))
    content = torch.load(folder / "x.pt", weights_only=True)
    content["model_cfg"]["encoder_ffn_embed_dim"] = 28
    torch.save(content, folder / "x.pt")
    return folder / "x.pt"


def another_architecture(folder):
    write(folder / "x", "huggingface", random_encoder(SHAPES["hubert_base"], seed=1))
    config = json.loads((folder / "x" / "config.json").read_text())
    (folder / "x" / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    return folder / "x"


def another_family(folder):
    write(folder / "x.pt", "s3prl", random_encoder(SHAPES["wav2vec2_base"], seed=1))
    return folder / "x.pt"


def _folder_of_pickles(folder, more):
    write(folder / "x", "huggingface", random_encoder(SHAPES["hubert_base"], seed=1))
    (folder / "x" / "model.safetensors").unlink()
    torch.save({"masked_spec_embed": torch.zeros(24), **more}, folder / "x" / "pytorch_model.bin")
    return folder / "x"


BAD = {
    malicious: (
        "x.pt: asks for posix.system, which no checkpoint of a speech encoder needs. Nothing of the file was run."
    ),
    malicious_folder: "pytorch_model.bin: asks for posix.system, which no checkpoint of a speech encoder needs.",
    half_downloaded: "x.pt: is truncated, or is no torch checkpoint",
    half_downloaded_folder: "model.safetensors: is truncated, or is no safetensors file",
    a_missing_part: "x: lacks 'model-00001-of-00002.safetensors', which model.safetensors.index.json names.",
    another_size: "x.pt: `encoder.layers.0.fc1.weight` must have shape (28, 24), but has (20, 24).",
    another_architecture: (
        "config.json: `model_type` must be one of ['data2vec-audio', 'hubert', 'wav2vec2', 'wavlm'], but is 'bert'."
    ),
}
CASES = [(command, bad, message) for command in COMMANDS for bad, message in BAD.items()] + [
    # the tools take any family
    ("run_pretrain --teacher", another_family, "`teacher` must be a hubert encoder, but"),
    (
        "run_downstream -k",
        another_family,
        "x.pt: holds a wav2vec2 encoder, but a hubert is required. Use -u wav2vec2_pruned_local.",
    ),
]


@pytest.mark.parametrize(
    ("command", "bad", "message"), CASES, ids=[f"{command}: {bad.__name__}" for command, bad, _ in CASES]
)
def test_a_bad_checkpoint_is_one_line_and_leaves_nothing(command, bad, message, tmp_path, monkeypatch, capsys):
    script, *arguments = COMMANDS[command].split()
    places = {"BAD": str(bad(tmp_path)), "OUT": str(tmp_path / "out")}
    monkeypatch.setattr(sys, "argv", [script, *(places.get(argument, argument) for argument in arguments)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPO / script), run_name="__main__")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    assert message in said
    assert not (tmp_path / "written").exists()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
