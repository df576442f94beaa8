"""A manifest made once, so that no run has to look at hundreds of thousands of files before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import corpus_lengths
from s3prl_pruned.data.manifest import Utterance, refuse_missing_files, scan_corpus
from s3prl_pruned.data.sources import open_corpus, write_manifest
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.progress import progress


def prepare(
    source: str | Path,
    output: str | Path,
    *,
    splits: Sequence[str] | None = None,
    audio_root: str | Path | None = None,
    jobs: int = 16,
) -> tuple[int, float]:
    """Write the manifest of a corpus that `open_corpus` takes; every audio file is looked at.

    Args:
        source: what `--corpus` takes.
        output: the manifest, `.jsonl` or `.jsonl.gz`.
        splits: sub-folders or CSVs to take.
        audio_root: see `open_corpus`.
        jobs: threads.

    Returns:
        The number of utterances, and their hours.

    Raises:
        UserError: as `open_corpus`; or `output` is named wrongly or stands there already.
    """
    output = Path(output)
    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"{output}: a manifest must be named *.jsonl or *.jsonl.gz.")
    if output.exists():
        raise UserError(f"{output}: is there already. Remove it, or give another name.")
    if Path(source).is_dir() and not any(Path(source).glob("*.csv")) and not any(Path(source).glob("cuts.*.jsonl*")):

        def bar(results: Iterator[int | UserError], total: int) -> Iterable[int | UserError]:
            return progress(results, total=total, unit="file", mininterval=0.5)

        utterances: Sequence[Utterance] = scan_corpus(source, splits, jobs=jobs, progress=bar)
    else:
        utterances = open_corpus(source, splits, audio_root=audio_root)
        refuse_missing_files(utterances, where=str(source), look_at=0, jobs=jobs)
    write_manifest(output, utterances)
    return len(utterances), float(corpus_lengths(utterances).sum()) / SAMPLE_RATE / 3600
