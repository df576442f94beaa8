"""Several processes train like one, and none of them waits forever for a lost one."""

import collections
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from s3prl_pruned import checkpoint, distributed
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.pretrain.config import LoopConfig, RunnerConfig
from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.trainer import Trainer, parts_of_micro_batch

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
WITHOUT_DROPOUT = "student.dropout=0,,student.attention_dropout=0,,student.activation_dropout=0"
ONE_MICRO_BATCH = f"{WITHOUT_DROPOUT},,runner.total_steps={STEPS},,runner.save_step=8"
TWO_MICRO_BATCHES = ",,runner.gradient_accumulate_steps=2"
SAME = ONE_MICRO_BATCH + TWO_MICRO_BATCHES + ",,runner.ema_decay=0.9"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments, options=()):
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options]
    return [*line, str(ROOT / "run_pretrain.py"), *arguments]


def losses(folder):
    return [line["distill"] for line in read_log(folder)]


def log_without_machine(folder):
    machine = ("audio_seconds_per_second", "train_seconds", "memory_gib", "pairs", "mask_means", "remaining")
    return [{k: v for k, v in line.items() if k not in machine} for line in read_log(folder)]


def assert_same_line(line, other):
    """Compare lines of two logs; two kinds of fp32 values have larger rounding errors than the others.

    A sparsity is a difference from 1, and so rounds to 2^-24, however small it is. In the gradients of gates, the terms
    of the distillation and of the Lagrangian nearly cancel.
    """
    share, norm = "expected_sparsity", "gate_gradient_norm"
    assert line[share] == pytest.approx(other[share], rel=1e-5, abs=2**-23)
    assert line[norm] == pytest.approx(other[norm], rel=1e-4)
    line, other = ({k: v for k, v in each.items() if k not in (share, norm)} for each in (line, other))
    assert line == pytest.approx(other, rel=1e-5, abs=1e-12), line["step"]


def train_with_two(recipe, folder, options):
    """Train with two processes; returns the output."""
    line = torchrun(*recipe.arguments(folder, "-o", options))
    result = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=240, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def two_processes(recipe):
    folder = recipe.root / "two-processes"
    said = train_with_two(recipe, folder, SAME)
    assert said.count("2 processes, 1 micro-batches each per step") == 1, "only one process prints"
    return folder


@pytest.fixture(scope="module")
def accumulating(recipe):
    return recipe.train(recipe.root / "accumulating", "-o", SAME)


def test_two_processes_equal_one_with_accumulation(two_processes, accumulating):
    ours, reference = log_without_machine(two_processes), log_without_machine(accumulating)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for line, other in zip(ours, reference, strict=True):
        assert_same_line(line, other)
    assert len(set(losses(two_processes))) == STEPS, "losses must change from step to step"
    for name in ("pairs", "remaining"):
        assert [line[name] for line in read_log(two_processes)] == [line[name] for line in read_log(accumulating)], name


def test_two_processes_that_share_a_single_micro_batch_equal_one(recipe, tmp_path):
    """Batches of 3, 2 and 2 utterances: one process takes one utterance more than the other."""
    options = ONE_MICRO_BATCH + ",,pretrain_expert.datarc.train_batch_size=3"
    said = train_with_two(recipe, tmp_path / "two", options)
    assert "2 processes, 1 parts of 2 of a micro-batch each per step; the global batch is the recipe's" in said
    one = recipe.train(tmp_path / "one", "-o", options)
    for line, other in zip(log_without_machine(tmp_path / "two"), log_without_machine(one), strict=True):
        assert_same_line(line, other)
    assert checkpoint.load_checkpoint(tmp_path / "two" / "latest")["Data_Position"] == STEPS


def test_two_processes_save_and_export_the_same_as_one(two_processes, accumulating):
    ours, _ = load_encoder(two_processes / "export")
    reference, _ = load_encoder(accumulating / "export")
    assert ours.spec == reference.spec
    mine, theirs = (checkpoint.load_checkpoint(folder / "latest") for folder in (two_processes, accumulating))
    for found, weights in (
        (ours.state_dict(), reference.state_dict()),  # the average
        (mine["Average"]["Student"], theirs["Average"]["Student"]),
        (mine["Student"], theirs["Student"]),
    ):
        for name, value in found.items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-4, msg=name)


@pytest.mark.slow
def test_two_nodes_that_meet_at_a_rendezvous_equal_one_process(recipe, accumulating):
    """Two agents of torchrun, as on two machines, with the usual options; here, both run on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    folder = recipe.root / "two-nodes"
    options = [
        "--nnodes=2",
        "--nproc_per_node=1",
        "--rdzv_backend=c10d",
        "--rdzv_id=test",
        f"--rdzv_endpoint={meeting}",
    ]
    line = [sys.executable, "-m", "torch.distributed.run", *options, str(ROOT / "run_pretrain.py")]
    line += recipe.arguments(folder, "-o", SAME)
    nodes = [
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=ENVIRONMENT)
        for _ in range(2)
    ]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sum(text.count("2 processes, 1 micro-batches each per step") for text in said) == 1, "one process prints"
    for ours, reference in zip(log_without_machine(folder), log_without_machine(accumulating), strict=True):
        assert_same_line(ours, reference)


def test_the_comparison_notices_a_missing_process(recipe, accumulating, tmp_path):
    alone = recipe.train(tmp_path / "alone", "-o", ONE_MICRO_BATCH)  # half the global batch
    differences = [abs(a - b) / b for a, b in zip(losses(alone), losses(accumulating), strict=True)]
    assert max(differences) > 1e-2


def test_checkpoints_of_two_processes_hold_both_generators_and_the_position(two_processes):
    state = checkpoint.load_checkpoint(two_processes / "latest")
    assert len(state["RNG"]) == 2 and not torch.equal(state["RNG"][0]["cpu"], state["RNG"][1]["cpu"])
    assert (state["Step"], state["Micro_Batches_Per_Step"], state["Data_Position"]) == (STEPS, 2, 2 * STEPS)


def test_a_run_resumes_with_another_number_of_processes_and_a_warning(
    recipe, two_processes, accumulating, tmp_path, caplog
):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "log.jsonl", "states-8.ckpt"):
        (run / name).write_bytes((two_processes / name).read_bytes())
    recipe.train(run, "-a", "-o", SAME)
    assert "was written by 2 process(es), now there are 1: each step's 2 micro-batches are redistributed" in caplog.text
    assert losses(run) == pytest.approx(losses(accumulating), rel=1e-5)


def processes(recipe, folder, *, timeout):
    """Two processes of one run, started as a scheduler would without torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = f"runner.total_steps=100000,,runner.save_step=5,,runner.max_keep=1,,runner.process_timeout={timeout}"
    options += TWO_MICRO_BATCHES
    line = [sys.executable, str(ROOT / "run_pretrain.py"), *recipe.arguments(folder, "-o", options)]
    where = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    started = []
    for rank in ("0", "1"):
        variables = {**where, "RANK": rank, "LOCAL_RANK": rank}
        started.append(
            subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=variables)
        )
    deadline = time.monotonic() + 120
    while not list(folder.glob("states-*.ckpt")):
        assert all(process.poll() is None for process in started) and time.monotonic() < deadline
        time.sleep(0.05)
    return started


@pytest.mark.parametrize(
    "loss, timeout, limit, lost",
    [
        pytest.param(signal.SIGKILL, 300, 30, 1, id="killed"),
        pytest.param(signal.SIGSTOP, 5, 35, 0, id="the main one hanging"),
        pytest.param(signal.SIGKILL, 300, 30, 0, id="the main one killed", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 5, 35, 1, id="hanging", marks=pytest.mark.slow),
    ],
)
def test_a_lost_process_stops_the_other_with_an_error_in_time(recipe, tmp_path, loss, timeout, limit, lost):
    """One that ended at once, and one that hangs after `process_timeout`; the limits allow for a busy machine."""
    both = processes(recipe, tmp_path / "run", timeout=timeout)
    try:
        both[lost].send_signal(loss)
        began = time.monotonic()
        _, stderr = both[1 - lost].communicate(timeout=limit)
        assert time.monotonic() - began < limit
    finally:
        for process in both:
            process.kill()
    assert both[1 - lost].returncode == 2
    assert (
        "error: another process of this run ended or does not answer" in stderr
        and "start all of them again with -a" in stderr
    )
    assert "Traceback" not in stderr
    assert checkpoint.newest(tmp_path / "run"), "checkpoints must be complete"


def test_sigterm_to_one_process_stops_both_after_the_same_step(recipe, tmp_path):
    both = processes(recipe, tmp_path / "run", timeout=60)
    try:
        both[1].send_signal(signal.SIGTERM)
        results = [process.communicate(timeout=60) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [75, 75]
    step = checkpoint.load_checkpoint(tmp_path / "run" / "latest")["Step"]
    for _, stderr in results:
        assert f"stopped by SIGTERM after step {step}; it is saved" in stderr


@pytest.mark.slow
def test_torchrun_restarts_a_killed_process_and_the_run_ends_without_a_difference(recipe, tmp_path):
    long = (
        f"{WITHOUT_DROPOUT},,runner.total_steps=300,,runner.save_step=10,,runner.max_keep=2,,runner.process_timeout=60"
        f"{TWO_MICRO_BATCHES}"
    )
    run = tmp_path / "run"
    agent = subprocess.Popen(
        torchrun(*recipe.arguments(run, "-o", long), options=["--max-restarts=2"]),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    while not list(run.glob("states-*.ckpt")):
        assert agent.poll() is None
        time.sleep(0.05)
    victim = int(Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()[-1])
    os.kill(victim, signal.SIGKILL)
    stdout, stderr = agent.communicate(timeout=240)
    assert agent.returncode == 0, stderr
    assert "continuing from" in stdout
    whole = recipe.train(tmp_path / "whole", "-o", long)
    # Rounding errors grow over 300 steps: the start is exact, the end is close.
    assert losses(run)[:20] == pytest.approx(losses(whole)[:20], rel=1e-5)
    assert len(losses(run)) == 300 and all(map(math.isfinite, losses(run)))


@pytest.fixture
def trainer_of(recipe, two_processes, monkeypatch):
    """`trainer_of(processes, **runner)`: trainer of process `rank` out of `processes`, with batches of 7 utterances."""
    model = checkpoint.load_checkpoint(two_processes / "latest")["Upstream_Config"]
    expert = UpstreamPretrainExpert({"corpus": str(recipe.corpus), "min_seconds": 0.3, "num_workers": 0}, model, "cpu")

    def make(processes, *, rank=0, **runner):
        monkeypatch.setattr(distributed, "world_size", lambda: processes)
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        return Trainer(expert, RunnerConfig(runner=LoopConfig(**runner)), seed=0)

    return make


def test_more_processes_than_utterances_of_a_micro_batch_are_refused(trainer_of):
    message = (
        "has 1 micro-batches. 8 processes would split each one into 8 parts, but the smallest has 7 utterances. "
        "Start fewer processes.*runner.scale_batch_with_processes=true"
    )
    with pytest.raises(UserError, match=message):
        next(trainer_of(8).batches())
    assert len(next(trainer_of(7).batches())[0][0]) == 1


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_processes_share_a_step_evenly_and_completely(trainer_of, scale, processes, accumulate):
    shares = []
    for rank in range(processes):
        made = trainer_of(processes, rank=rank, gradient_accumulate_steps=accumulate, scale_batch_with_processes=scale)
        assert made.per_step == accumulate * (processes if scale else 1)
        shares.append(made._shares(3, parts_of_micro_batch(made.per_step, processes)))
    assert len({len(own) for own in shares}) == 1, "evenly"
    whole = collections.defaultdict(list)
    for number, part, parts in itertools.chain(*shares):
        whole[number].append((part, parts))
    assert sorted(whole) == list(range(3 * made.per_step, 4 * made.per_step))
    for taken in whole.values():
        assert sorted(taken) == [(part, len(taken)) for part in range(len(taken))]
    if scale or accumulate % processes == 0:
        assert all(len(taken) == 1 for taken in whole.values()), "micro-batches stay whole"


def test_one_micro_batch_and_the_same_audio_in_two_take_the_same_20_steps(recipe):
    """In one process, the global batch at once or accumulated: losses, gates and weights agree."""
    settings = yaml.safe_load((recipe.recipe / "config_model.yaml").read_text()) | {"teacher": str(recipe.teacher)}
    settings["student"] = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}

    def trainer():
        expert = UpstreamPretrainExpert({"corpus": str(recipe.corpus), "min_seconds": 0.3}, settings, "cpu", seed=3)
        return Trainer(expert, RunnerConfig(), seed=3)

    whole, halves = trainer(), trainer()
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        wavs = torch.randn(4, 6_000, generator=generator) * 0.1
        first = whole.advance([(wavs, torch.full((4,), 6_000))])
        second = halves.advance([(wavs[:1], torch.full((1,), 6_000)), (wavs[1:], torch.full((3,), 6_000))])
        assert second["distill"] == pytest.approx(first["distill"], rel=1e-5), step
    for (name, one), (_, other) in zip(
        whole.expert.model.named_parameters(), halves.expert.model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-4, msg=name)
