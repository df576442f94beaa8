"""Targets on disk: speech packed into windows of 30 s, with Whisper's states of each, computed once.

Whisper is trained on windows of 30 s, so short utterances of one source are concatenated with a short silence between
them. A window is one safetensors file: `audio` (480000,) int16 and `states` (1500, 3 W) float16, the concatenated
outputs of Whisper's blocks 2 and 3 and its final norm. Its name holds a hash of its content, so that an interrupted run
can resume and a changed corpus is never mistaken for the old one.
"""

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.embedded_teacher.whisper import WINDOW_FRAMES, WINDOW_SAMPLES, WhisperEncoder, log_mel
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE, read_waveform, resample

logger = logging.getLogger(__name__)

GAP_SAMPLES = round(0.3 * SAMPLE_RATE)
"""Samples of silence before, between and after the utterances of a window."""

TARGET_BLOCKS = (2, 3, 4)
"""Blocks of tiny.en's four; the last is taken after the final norm."""

ENGLISH_SPEEDS = (1.0, 0.9, 1.1)
"""English is used at three speeds (resampled, so that pitch and formants change too): the corpus has little of it."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of one recording in a window."""

    path: str
    """Path below the corpus folder."""
    speed: float
    start: int
    """First sample of the recording (at its new speed)."""
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window of at most thirty seconds."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def is_english(self) -> bool:
        """Whether the language in the name is English (`package.language.speed.number.hash`)."""
        return self.name.split(".")[1].startswith("en")

    @property
    def num_frames(self) -> int:
        """Whisper frames (20 ms) up to the end of the speech and its gap."""
        samples = sum(piece.num_samples + GAP_SAMPLES for piece in self.pieces) + GAP_SAMPLES
        return min(samples, WINDOW_SAMPLES) // 320


def read_manifest(path: Path) -> list[dict]:
    """The lines of `manifest.jsonl` (`path`, `seconds`, `language`, `source`, `licence`)."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not entries:
        raise UserError(f"{path}: must list recordings, but is empty. Fetch the training speech first.")
    return entries


def plan_windows(entries: list[dict]) -> list[Window]:
    """Pack the recordings of each source and language, in the manifest's order, into windows.

    Args:
        entries: dicts with `path`, `seconds`, `source` and `language`.
    """
    groups: dict[str, list[dict]] = defaultdict(list)
    for entry in entries:
        groups[f"{entry['source'].split()[0]}.{entry['language']}"].append(entry)
    windows = []
    for group, members in groups.items():
        for speed in ENGLISH_SPEEDS if group.partition(".")[2].startswith("en") else (1.0,):
            for number, pieces in enumerate(_pack(members, speed)):
                digest = hashlib.sha256(repr(pieces).encode()).hexdigest()[:10]
                windows.append(Window(name=f"{group}.{speed}.{number:04d}.{digest}", pieces=tuple(pieces)))
    return windows


def _pack(entries: list[dict], speed: float) -> Iterator[list[Piece]]:
    pieces, used, room = [], GAP_SAMPLES, WINDOW_SAMPLES - 2 * GAP_SAMPLES
    for entry in entries:
        # one sample less, since the manifest rounds to milliseconds
        total = int((entry["seconds"] - 0.001) * SAMPLE_RATE / speed)
        for start in range(0, total, room):
            length = min(room, total - start)
            if used + length + GAP_SAMPLES > WINDOW_SAMPLES:
                yield pieces
                pieces, used = [], GAP_SAMPLES
            pieces.append(Piece(path=entry["path"], speed=speed, start=start, num_samples=length))
            used += length + GAP_SAMPLES
    if pieces:
        yield pieces


def read_window(window: Window, corpus: Path) -> Tensor:
    """The window's audio: (480000,) float32."""
    audio, position = torch.zeros(WINDOW_SAMPLES), GAP_SAMPLES
    for piece in window.pieces:
        wav = read_waveform(corpus / piece.path)
        if piece.speed != 1:
            wav = torch.from_numpy(resample(wav.numpy(), round(SAMPLE_RATE * piece.speed)))
        wav = wav[piece.start : piece.start + piece.num_samples]
        audio[position : position + len(wav)] = wav
        position += piece.num_samples + GAP_SAMPLES
    return audio


@torch.no_grad()
def cache_windows(windows: list[Window], corpus: Path, cache: Path, whisper: WhisperEncoder, *, bf16: bool) -> None:
    """Compute the windows that `cache` lacks.

    Args:
        windows: windows to compute.
        corpus: folder of the recordings.
        cache: folder of the window files.
        whisper: computes the targets.
        bf16: compute the states in bfloat16 (tiny.en's then differ by about 1.4 % of their spread).
    """
    cache.mkdir(parents=True, exist_ok=True)
    missing = [window for window in windows if not (cache / f"{window.name}.safetensors").exists()]
    for done, window in enumerate(missing):
        audio = (read_window(window, corpus) * 32767).round().clamp(-32768, 32767).to(torch.int16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            states = whisper(log_mel(audio[None] / 32767))
        chosen = torch.cat([states[block].float() for block in TARGET_BLOCKS], dim=-1)[0]  # (1500, 3 W)
        partial = cache / f".{window.name}.tmp"
        save_file({"audio": audio, "states": chosen.half()}, partial)
        os.replace(partial, cache / f"{window.name}.safetensors")
        if done % 50 == 0:
            logger.info("targets: %d of %d windows computed.", done, len(missing))


@dataclass(kw_only=True)
class TargetStatistics:
    """Statistics to standardise the targets; the part that depends only on the place in the window is removed too.

    Whisper adds sinusoids of the absolute position, which a student that sees a crop cannot know. In block 2 their
    variance is fifteen times that of all else, in block 3 four times, after the final norm three quarters.
    """

    mean: Tensor
    """(1500, 3 W), one mean for each place in the window."""
    std: Tensor
    """(3 W,), standard deviation of the rest."""

    @classmethod
    def of(cls, windows: list[Window], cache: Path) -> "TargetStatistics":
        """Compute the statistics over all speech frames of `windows`."""
        shape = load_crop(cache, windows[0].name, 0, WINDOW_FRAMES)[1].shape
        total, square, count = torch.zeros(shape), torch.zeros(shape[1]), torch.zeros(WINDOW_FRAMES, 1)
        for window in windows:
            states = load_crop(cache, window.name, 0, window.num_frames)[1]
            total[: window.num_frames] += states
            square += states.square().sum(0)
            count[: window.num_frames] += 1
        mean = total / count.clamp(min=1)
        variance = (square - (count * mean.square()).sum(0)) / count.sum()
        return cls(mean=mean, std=variance.clamp(min=1e-6).sqrt())


def load_crop(cache: Path, name: str, frame: int, num_frames: int) -> tuple[Tensor, Tensor]:
    """Whisper frames `frame` to `frame + num_frames` of a window and the samples under them.

    Whisper's frame t is centred on sample 320 t of the window. Frame t of wav2vec 2.0's convolutions covers samples
    320 t to 320 t + 399 of its input, so the samples from 320 `frame` - 200 on give frames with the same centres (200
    against 199.5).

    Returns:
        audio (320 (num_frames - 1) + 400,) float32, zero before the window's first and after its last sample, and
        states (num_frames, 3 W) float32.
    """
    start, stop = 320 * frame - 200, 320 * (frame + num_frames - 1) + 200
    with safe_open(cache / f"{name}.safetensors", framework="pt") as file:
        audio = file.get_slice("audio")[max(start, 0) : min(stop, WINDOW_SAMPLES)]
        states = file.get_slice("states")[frame : frame + num_frames]
    padding = (max(0, -start), max(0, stop - WINDOW_SAMPLES))
    return torch.nn.functional.pad(audio.float() / 32767, padding), states.float()
