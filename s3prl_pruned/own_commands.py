"""Our commands, and the two ways to call them: the clone's scripts, or `s3prl-pruned` of an installation.

Texts name the scripts (`python run_pretrain.py`). If the user called `s3prl-pruned`, or there is no clone, helps and
errors name its commands instead (`as_typed`).
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from s3prl_pruned.resources import PACKAGE

CONSOLE = "s3prl-pruned"
"""The console command's name."""


@dataclass(frozen=True)
class OwnCommand:
    """A command."""

    script: str
    """In the clone, from its root."""
    summary: str
    """What it does; the first line of its help."""


COMMANDS = {
    "pretrain": OwnCommand(
        "run_pretrain.py", "Prune a speech encoder, by distillation or while it is fine-tuned for ASR"
    ),
    "downstream": OwnCommand("run_downstream.py", "Train a SUPERB task on an upstream's features, and evaluate it"),
    "score": OwnCommand("tools/superb_score.py", "Print the metrics and the SUPERB score of results in one table"),
    "suite": OwnCommand("tools/superb_suite.py", "Run SUPERB tasks for one or more upstreams, and print the scores"),
    "sweep": OwnCommand(
        "tools/sweep.py", "Prune by several recipes at several sparsities, and run tasks on the results"
    ),
    "timing": OwnCommand("tools/timing.py", "Measure the inference time of models side by side"),
    "tradeoff": OwnCommand("tools/tradeoff.py", "Report quality against cost of exported models, with figures"),
    "export": OwnCommand("tools/export.py", "Export a model as a folder, for Hugging Face transformers, or as ONNX"),
    "convert": OwnCommand("tools/convert_checkpoint.py", "Convert a checkpoint from one format to another"),
    "extract": OwnCommand("tools/extract_features.py", "Write the hidden states of all audio files in a folder"),
    "prepare": OwnCommand(
        "tools/prepare_data.py", "Write the manifest of a corpus, so that pretraining starts at once"
    ),
    "quickstart": OwnCommand("tools/quickstart.py", "Prune, evaluate and score on the embedded speech, in minutes"),
}
"""By name; `s3prl_pruned.commands` has a module of each name."""

_NAMES = {command.script: name for name, command in COMMANDS.items()}
_SCRIPT = re.compile(rf"(?<![\w./-])(?:python )?({'|'.join(map(re.escape, _NAMES))})(?!\w)")


def by_console() -> bool:
    """Whether the user calls `s3prl-pruned`: this process was called by it, or there is no clone."""
    return Path(sys.argv[0]).stem == CONSOLE or not (PACKAGE.parent / COMMANDS["score"].script).is_file()


def call(name: str) -> tuple[str, ...]:
    """The start of a command, for a process of ours; its options follow. Scripts are called from the clone's root."""
    return (sys.executable, *(("-m", "s3prl_pruned.commands", name) if by_console() else (COMMANDS[name].script,)))


def as_typed(text: str) -> str:
    """A text that names scripts of the clone, changed to the commands that the user can type."""
    return _SCRIPT.sub(lambda found: f"{CONSOLE} {_NAMES[found[1]]}", text) if by_console() else text


def typed(name: str, *options: str) -> str:
    """A command as the user types it."""
    return as_typed(shlex.join(["python", COMMANDS[name].script, *options]))


def option_of(words: Sequence[str], name: str) -> str | None:
    """The value of an option in the words of a command line, such as `--device cpu`; None if it is not there."""
    return next((value for word, value in pairwise(words) if word == name), None)
