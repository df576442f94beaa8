"""Sweeps: their planned runs, tasks that wait for their model, and a second call that has nothing left to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.plan.jobs import levels
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.plan.sweep import Sweep, parse_recipes
from s3prl_pruned.superb.catalogue import find_task
from tests.tiny_run import TinyRecipe

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_per_recipe_rate_and_seed_in_a_folder_of_its_own():
    sweep = Sweep(
        recipes={"rows_s50": (0.3, 0.5), "heads_s25": (0.25,)},
        seeds=(1, 2),
        override="runner.total_steps=7",
        options=("--corpus", "C"),
    )
    jobs = sweep.jobs()
    names = {f"{run}-seed{seed}" for run in ("rows_s50-0.3", "rows_s50-0.5", "heads_s25-0.25") for seed in (1, 2)}
    assert {job.name for job in jobs} == names and len({job.done for job in jobs}) == 6
    (job,) = [job for job in jobs if job.name == "rows_s50-0.3-seed2"]
    assert job.command[1:] == (
        "run_pretrain.py",
        "-u",
        "wavlm_pruned_distill",
        "--recipe",
        "rows_s50",
        "-a",
        "-p",
        "result/sweep/rows_s50-0.3-seed2",
        "--seed",
        "2",
        "--corpus",
        "C",
        "-o",
        "runner.total_steps=7,,sparsity.target.share=0.3",
    )
    assert Sweep(recipes={"rows_s50": (0.5,)}).jobs()[0].name == "rows_s50-0.5"


def test_tasks_wait_for_their_own_model_only():
    beside = (ComparedModel("fbank", "fbank"),)
    sweep = Sweep(
        recipes={"rows_s50": (0.3, 0.5)},
        seeds=(1, 2),
        tasks=(find_task("asr"),),
        beside=beside,
        upstream="hubert_pruned_distill",
    )
    first, second = levels(sweep.jobs())
    assert {job.name for job in first} >= {"rows_s50-0.3-seed1", "fbank-seed1/asr"} and len(first) == 4 + 2
    assert {job.name: job.after for job in second}["rows_s50-0.5-seed2/asr"] == ("rows_s50-0.5-seed2",)
    (job,) = [job for job in second if job.name == "rows_s50-0.5-seed2/asr"]
    line = " ".join(job.command)
    assert "-u hubert_pruned_local -k result/sweep/rows_s50-0.5-seed2/export -d asr" in line and "--seed 2" in line


def test_rates_are_for_all_recipes_or_for_one():
    assert parse_recipes(["a=0.1,0.2", "b"], (0.5,)) == {"a": (0.1, 0.2), "b": (0.5,)}
    with pytest.raises(UserError, match="--recipe b: has no rate"):
        parse_recipes(["a=0.1", "b"], ())
    with pytest.raises(UserError, match="--recipe a: is given twice"):
        parse_recipes(["a=0.1", "a"], (0.5,))
    with pytest.raises(UserError, match="rates must be numbers .* but are '0.1;0.2'"):
        parse_recipes(["a=0.1;0.2"], ())
    with pytest.raises(UserError, match="no rate of a recipe twice"):
        Sweep(recipes={"a": (0.5, 0.5)}).jobs()
    with pytest.raises(UserError, match=r"a rate must be in \[0, 1\), but a has 80"):
        Sweep(recipes={"a": (80.0,)}).jobs()


def sweep(*arguments):
    line = [sys.executable, "tools/sweep.py", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=200)


def test_a_sweep_makes_its_models_skips_an_unreachable_rate_and_is_then_finished(tmp_path):
    tiny = TinyRecipe(tmp_path)
    arguments = [
        "--recipe",
        f"{tiny.recipe}=0.2,0.7",
        "--corpus",
        tiny.corpus,
        "--teacher",
        tiny.teacher,
        "--folder",
        tmp_path / "sweep",
        "-o",
        "compress.techniques=[rows],,compress.rounds=1,,runner.total_steps=1",
        "--",
        "--device",
        "cpu",
    ]
    first = sweep(*arguments)
    assert first.returncode == 2, first.stdout + first.stderr
    assert (
        "rows reach 0.0000 to 0.2941 on this encoder" in first.stderr and "1 of 2 jobs are not finished" in first.stderr
    )
    made = load_encoder(tmp_path / "sweep/tiny-0.2/export")[1]
    assert made["sparsity"]["realised"] == pytest.approx(0.2, abs=0.01)
    listed = sweep("--dry-run", *arguments)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["finished", "to"]
    scripts = sweep("--scheduler", "slurm", "--jobs-dir", tmp_path / "jobs", *arguments)
    assert scripts.returncode == 0 and len(list((tmp_path / "jobs").glob("0*-tiny-*.sh"))) == 2
