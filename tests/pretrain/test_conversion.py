"""`tools/convert_checkpoint.py` and `tools/export.py`: any model into any format, with little memory."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s3prl_pruned.checkpoint import save_checkpoint
from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.formats.folder import load_encoder, save_encoder
from s3prl_pruned.formats.registry import read, write
from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.conversion import load_source
from s3prl_pruned.pretrain.distill.config import ModelConfig

ROOT = Path(__file__).parents[2]
SHAPES = tiny_families()
PUBLIC = {
    "wavlm_base": ("folder", "microsoft", "s3prl", "huggingface"),
    "hubert_large": ("folder", "s3prl", "fairseq", "huggingface"),
    "data2vec_base": ("folder", "s3prl", "fairseq", "huggingface"),
}


def tool(name, *arguments, code=0):
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("name", PUBLIC)
def test_every_format_is_converted_to_every_other_bit_for_bit(name, tmp_path):
    encoder = random_encoder(SHAPES[name], seed=1)
    for fmt in PUBLIC[name]:
        write(tmp_path / fmt, fmt, encoder, {"teacher_note": None})
    for source, target in itertools.permutations(PUBLIC[name], 2):
        loaded = load_source(tmp_path / source)
        write(tmp_path / f"{source}-{target}", target, loaded.encoder, loaded.provenance)
        back = load_source(tmp_path / f"{source}-{target}").encoder
        assert all(
            torch.equal(a, b) for a, b in zip(back.state_dict().values(), encoder.state_dict().values(), strict=True)
        )


def test_a_torchaudio_state_dict_needs_its_shape_named(tmp_path):
    write(tmp_path / "torchaudio.pt", "torchaudio", random_encoder(SHAPES["hubert_base"], seed=1))
    with pytest.raises(UserError, match="does not say its shape"):
        load_source(tmp_path / "torchaudio.pt")
    with pytest.raises(UserError, match="must have shape|missing keys"):
        load_source(tmp_path / "torchaudio.pt", shape="hubert_base")  # the tiny model has another shape


def test_the_tools_convert_export_and_say_what_is_wrong(tmp_path):
    write(tmp_path / "a.pt", "s3prl", random_encoder(SHAPES["hubert_base"], seed=1))
    assert "hubert, " in tool("convert_checkpoint", tmp_path / "a.pt", tmp_path / "hf", "--to", "huggingface").stdout
    assert read(tmp_path / "hf").encoder.config == SHAPES["hubert_base"]
    wrong = tool("convert_checkpoint", tmp_path / "hf", tmp_path / "b.pt", "--to", "microsoft", code=2)
    assert (
        wrong.stderr.startswith("error: Microsoft's checkpoint format holds WavLM only")
        and "Traceback" not in wrong.stderr
    )
    assert not (tmp_path / "b.pt").exists()
    config = SHAPES["wavlm_base"]
    save_encoder(
        tmp_path / "pruned", random_encoder(config, seed=1, spec=random_spec(config, seed=2)), {"teacher_note": None}
    )
    done = tool("export", tmp_path / "pruned", tmp_path / "pruned_hf", "--to", "huggingface")
    assert "exported to" in done.stdout and (tmp_path / "pruned_hf" / "modeling_s3prl_pruned.py").is_file()
    assert load_encoder(tmp_path / "pruned_hf")[0].spec == load_encoder(tmp_path / "pruned")[0].spec
    refused = tool("convert_checkpoint", tmp_path / "pruned", tmp_path / "c.pt", "--to", "s3prl", code=2)
    assert "dense encoders only, but this one is pruned" in refused.stderr


_PEAK = """
import re, sys
from s3prl_pruned.pretrain.conversion import convert
tiny, source, target, fmt, shape = sys.argv[1:]
convert(tiny, target + ".tiny", fmt)  # loads the libraries first, which take 0.3 GiB for ONNX
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
before = peak()
convert(source, target, fmt, shape=shape or None)
print(peak() - before)
"""


def write_source(path, kind, shape):
    """A model of full size with random weights; `checkpoint` is a training checkpoint with Adam's two moments."""
    encoder = SpeechEncoder(shape).eval()
    if kind != "checkpoint":
        return write(path, kind, encoder, {"teacher_note": None})
    gates = GateSet(CompactSpec.dense(shape), GateConfig())
    generator = torch.Generator().manual_seed(0)
    for _, _, gate in gates.items():
        gate.log_alpha.data.copy_(torch.randn(gate.log_alpha.shape, generator=generator) * 3)
    moments = [{"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)} for p in encoder.parameters()]
    plain = {"Step": 1, "Seed": 0, "Versions": {}, "Config": {"runner": {"total_steps": 1}}}
    model = {"Student": encoder.state_dict(), "Gates": gates.state_dict(), "Encoder_Config": to_dict(shape)}
    about = {"Teacher": {"name": "random", "sha256": None, "note": None}, "Upstream_Config": to_dict(ModelConfig())}
    save_checkpoint(path, {**plain, **model, **about, "Optimizers": moments})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory of the process from Linux")
@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        ("fairseq", "huggingface", "hubert_base"),
        ("huggingface", "fairseq", "hubert_base"),
        ("s3prl", "folder", "hubert_base"),
        ("folder", "microsoft", "wavlm_base"),
        ("microsoft", "torchaudio", "wavlm_base"),
        ("torchaudio", "s3prl", "wavlm_base"),
        ("checkpoint", "folder", "wavlm_base"),
        ("folder", "onnx", "hubert_base"),
    ],
)
def test_memory_stays_under_twice_the_model(source, target, name, tmp_path):
    shape = families.named(name)
    path = tmp_path / ("states-1.ckpt" if source == "checkpoint" else "source")
    write_source(path, source, shape)
    write(tmp_path / "tiny", "folder", random_encoder(SHAPES[name], seed=1), {"teacher_note": None})
    named = name if source == "torchaudio" else ""
    command = [sys.executable, "-c", _PEAK, tmp_path / "tiny", path, tmp_path / "target", target, named]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, check=True)
    with torch.device("meta"):
        model = 4 * SpeechEncoder(shape).num_parameters()
    assert 0.9 < float(done.stdout) / model < 2
