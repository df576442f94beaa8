"""torchrun: processes train together, the first one evaluates, and all of them end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.running import make_run, run
from tests.superb_corpora import make_fluent_commands, make_speech_commands, tiny

REPO = Path(__file__).parents[3]


def torchrun(folder, *options, processes=2):
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, str(REPO / "run_downstream.py"), "-u", "fbank", "--device", "cpu", *options],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_together_and_the_first_evaluates(tmp_path):
    make_speech_commands(tmp_path)
    settings = tiny(batch_size=2)
    done = torchrun(tmp_path, "-d", "ks", "--corpus", ".", "-o", settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("ks test: ACC") == 1
    folder = tmp_path / "results/fbank/ks"
    states = torch.load(folder / "states-4.ckpt", weights_only=False)
    assert (states["Step"], states["WorldSize"]) == (4, 2)
    assert not any(name.startswith("module.") for name in states["Downstream"])
    assert json.loads((folder / "run.json").read_text())["num_processes"] == 2
    result = read_result(folder / "result.json")
    assert "2 processes" in result.protocol_note and result.num_utterances == 12
    # a run is resumed with as many processes as it was started with
    (folder / "result.json").unlink()
    alone = torchrun(tmp_path, "-d", "ks", "--corpus", ".", "-o", settings, "-a", processes=1)
    assert alone.returncode != 0 and "was begun by 2 process(es), but this is 1" in alone.stderr
    (folder / "states-4.ckpt").unlink()
    again = torchrun(tmp_path, "-d", "ks", "--corpus", ".", "-o", settings, "-a")
    assert again.returncode == 0 and "Resuming from results/fbank/ks/states-2.ckpt" in again.stdout, again.stderr[
        -3000:
    ]


@pytest.mark.slow
def test_two_processes_learn_the_same_as_one_that_accumulates_their_batches(tmp_path):
    """A step sees the whole training set: its mean gradient does not depend on who computes it.

    (Adam would amplify tiny differences.)
    """
    make_fluent_commands(tmp_path / "fsc")
    weights = {}
    for name, processes, accumulate in (("one", 1, 2), ("two", 2, 1), ("other", 1, 1)):
        settings = tiny(train_batch_size=3, eval_batch_size=3).replace(
            "accumulate_steps=1", f"accumulate_steps={accumulate}"
        )
        settings += ",,config.optimizer.torch_optim_name=SGD,,config.optimizer.lr=0.1"
        done = torchrun(tmp_path, "-d", "ic", "--corpus", "fsc", "-n", name, "-o", settings, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        weights[name] = torch.load(tmp_path / f"results/{name}/ic/states-4.ckpt", weights_only=False)["Downstream"]

    def difference(name):
        keys = weights["one"].keys() - {"best_score"}
        return max(float((weights[name][key] - weights["one"][key]).abs().max()) for key in keys)

    assert difference("two") < 1e-5 < 1e-3 < difference("other")


def test_evaluation_is_refused_on_several_processes(monkeypatch):
    launch = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="-m evaluate: s3prl evaluates in one process. Start without torchrun"):
        run.main(["-u", "fbank", "-d", "ks", "-m", "evaluate"])


@pytest.mark.parametrize(
    ("accumulate", "expected"),
    [(2, []), (4, ["2 processes"]), (1, ["runner.gradient_accumulate_steps", "2 processes"])],
)
def test_a_step_of_as_many_utterances_is_the_benchmarks(monkeypatch, accumulate, expected):
    monkeypatch.setattr(make_run.distributed, "world_size", lambda: 2)
    found = [] if accumulate == 4 else ["runner.gradient_accumulate_steps"]
    config, official = ({"runner": {"gradient_accumulate_steps": number}} for number in (accumulate, 4))
    found += make_run._processes(found, config, official)
    assert found == expected
