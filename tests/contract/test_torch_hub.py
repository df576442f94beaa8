"""`torch.hub.load` of a clone gives the same upstream, from any folder and without s3prl's hub."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import torch

from s3prl_pruned.upstream.register import NAMES

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys
import torch
sys.modules["s3prl"] = None  # an import of s3prl would fail
clone, export = sys.argv[1:]
upstream = torch.hub.load(clone, "wavlm_pruned", source="local", ckpt=export)
local = torch.hub.load(clone, "wavlm_pruned_local", export, source="local")
wav = torch.linspace(-0.5, 0.5, 8000)
with torch.no_grad():
    states = [upstream.eval()([wav])["hidden_states"], local.eval()([wav])["hidden_states"]]
assert all(torch.equal(a, b) for a, b in zip(*states))
print(json.dumps([float(state.double().sum()) for state in states[0]]))
"""


def test_torch_hub_loads_the_clone_without_s3prl(hub, exported, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(ROOT), str(exported)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    expert = hub.wavlm_pruned_local(ckpt=str(exported)).eval()
    with torch.no_grad():
        states = expert([torch.linspace(-0.5, 0.5, 8000)])["hidden_states"]
    sums = torch.tensor([float(state.double().sum()) for state in states], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), sums, rtol=1e-6, atol=1e-4)


def test_hubconf_offers_every_name_that_register_gives_to_s3prl():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    assert all(callable(getattr(hubconf, name)) for name in NAMES)
    assert all(importlib.util.find_spec(package) for package in hubconf.dependencies)
