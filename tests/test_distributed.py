"""Alone, the collectives change nothing; together, every process gets the same sum."""

import subprocess
import sys
import textwrap

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.distributed import (
    all_reduce_sum,
    check_device,
    is_main,
    launched_processes,
    rank,
    refuse_different,
    world_size,
)

WORKER = """
import sys, torch, torch.distributed as dist
from s3prl_pruned.distributed import all_reduce_sum, is_main, rank, world_size
dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
value = torch.tensor([1.0, 10.0]) * (rank() + 1)
total = all_reduce_sum(value)
print(rank(), world_size(), is_main(), value.tolist(), total.tolist())
dist.destroy_process_group()
"""


DIFFERENT = """
import sys, torch, torch.distributed as dist
from s3prl_pruned.config import UserError
from s3prl_pruned.distributed import rank, refuse_different
dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
refuse_different([("same", torch.arange(3.0))])
try:
    refuse_different([("same", torch.arange(3.0)), ("head.weight", torch.tensor([1.0, 1.0 + rank() * 2**-23]))])
except UserError as error:
    print(error)
dist.destroy_process_group()
"""


def in_two_processes(code, tmp_path):
    """What each of two processes that meet prints."""
    command = [sys.executable, "-c", textwrap.dedent(code), f"file://{tmp_path}/meet"]
    workers = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in (0, 1)
    ]
    return [worker.communicate(timeout=60) for worker in workers]


def test_on_one_process_nothing_happens():
    value = torch.tensor([1.0, 2.0])
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    assert all_reduce_sum(value) is value


def test_two_processes_agree_on_the_sum(tmp_path):
    results = in_two_processes(WORKER, tmp_path)
    assert results[0][0].strip() == "0 2 True [1.0, 10.0] [3.0, 30.0]", results[0][1]
    assert results[1][0].strip() == "1 2 False [2.0, 20.0] [3.0, 30.0]", results[1][1]


def test_processes_that_start_from_different_weights_are_refused_by_all(tmp_path):
    for out, err in in_two_processes(DIFFERENT, tmp_path):
        assert "1 tensors of process 1 differ from those of process 0 (head.weight)" in out, err


def test_one_process_has_nothing_to_compare():
    refuse_different([("weight", torch.tensor(float("nan")))])


COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def launched_with(monkeypatch, variables):
    for name in COMPLETE:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return launched_processes()


@pytest.mark.parametrize(
    "variables, processes",
    [
        ({}, 1),
        (COMPLETE, 2),
        ({"WORLD_SIZE": "1"}, 1),
        ({"WORLD_SIZE": "1", "RANK": "0"}, 1),
        ({"WORLD_SIZE": "", "LOCAL_RANK": "0", "MASTER_ADDR": "a-host"}, 1),
    ],
)
def test_how_many_were_launched(monkeypatch, variables, processes):
    assert launched_with(monkeypatch, variables) == processes


@pytest.mark.parametrize(
    "variables, complaint",
    [
        ({"RANK": "1"}, "variables are set: WORLD_SIZE missing"),
        ({"WORLD_SIZE": "2"}, "variables are set: RANK, MASTER_ADDR, MASTER_PORT missing"),
        ({**COMPLETE, "MASTER_ADDR": ""}, "variables are set: MASTER_ADDR missing"),
        ({**COMPLETE, "RANK": "2"}, "RANK must be from 0 to WORLD_SIZE - 1, but is 2 of 2"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "but is 1 of 1"),
        ({**COMPLETE, "RANK": "-1"}, "RANK must be a whole number, but is '-1'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number, but is '0'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, but is 'two'"),
        ({**COMPLETE, "MASTER_PORT": "http"}, "MASTER_PORT must be a whole number"),
    ],
)
def test_launch_variables_set_in_part_are_named(monkeypatch, variables, complaint):
    with pytest.raises(UserError, match=f"{complaint}.* Start with torchrun, or unset RANK"):
        launched_with(monkeypatch, variables)


@pytest.mark.parametrize("device", ["banana", "cuda:99", "cuda:x", "meta", "cpu:", "", "xla"])
def test_a_device_that_is_not_here_is_named(device):
    with pytest.raises(UserError, match="`--device` must be one that works here, such as cpu, but is"):
        check_device(device)
    check_device("cpu")


SUMS = """
import sys, torch, torch.distributed as dist
from s3prl_pruned.distributed import rank
from s3prl_pruned.pretrain.gradients import GradientSums
dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
weights = [torch.nn.Parameter(torch.tensor([float(i), 1.0])) for i in range(5)]
sums = GradientSums(weights, bucket_bytes=16)  # two of them
early = []
for used in ([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 4]):
    for weight in weights:
        weight.grad = None
    for micro_batch in (1.0, 2.0):  # the gradient of weight i is i + 1, times the micro-batch, times the process
        if micro_batch == 2.0:
            sums.watch()
        sum((i + 1.0) * weights[i].sum() * micro_batch * (rank() + 1) for i in used).backward()
    early.append(sums.finish())
    for i, weight in enumerate(weights):
        expected = [9.0 * (i + 1)] * 2 if i in used else None
        assert (None if weight.grad is None else weight.grad.tolist()) == expected, (used, i, weight.grad)
print(early)
dist.destroy_process_group()
"""


def test_gradients_are_summed_in_buckets_on_their_way_during_the_backward_pass(tmp_path):
    """In the first step nothing is expected; in the third, one does not come and another does unexpectedly."""
    for out, err in in_two_processes(SUMS, tmp_path):
        assert out.strip() == "[0, 2, 0, 2]", err
