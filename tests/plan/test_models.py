"""The models of a plan: fixed once while planning, so that all its jobs use the same."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import model_hash, save_encoder
from s3prl_pruned.models.dummies import random_encoder, tiny_base
from s3prl_pruned.plan import models
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.plan.suite import Suite, parse_tasks, settled, task_jobs
from s3prl_pruned.plan.sweep import Sweep
from s3prl_pruned.superb.results.result import Upstream

RUNS = Path("result/pretrain/wavlm_pruned_distill")


def export(run, seed, *, finished=0.0):
    """A finished export with the weights of a seed."""
    folder = run / "export"
    save_encoder(folder, random_encoder(tiny_base(), seed=seed), {"teacher_note": None})
    os.utime(folder / "config.json", (finished, finished))
    return folder


def suite(*models, seeds=(1,), tasks="asr,ks"):
    return Suite(models=tuple(map(ComparedModel.parse, models)), tasks=parse_tasks(tasks), seeds=seeds)


def option(command, name):
    return command[command.index(name) + 1] if name in command else None


@pytest.mark.parametrize(
    "text, model",
    [
        ("fbank", ComparedModel("fbank", "fbank")),
        ("random=wavlm_random", ComparedModel("random", "wavlm_random")),
        ("pruned=wavlm_pruned_local:a/seed{seed}:x", ComparedModel("pruned", "wavlm_pruned_local", "a/seed{seed}:x")),
    ],
)
def test_a_models_name_is_parsed(text, model):
    assert ComparedModel.parse(text) == model


def test_the_newest_export_is_named_once_and_a_later_one_changes_nothing(folder):
    first = export(RUNS / "a", 1)
    jobs = task_jobs(suite("wavlm_pruned", "fbank"), {})
    export(RUNS / "b", 2, finished=1e9)  # another run ends while the suite is running
    pruned = [job.command for job in jobs if job.name.startswith("wavlm_pruned")]
    assert len(pruned) == 2 and {option(command, "-u") for command in pruned} == {"wavlm_pruned"}
    assert {option(command, "-k") for command in pruned} == {str(first)}
    assert {option(command, "--upstream-sha256") for command in pruned} == {model_hash(first)}
    assert not any("--upstream-sha256" in job.command for job in jobs if job.name.startswith("fbank"))
    with pytest.raises(UserError, match="hubert_pruned_distill: holds no finished export"):
        settled(suite("hubert_pruned"))


def test_a_named_checkpoint_is_passed_with_its_hash_for_each_seed(folder):
    exports = {seed: export(Path(f"seed{seed}"), seed) for seed in (1, 2)}
    asked = suite("pruned=wavlm_pruned_local:seed{seed}/export", seeds=(1, 2, 3), tasks="asr")
    commands = [job.command for job in task_jobs(asked, {})]
    hashes = [option(command, "--upstream-sha256") for command in commands]
    assert hashes == [model_hash(exports[1]), model_hash(exports[2]), None]  # the third does not exist yet


def test_a_model_is_built_for_the_plan_with_the_options_of_its_calls(folder, monkeypatch):
    export(Path("a"), 1)
    built = []
    monkeypatch.setattr(models, "describe_upstream", lambda args: built.append(args) or Upstream(name=args.upstream))
    settled(replace(suite("a=wavlm_pruned_local:a/export"), options=("--device", "cpu", "-g", "shape.yaml")))
    assert [(args.upstream_ckpt, args.upstream_model_config) for args in built] == [("a/export", "shape.yaml")]


def test_a_model_that_the_plan_itself_makes_is_not_compared_with_an_existing_one(folder):
    sweep = Sweep(recipes={"embedded": (0.5,)}, folder=Path("sweep"), tasks=parse_tasks("asr"))
    export(Path("sweep/embedded-0.5"), 1)
    (_, task) = sweep.jobs()
    assert option(task.command, "-k") == "sweep/embedded-0.5/export" and "--upstream-sha256" not in task.command


def test_a_job_refuses_a_model_that_has_changed_since_it_was_planned(folder, monkeypatch):
    from s3prl_pruned.superb.running import run

    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    path = export(RUNS / "a", 1)
    (job,) = task_jobs(suite("wavlm_pruned", tasks="asr"), {})
    shutil.rmtree(path)
    export(RUNS / "a", 2)
    typed = [*job.command[job.command.index("-u") :], "--device", "cpu"]
    with pytest.raises(UserError, match=r"a/export: must be the model \w{12} .--upstream-sha256., but is \w{12}"):
        run.main(typed)
    assert not Path("results").exists()
