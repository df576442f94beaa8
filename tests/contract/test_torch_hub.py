"""`torch.hub.load` of a clone gives the same upstream, from any folder and without s3prl."""

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
    states = [expert.eval()([wav])["hidden_states"] for expert in (upstream, local)]
print(json.dumps([[state.tolist() for state in found] for found in states]))
"""


def test_torch_hub_loads_the_clone_without_s3prl(hub, exported, tmp_path, relative_differences):
    command = [sys.executable, "-c", PROGRAM, str(ROOT), str(exported)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stderr
    expert, wav = hub.wavlm_pruned_local(ckpt=str(exported)).eval(), torch.linspace(-0.5, 0.5, 8000)
    with torch.no_grad():
        states = expert([wav])["hidden_states"]
        next(p for name, p in expert.model.named_parameters() if "fc2.weight" in name and p.numel())[0, 0] += 0.01
        other = expert([wav])["hidden_states"]
    for found in json.loads(result.stdout):
        found = [torch.tensor(state) for state in found]
        assert max(relative_differences(found, states)) <= 2e-5
        assert max(relative_differences(found, other)) > 10 * 2e-5, "one different weight must be noticed"


def test_hubconf_has_every_name_that_register_adds_to_s3prl():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    assert all(callable(getattr(hubconf, name)) for name in NAMES)
    assert all(importlib.util.find_spec(package) for package in hubconf.dependencies)
