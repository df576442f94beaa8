"""MINI-SUPERB from fake sources for the tests of drivers: the official layouts within seconds.

The audio is synthetic, so no number means anything.
"""

from pathlib import Path

from benchmarks.mini_superb.build import PATHS, make_mini_superb
from tests.mini_superb_sources import FakeSources

STEPS = "total_steps=2 save_step=1 eval_step=1 log_step=1 gradient_accumulate_steps=1"


def make_corpora(folder: Path, *tasks: str) -> dict[str, Path]:
    """The corpora of some tasks below ``folder``, by task, for ``--corpus``."""
    make_mini_superb(folder / "mini", tasks=tasks, tiny=True, sources=FakeSources(folder / "sources"))
    return {task: folder / "mini" / PATHS[task] for task in tasks}


def settings(**expert) -> str:
    """``-o`` for two steps; ``corpus__batch_size=2`` sets ``downstream_expert.corpus.batch_size``."""
    found = [f"config.runner.{step}" for step in STEPS.split()]
    found += [f"config.downstream_expert.{key.replace('__', '.')}={value}" for key, value in expert.items()]
    return ",,".join(found)
