"""Write a manifest once, so that no run has to scan hundreds of thousands of files before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import corpus_lengths
from s3prl_pruned.data.lengths import JOBS
from s3prl_pruned.data.sources import open_corpus, write_manifest
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.progress import progress


def prepare(
    source: str | Path,
    output: str | Path,
    *,
    splits: Sequence[str] | None = None,
    audio_root: str | Path | None = None,
    jobs: int = JOBS,
) -> tuple[int, float]:
    """Write the manifest of a corpus that `open_corpus` accepts; every audio file is checked.

    Args:
        source: as `--corpus`.
        output: the manifest, `.jsonl` or `.jsonl.gz`.
        splits: sub-folders or CSVs to use.
        audio_root: see `open_corpus`.
        jobs: number of threads.

    Returns:
        The number of utterances, and their hours.

    Raises:
        UserError: as `open_corpus`; or `output` has a wrong name or exists already.
    """
    output = Path(output)
    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"{output}: a manifest must be named *.jsonl or *.jsonl.gz.")
    if output.exists():
        raise UserError(f"{output}: exists already. Remove it, or give another name.")

    def bar(results: Iterable, total: int) -> Iterable:
        return progress(results, total=total, unit="file", mininterval=0.5)

    utterances = open_corpus(source, splits, audio_root=audio_root, look_at=0, jobs=jobs, progress=bar)
    write_manifest(output, utterances)
    return len(utterances), float(corpus_lengths(utterances).sum()) / SAMPLE_RATE / 3600
