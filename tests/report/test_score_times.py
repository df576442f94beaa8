"""Matching rows of a timing document with scored models."""

import dataclasses

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.report.score_times import measured_on, with_times
from s3prl_pruned.superb.score.scored_models import published_models

DOCUMENT = {"device": "cpu", "threads": 2, "dtype": "float32", "machine": "a machine", "date": "2026-01-02T03:04"}


def row(name, seconds, **changes):
    made = {
        "name": name,
        "length_s": 5.0,
        "batch": 1,
        "tf32": False,
        "noisy": False,
        "seconds": seconds,
        "macs": 10**10,
    }
    return {**made, "weights": "random, seed 0", **changes}


def measured(name, sha256):
    (made,) = [model for model in published_models() if model.name == "STaRHuBERT-L"]
    return dataclasses.replace(
        made, name=name, kind="measured", sha256=sha256, structure=None, costs=type(made.costs)()
    )


def seconds(models, *rows):
    filled, _ = with_times(models, {**DOCUMENT, "results": rows}, "t.json")
    return {model.name: model.costs.seconds for model in filled if model.costs.seconds is not None}


def test_published_models_are_found_by_their_structure():
    rows = [row("ours:dense", 0.4), row("ours:hubert_base", 0.5), row("peer:distilhubert", 0.2), row("ours:even", 0.1)]
    found = seconds(published_models(), *rows, row("peer:maskhubert+int8", 0.05))
    assert found == {"WavLM Base": 0.4, "HuBERT Base": 0.5, "DistilHuBERT": 0.2}


def test_measured_models_are_found_by_the_hash_of_their_weights_or_by_name():
    models = [measured("mine", "ab" * 32), measured("other", "cd" * 32), measured("third", None)]
    rows = [
        row("export+int8", 0.1, weights="sha256 " + "ab" * 6),
        row("export", 0.2, weights="sha256 " + "ab" * 6),
        row("third", 0.3),
    ]
    assert seconds(models, *rows) == {"mine": 0.2, "third": 0.3}


def test_only_one_utterance_of_5_s_counts():
    models = published_models()
    rows = [row("ours:dense", 9.0, length_s=1.0), row("ours:dense", 9.0, batch=4), row("ours:dense", 9.0, tf32=True)]
    assert seconds(models, *rows, row("ours:dense", 0.4)) == {"WavLM Base": 0.4}
    with pytest.raises(UserError, match="t.json: must have times of 5 s"):
        seconds(models, *rows)
    assert measured_on(DOCUMENT) == "a machine, 2 threads, float32, 2026-01-02"
    assert all(model.costs.seconds is None for model in models)  # published models are not changed
