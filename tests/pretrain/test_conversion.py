"""`tools/convert_checkpoint.py` and `tools/export.py`: any model into any format, in little memory."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.export.formats import load_encoder, save_encoder
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.load import load_dense
from s3prl_pruned.models.save import save_dense
from s3prl_pruned.pretrain.conversion import load_source, write_target

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
def test_every_format_becomes_every_other_bit_for_bit(name, tmp_path):
    encoder = random_encoder(SHAPES[name], seed=1)
    for fmt in PUBLIC[name]:
        write_target(tmp_path / fmt, fmt, encoder, {"teacher_note": None})
    for source, target in itertools.permutations(PUBLIC[name], 2):
        loaded, provenance = load_source(tmp_path / source)
        write_target(tmp_path / f"{source}-{target}", target, loaded, provenance)
        back, _ = load_source(tmp_path / f"{source}-{target}")
        assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), encoder.state_dict().values(), strict=True))


def test_a_torchaudio_state_dict_needs_its_shape_named(tmp_path):
    save_dense(random_encoder(SHAPES["hubert_base"], seed=1), tmp_path / "torchaudio.pt", "torchaudio")
    with pytest.raises(UserError, match="does not say its shape"):
        load_source(tmp_path / "torchaudio.pt")
    with pytest.raises(UserError, match="must have shape|missing keys"):
        load_source(tmp_path / "torchaudio.pt", shape="hubert_base")  # the tiny one is not


def test_the_tools_convert_export_and_say_what_is_wrong(tmp_path):
    save_dense(random_encoder(SHAPES["hubert_base"], seed=1), tmp_path / "a.pt", "s3prl")
    assert "hubert, " in tool("convert_checkpoint", tmp_path / "a.pt", tmp_path / "hf", "--to", "huggingface").stdout
    assert load_dense(tmp_path / "hf").config == SHAPES["hubert_base"]
    wrong = tool("convert_checkpoint", tmp_path / "hf", tmp_path / "b.pt", "--to", "microsoft", code=2)
    assert wrong.stderr.startswith("error: Microsoft's checkpoint format holds WavLM only") and "Traceback" not in wrong.stderr
    assert not (tmp_path / "b.pt").exists()
    config = SHAPES["wavlm_base"]
    save_encoder(tmp_path / "pruned", random_encoder(config, seed=1, spec=random_spec(config, seed=2)), {"teacher_note": None})
    done = tool("export", tmp_path / "pruned", tmp_path / "pruned_hf", "--to", "huggingface")
    assert "exported to" in done.stdout and (tmp_path / "pruned_hf" / "modeling_s3prl_pruned.py").is_file()
    assert load_encoder(tmp_path / "pruned_hf")[0].spec == load_encoder(tmp_path / "pruned")[0].spec
    refused = tool("convert_checkpoint", tmp_path / "pruned", tmp_path / "c.pt", "--to", "s3prl", code=2)
    assert "dense encoders only, but this one is pruned" in refused.stderr


_PEAK = """
import re, sys
import s3prl_pruned.pretrain.conversion as conversion
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
source, target, fmt = sys.argv[1:]
before = peak()
encoder, provenance = conversion.load_source(source)
conversion.write_target(target, fmt, encoder, provenance)
print((peak() - before) / (4 * encoder.num_parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own peak of the process")
@pytest.mark.parametrize(("source", "target"), [("fairseq", "huggingface"), ("huggingface", "fairseq"), ("s3prl", "folder"), ("folder", "s3prl")])  # fmt: skip
def test_memory_stays_under_twice_the_model(source, target, tmp_path):
    write_target(tmp_path / "source", source, SpeechEncoder(families.hubert_base()).eval(), {"teacher_note": None})
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "source"), str(tmp_path / "target"), target]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert 0.9 < float(done.stdout) < 2  # of the model's own size, beyond what importing takes
