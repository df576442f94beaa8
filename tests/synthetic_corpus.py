"""A corpus in LibriSpeech's layout for tests: synthetic noise, so that nothing recognised in it means anything."""

from pathlib import Path

import numpy as np
import soundfile

SPLITS = {"train-clean-100": 5, "dev-clean": 3, "test-clean": 3}
"""Utterances per split."""

SHORT_SETTINGS = ",,".join(
    [
        "config.runner.total_steps=4",
        "config.runner.save_step=2",
        "config.runner.eval_step=2",
        "config.runner.log_step=2",
        "config.downstream_expert.datarc.num_workers=0",
        "config.downstream_expert.datarc.batch_size=4",
        "config.downstream_expert.modelrc.project_dim=8",
        *(
            f"config.downstream_expert.modelrc.RNNs.{key}=[{value}]"
            for key, value in {
                "dim": 8,
                "dropout": 0.0,
                "layer_norm": "false",
                "proj": "false",
                "sample_rate": 1,
            }.items()
        ),
    ]
)
"""``-o`` for the benchmark's settings: a tiny model, four steps."""


def make_corpus(root: Path, splits: dict[str, int] = SPLITS, suffix: str = ".flac") -> Path:
    """Write ``<split>/<speaker>/<chapter>/`` with audio and transcripts; returns ``root``."""
    rng = np.random.default_rng(0)
    words = ["ONE", "TWO", "DON'T", "STOP"]
    for speaker, (split, count) in enumerate(splits.items(), start=1):
        folder = root / split / str(speaker) / "7"
        folder.mkdir(parents=True)
        lines = []
        for index in range(count):
            key = f"{speaker}-7-{index:04d}"
            wav = 0.1 * rng.standard_normal(8000 + 800 * index)
            soundfile.write(folder / f"{key}{suffix}", wav, 16000)
            lines.append(f"{key} {' '.join(words[: 1 + index % 4])}\n")
        (folder / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return root
