"""Toolkits that build on s3prl, such as ESPnet, can use our upstreams without any change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import tiny_wavlm

REPO = Path(__file__).resolve().parents[2]
NUM_STATES = tiny_wavlm().num_layers + 1

FRONTEND = '''
"""Takes an upstream by the calls of ESPnet's S3prlFrontend, in their order, and fine-tunes it for a step."""
import copy, json, os, sys
import torch

class Frontend(torch.nn.Module):
    def __init__(self, upstream, path_or_url, download_dir, multilayer_feature):
        import s3prl
        from s3prl.nn import Featurizer, S3PRLUpstream

        super().__init__()
        s3prl.util.download.set_dir(download_dir)
        assert upstream in S3PRLUpstream.available_names()
        self.upstream = S3PRLUpstream(upstream, path_or_url=path_or_url, normalize=False, extra_conf=None)
        if getattr(self.upstream.upstream, "model", None):  # ESPnet looks into it
            assert getattr(self.upstream.upstream.model, "feature_grad_mult", None) is None
        self.upstream.eval()
        self.featurizer = Featurizer(self.upstream, layer_selections=None)
        self.multilayer_feature = multilayer_feature
        self.pretrained_params = copy.deepcopy(self.upstream.state_dict())

    def forward(self, wavs, lengths):
        states, frames = self.upstream(wavs, lengths)
        if not self.multilayer_feature:
            states, frames = states[-1:], frames[-1:]
        return self.featurizer(states, frames)

if __name__ == "__main__":
    export, folder, multilayer = sys.argv[1:]
    frontend = Frontend("wavlm_pruned_local", export, folder + "/downloads", multilayer == "true").train()
    optimizer = torch.optim.SGD(frontend.parameters(), lr=0.1)
    features, frames = frontend(torch.linspace(-1, 1, 32000).sin().reshape(2, 16000), torch.tensor([16000, 9000]))
    features.square().mean().backward()
    optimizer.step()
    before = frontend.pretrained_params
    moved = [name for name, value in frontend.upstream.state_dict().items() if not value.equal(before[name])]
    frontend.upstream.load_state_dict(frontend.pretrained_params)
    found = {
        "features": list(features.shape), "frames": frames.tolist(), "moved": len(moved),
        "size": frontend.featurizer.output_size, "hop": frontend.featurizer.downsample_rate,
        "weights": frontend.featurizer.weights.numel(), "world": int(os.environ.get("WORLD_SIZE", "1")),
    }
    with open(f"{folder}/{os.environ.get('RANK', '0')}.json", "w") as file:
        json.dump(found, file)
'''


@pytest.mark.parametrize(
    ("start", "processes", "multilayer"),
    [((), 1, "true"), (("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"), 2, "false")],
    ids=["one process", "torchrun"],
)
def test_a_program_that_calls_s3prl_as_espnets_frontend_does_takes_an_export(
    exported, tmp_path, start, processes, multilayer
):
    (tmp_path / "espnet_like").mkdir()
    (tmp_path / "espnet_like" / "train.py").write_text(FRONTEND)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    program = ["-m", "s3prl_pruned", "-m", "espnet_like.train", str(exported), str(tmp_path), multilayer]
    command = [sys.executable, *start, *program]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=240)
    assert result.returncode == 0, result.stderr
    for rank in range(processes):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.pop("moved") > 0, "fine-tuning reaches the encoder"
        assert found == {
            "features": [2, 50, 24],
            "frames": [50, 29],
            "size": 24,
            "hop": 320,
            "weights": NUM_STATES,
            "world": processes,
        }
