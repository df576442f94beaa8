"""Run directories written by s3prl's own code: the methods of its experts that write them are taken from its installed
source and called alone, so that no corpus, model or optional package of a task is needed."""

import ast
import importlib.util
import math
import os
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml


def method_of(downstream, name, **names):
    """A method of one of s3prl's experts, compiled from its source alone.

    Args:
        names: other names of its module that the method uses.
    """
    path = Path(importlib.util.find_spec("s3prl").submodule_search_locations[0]) / f"downstream/{downstream}/expert.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (node,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    space = {"Path": Path, "os": os, "torch": torch, "np": np, "math": math, **names}
    exec(compile(ast.Module(body=[node], type_ignores=[]), str(path), "exec"), space)
    return space[name]


def log_records(downstream, folder, split, records, *, step=0, capture=os.devnull, names=None, **attributes):
    """Make s3prl's expert log one evaluation into a folder.

    Args:
        capture: a file in the folder, to which the expert's output is appended.
        names, attributes: the expert's module's names and the expert's attributes that the method uses.

    Returns:
        The expert, whose ``best_score`` s3prl keeps from one evaluation to the next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expert = SimpleNamespace(**{"expdir": str(folder), "best_score": torch.zeros(1), **attributes})
    logger = SimpleNamespace(add_scalar=lambda *args, **kwargs: None)
    write = method_of(downstream, "log_records", **(names or {}))
    with (folder / capture).open("a") as file, redirect_stdout(file):
        write(expert, split, records=records, logger=logger, global_step=step, batch_ids=[], total_batch_num=1)
    return expert


def classify(downstream, folder, history, **attributes):
    """Train KS, SID, IC or ER: ``history`` holds (step, accuracy on dev, accuracy on test) of five utterances each."""
    best = torch.zeros(1)
    for step, *accuracies in history:
        for split, accuracy in zip(("dev", "test"), accuracies):
            records = _classified(downstream, accuracy)
            best = log_records(downstream, folder, split, records, step=step, best_score=best, **attributes).best_score
    return folder


def evaluate_again(downstream, folder, accuracy, checkpoint="dev-best.ckpt", **attributes):
    """``-m evaluate -e <checkpoint>``: logged as step 0, and written to another ``args_*.yaml``."""
    started(folder, "2024-02-01-00-00-00", downstream=downstream, mode="evaluate", init_ckpt=f"result/{checkpoint}")
    log_records(downstream, folder, "test", _classified(downstream, accuracy), **attributes)


def _classified(downstream, accuracy):
    labels = [("on", "light", "none")] * 5 if downstream == "fluent_commands" else ["x"] * 5
    records = defaultdict(lambda: labels)
    hits = round(5 * accuracy)
    records.update(acc=[1.0] * hits + [0.0] * (5 - hits), loss=[1.0], intent_loss=[1.0])
    return records


def transcribe(folder, hypotheses, references, metrics, *, capture="out.txt"):
    """Evaluate PR or SF on test."""
    metric = importlib.import_module("s3prl.downstream.ctc.metric")
    records = {
        "hypothesis": hypotheses,
        "groundtruth": references,
        "filename": [f"u{i}" for i in range(len(hypotheses))],
    }
    log_records(
        "ctc", folder, "test", {**records, "loss": [1.0]}, capture=capture, names=vars(metric), metrics=metrics,
        metric_higher_better=True, save_best_on=["dev"], _get_task_name=lambda: "ctc",
    )  # fmt: skip
    return folder


def recognise(folder, hypotheses, references, *, capture="out.txt"):
    """Evaluate ASR on test-clean, without a language model."""
    import editdistance

    compute = method_of("asr", "_compute_metrics", editdistance=editdistance)
    records = {
        "loss": [1.0], "filenames": [f"u{i}" for i in range(len(hypotheses))],
        "pred_words": [text.split() for text in hypotheses], "target_words": [text.split() for text in references],
        "pred_tokens": [" ".join(text) for text in hypotheses],
        "target_tokens": [" ".join(text) for text in references],
    }  # fmt: skip
    log_records(
        "asr",
        folder,
        "test-clean",
        records,
        capture=capture,
        decoder=None,
        _compute_metrics=lambda *args: compute(None, *args),
    )
    return folder


def verify(folder, scores, labels, eer, *, capture="log.txt"):
    """Evaluate SV on trials of these cosine scores."""
    pairs = [(label, f"id1/v{i}/0.wav", f"id2/v{i}/1.wav") for i, label in enumerate(labels)]
    records = defaultdict(list)
    for (_, first, second), score in zip(pairs, scores):
        records[first] = torch.tensor([1.0, 0.0])
        records[second] = torch.tensor([score, math.sqrt(1 - score**2)])
    log_records(
        "sv_voxceleb1", folder, "test", records, capture=capture, eval_metric=eer,
        test_dataset=SimpleNamespace(pair_table=pairs), score_fn=torch.nn.CosineSimilarity(dim=-1),
    )  # fmt: skip
    return folder


def started(folder, date="2024-01-01-00-00-00", *, config=None, **args):
    """``args_*.yaml`` and ``config_*.yaml``, which s3prl's ``run_downstream.py`` writes at each start."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (("args", args), ("config", config or {})):
        (folder / f"{name}_{date}.yaml").write_text(yaml.dump(data))
    return folder
