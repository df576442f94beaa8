"""Run several of the project's command lines in one new process, since each start costs seconds of imports."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "asr": "config.downstream_expert.datarc.batch_size=4",
    "sid": "config.downstream_expert.datarc.train_batch_size=2",
}
"""A batch size that suits so few files, by task."""

_IN_ONE_PROCESS = """
import contextlib, io, json, runpy, sys, traceback
root, commands = json.load(sys.stdin)
done = []
for script, *arguments in commands:
    sys.argv = [f"{root}/{script}", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


@dataclass(frozen=True)
class Done:
    """What one command left."""

    code: int
    out: str
    err: str


class Commands:
    """Command lines that run one after another in one process, which is started at once.

    Args:
        folder: the working directory; paths on the command lines are relative to it.
        lines: by a name of your choice, a script of the clone and its arguments.
    """

    def __init__(self, folder: Path, lines: dict[str, Sequence[str]]):
        self.lines, self.found = lines, None
        ours = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_ONE_PROCESS], cwd=folder, env={**os.environ, **ours}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.process.stdin.write(json.dumps([str(ROOT), [list(line) for line in lines.values()]]))
        self.process.stdin.close()
        self.process.stdin = None

    def __getitem__(self, name: str) -> Done:
        if self.found is None:
            out, err = self.process.communicate(timeout=280)
            assert self.process.returncode == 0, err
            self.found = dict(zip(self.lines, json.loads(out.splitlines()[-1])))
        return Done(*self.found[name])


def fixed_waveforms() -> list[np.ndarray]:
    """Two waveforms of 0.25 and 0.15 s, float32, by a formula: the input of the recorded hidden states."""
    n = np.arange(4_000)
    wav = 0.1 * np.sin(2 * np.pi * (200 + n / 20) * n / 16_000) + 0.05 * np.sin(0.7 * n)
    return [wav.astype(np.float32), wav[1_000:3_400].astype(np.float32)]


def pretrain(recipe: str, folder: str, *more: str) -> list[str]:
    """The command line of one tiny run."""
    upstream = "wavlm_pruned_asr" if recipe == "asr" else "wavlm_pruned_distill"
    where = ["--teacher", "teacher.pt", "--corpus", "corpus", "-p", folder, "--device", "cpu"]
    return ["run_pretrain.py", "-u", upstream, "--recipe", f"recipes/{recipe}", *where, *more]


def downstream(row: str, task: str, *upstream: str) -> list[str]:
    """The command line of one task of two steps; ASR on the embedded speech, SID on the corpus of `make_voxceleb1`."""
    settings = [f"config.runner.{key}=1" for key in ("save_step", "eval_step", "log_step", "gradient_accumulate_steps")]
    settings += ["config.runner.total_steps=2", "config.downstream_expert.datarc.num_workers=0", TASKS[task]]
    if task == "asr":
        tiny = {"dim": "[8]", "dropout": "[0.0]", "layer_norm": "[false]", "proj": "[false]", "sample_rate": "[1]"}
        settings += [f"config.downstream_expert.modelrc.RNNs.{key}={value}" for key, value in tiny.items()]
    settings += [f"config.downstream_expert.modelrc.{'project_dim' if task == 'asr' else 'projector_dim'}=8"]
    corpus = [] if task == "asr" else ["--corpus", "sid_corpus"]
    where = ["-d", task, *corpus, "-p", f"results/{row}/{task}", "--device", "cpu", "--seed", "1"]
    return ["run_downstream.py", *where, "-o", ",,".join(settings), *upstream]


SMALL = ("-u", "wavlm_pruned_local", "-k", "pretrain/small-seed1/export")
RESULTS = {
    "fbank-seed1 sid": downstream("fbank-seed1", "sid", "-u", "fbank"),
    "teacher-seed1 sid": downstream("teacher-seed1", "sid", "-u", "wavlm_embedded"),
    "small-seed1 sid": downstream("small-seed1", "sid", *SMALL),
    "small-seed1 asr": downstream("small-seed1", "asr", *SMALL),
}
"""The runs of tasks, by row and task."""

UNFINISHED = ("target_sparsity", "self_pinching", "heads_and_rows", "target_macs", "target_speedup", "asr")
"""Recipes, and their unfinished runs."""

MODELS = {
    "hard concrete": "pretrain/small-seed1/export",
    "int8": "exports/int8",
    "hugging face": "exports/huggingface",
    "low rank": "exports/low_rank",
    "recogniser": "pretrain/asr/export",
    **{f"checkpoint of {name}": f"unfinished/{name}/states-2.ckpt" for name in UNFINISHED},
}
"""What is an upstream, by the name of its recorded hidden states."""

EXPERIMENT = ["benchmarks/experiments/__main__.py", "experiment.yaml", "--output", ".", "--table", "--json"]
SCORE = ["tools/superb_score.py", "results"]


def hidden_states(folder: Path) -> dict[str, np.ndarray]:
    """All hidden states of all models on `fixed_waveforms`, through s3prl's hub: `<model>/<layer>`, each (2, T, D)."""
    import torch

    import s3prl_pruned

    s3prl_pruned.register()
    import s3prl.hub

    wavs, found = [torch.from_numpy(wav) for wav in fixed_waveforms()], {}
    for name, path in MODELS.items():
        with torch.no_grad():
            states = s3prl.hub.wavlm_pruned_local(str(folder / path)).eval()(wavs)["hidden_states"]
        found |= {f"{name}/{layer}": state.numpy().copy() for layer, state in enumerate(states)}
    return found
