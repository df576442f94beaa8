"""Mixtures with segments: folders in Kaldi's format, and cropped batches with the activity of speakers in frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import RandomCropBatches
from s3prl_pruned.data.lengths import late_bar, lengths_of
from s3prl_pruned.data.manifest import OPTION, Utterance, speech_digest
from s3prl_pruned.data.text import read_lines
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.objectives.diarization import frame_labels
from s3prl_pruned.pretrain.sd.config import SdDataConfig

MixtureBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""wavs (B, S) float32, lengths (B,) int64, all S, and activity of speakers (B, T, speakers) float32, 0 or 1."""


@dataclass(frozen=True)
class Mixture:
    """A recording, and who speaks when."""

    utterance: Utterance
    segments: tuple[tuple[int, float, float], ...]
    """Speaker (from 0, in the order of their names), start and end in seconds."""


def read_corpus(datarc: SdDataConfig, *, num_speakers: int) -> tuple[list[Mixture], list[Mixture]]:
    """Training and dev recordings that a configuration names.

    Args:
        datarc: names the folders.
        num_speakers: largest number of speakers in a recording.

    Raises:
        UserError: no corpus is set, a folder is not in Kaldi's format, or as in `read_set`.
    """
    if datarc.corpus is None:
        raise UserError(
            "diarisation needs recordings of several speakers with segments, but no corpus is set. Add --corpus "
            "/data/Libri2Mix/data, which holds train and dev in Kaldi's format. benchmarks/mini_superb makes one."
        )
    root = Path(datarc.corpus)
    training, dev = (
        [mixture for name in sets or () for mixture in read_set(root, name, num_speakers=num_speakers)]
        for sets in (datarc.sets, datarc.dev_sets)
    )
    return training, dev


def read_set(root: Path, name: str, *, num_speakers: int) -> list[Mixture]:
    """The recordings of a folder in Kaldi's format, ordered by their ids.

    Args:
        root: the corpus.
        name: the folder below it.
        num_speakers: largest number of speakers in a recording.

    Raises:
        UserError: a file is missing or damaged, a recording is read from a command or has no segments or too many
            speakers, or audio cannot be read.
    """
    folder = root / name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder. The corpus must hold it, in Kaldi's format; other folders are chosen by "
            f"{OPTION.partition(';')[0]}."
        )
    wavs = {recording: path for _, (recording, path) in _fields(folder / "wav.scp", 2)}
    speakers = {utterance: speaker for _, (utterance, speaker) in _fields(folder / "utt2spk", 2)}
    found: dict[str, list[tuple[str, float, float]]] = {recording: [] for recording in wavs}
    for number, (utterance, recording, *times) in _fields(folder / "segments", 4):
        where = f"{folder / 'segments'}: line {number}"
        if recording not in wavs or utterance not in speakers:
            raise UserError(
                f"{where}: every segment's recording must be in wav.scp and its utterance in utt2spk, but "
                f"{recording!r}, {utterance!r} are not. Copy the folder again."
            )
        found[recording].append((speakers[utterance], *_interval(times, where)))
    paths = {recording: _audio(folder, path, recording) for recording, path in wavs.items()}
    ids = sorted(paths)
    lengths = lengths_of([paths[recording] for recording in ids], root=root, progress=late_bar)
    mixtures = []
    for recording, length in zip(ids, lengths, strict=True):
        if isinstance(length, UserError):
            raise length
        names = sorted({speaker for speaker, _, _ in found[recording]})
        if not 1 <= len(names) <= num_speakers:
            raise UserError(
                f"{folder}: every recording must have 1 to {num_speakers} speakers (`head.num_speakers`), but "
                f"{recording} has {len(names)}."
            )
        segments = tuple((names.index(speaker), start, end) for speaker, start, end in found[recording])
        mixtures.append(Mixture(Utterance(f"{name}/{recording}", paths[recording], length), segments))
    return mixtures


def mixture_digest(*parts: Sequence[Mixture]) -> str:
    """`speech_digest` over training and dev recordings, with their segments."""
    items = [item for part in parts for item in part]
    return speech_digest([item.utterance for item in items], texts=[str(item.segments) for item in items])


class MixtureBatches(RandomCropBatches):
    """Endless training batches of cropped recordings; `batch(index)` does not depend on earlier batches.

    Args:
        mixtures: result of `read_set`.
        config: the encoder's, for the number of frames and whether waveforms are normalised.
        datarc: batch sizes and lengths.
        num_speakers: columns of the activity.
        seed: an integer, 0 or more.
    """

    def __init__(
        self, mixtures: Sequence[Mixture], config: EncoderConfig, datarc: SdDataConfig, *, num_speakers: int, seed: int
    ):
        self._segments = {item.utterance.id: item.segments for item in mixtures}
        self._config, self._num_speakers = config, num_speakers
        super().__init__(
            [item.utterance for item in mixtures],
            batch_size=datarc.train_batch_size,
            max_seconds=datarc.max_seconds,
            min_seconds=datarc.min_seconds,
            max_batch_seconds=datarc.max_batch_seconds,
            crop_lengths=datarc.crop_lengths,
            seed=seed,
            normalize=config.normalize_waveform,
        )

    def batch(  # type: ignore[override]  # with activity, where the base has none
        self, index: int, part: int = 0, parts: int = 1
    ) -> MixtureBatch:
        """Batch number `index` (0, 1, ...) of the whole run, or a part of it: `MixtureBatch`.

        Raises:
            UserError: as in `RandomCropBatches.batch`.
        """
        wavs, lengths, crops = self._cropped(index, part, parts)
        labels = [self.labels(self._segments[utterance.id], start, wavs.shape[1]) for utterance, start in crops]
        return wavs, lengths, torch.stack(labels)

    def labels(self, segments: Sequence[tuple[int, float, float]], start: int, num_samples: int) -> torch.Tensor:
        """Activity (T, speakers) in a crop of `num_samples` samples from sample `start` on."""
        return frame_labels(
            segments,
            start=start,
            num_frames=int(self._config.num_frames(num_samples)),
            hop_samples=self._config.hop_samples,
            num_speakers=self._num_speakers,
        )


def _fields(path: Path, count: int) -> list[tuple[int, list[str]]]:
    """The lines of a list in Kaldi's format with their numbers; the last field may hold spaces."""
    found = [(number, line.split(maxsplit=count - 1)) for number, line in read_lines(path)]
    for number, fields in found:
        if len(fields) != count:
            raise UserError(f"{path}: line {number} must have {count} fields, but has {len(fields)}. Copy it again.")
    return [(number, [field.strip() for field in fields]) for number, fields in found]


def _interval(times: list[str], where: str) -> tuple[float, float]:
    try:
        start, end = map(float, times)
    except ValueError as error:
        raise UserError(f"{where}: start and end must be numbers, but are {times}. Copy it again.") from error
    if not 0 <= start <= end < math.inf:
        raise UserError(f"{where}: must have 0 <= start <= end in seconds, but has {start} and {end}.")
    return start, end


def _audio(folder: Path, path: str, recording: str) -> Path:
    if path.endswith("|") or path == "-":
        raise UserError(
            f"{folder / 'wav.scp'}: recordings must be files, but {recording} is read from a command. Write a file."
        )
    return folder / path
