"""A benchmark of a small shape, measured once for all tests that use its document."""

import functools
import json
import tempfile
from pathlib import Path

from s3prl_pruned.config import to_dict
from s3prl_pruned.models.dummies import random_spec, tiny_base
from s3prl_pruned.timing import benchmark


def write_structure(path):
    """A ragged structure of a tiny shape, as JSON that the timing harness reads."""
    config = tiny_base(embed_dim=64, num_heads=4, ffn_dim=96)
    spec = random_spec(config, seed=1, channels=True)
    path.write_text(json.dumps({"encoder": to_dict(config), "spec": spec.to_dict()}))
    return path


@functools.cache
def tiny_benchmark():
    """The benchmark's document; must not be changed."""
    with tempfile.TemporaryDirectory() as folder:
        structure = write_structure(Path(folder) / "structure.json")
        options = benchmark.Options(
            baseline="s3prl:wavlm_embedded",
            models=["ours:wavlm_embedded", "torchaudio:wavlm_embedded", f"{structure}+int8"],
            random=True,
            lengths=[(0.5, 1)],
            mixed=(0.3, 0.6),
            utterances=3,
            repeats=2,
        )
        return json.loads(json.dumps(benchmark.run(options), allow_nan=False))
