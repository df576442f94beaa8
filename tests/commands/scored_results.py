"""Folders of results for the tests of the score command."""

import dataclasses

from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.results.result import RESULT_FILE, Result, Upstream, write_result

WANG = {
    "pr": [9.09], "asr": [10.61], "ks": [96.57], "qbe": [7.40], "sid": [74.56], "sv": [6.17], "sd": [6.11],
    "ic": [98.08], "sf": [87.14, 27.13], "er": [63.61],
}  # fmt: skip


def write(root, task, *, name="wavlm_pruned", **changes):
    """A result of the proposed model of Wang et al. 2023, with its published numbers."""
    metrics = [
        Value(name=metric.name, value=number, unit="percent") for metric, number in zip(TASKS[task].metrics, WANG[task])
    ]
    result = Result(
        task=task, split=TASKS[task].test_split, num_utterances=1, metrics=metrics, printed_by_s3prl=[],
        protocol="official", upstream=Upstream(name=name, sha256="ab" * 32),
    )  # fmt: skip
    folder = root / name / task
    folder.mkdir(parents=True)
    write_result(folder / RESULT_FILE, dataclasses.replace(result, **changes))


def shortened(root, name, percent):
    metrics = [Value(name=rate, value=value, unit="percent") for rate, value in zip(("wer", "cer"), percent)]
    write(root, "asr", name=name, metrics=metrics, protocol="shortened", upstream=Upstream(name=name))


HAND = """
- model: by hand
  params_millions: 30
  asr: {wer: {value: 10, unit: percent}}
  ks: {acc: {value: 0.965, unit: fraction}}
"""


def hand(tmp_path, text=HAND):
    path = tmp_path / "hand.yaml"
    path.write_text(text)
    return path
