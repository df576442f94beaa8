"""English speech of many voices for pruning Whisper's encoder: windows of 30 s to train on, and a labelled test set.

    python -m benchmarks.whisper.corpus data/whisper

The voices are actors of the game "The Ur-Quan Masters" (Debian's package `uqm-voice`, CC BY-NC-SA 2.5, 11 kHz, with
effects on some voices), besides the embedded English prompts. `apt-get download` needs Debian's `non-free` among its
sources. The speech stays on your machine: neither it nor weights that were trained on it are part of this project.

    train/<voice>/<number>.flac      windows: a voice's recordings one after another, without a text
    test/<voice>/...                 other voices, in LibriSpeech's layout: recordings of 1 to 30 s with transcripts
"""

import argparse
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.embedded_teacher.whisper import WINDOW_SAMPLES
from benchmarks.embedded_teacher.windows import GAP_SAMPLES
from s3prl_pruned.command_line import command_line
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

PACKAGE = "uqm-voice"
TEST_VOICES = ("melnorme", "starbase", "syreen")
"""Voices of the test set: without strong effects, and with transcripts in the package."""
OTHERS = ("commander", "zoqfotpik")
"""Not used: the same person as `starbase`, and several voices in a folder."""
TEST_LINES = 40
"""Test utterances of a voice, evenly spread over its lines."""
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
"""Of a test utterance."""


def recordings_of(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """Paths of the recordings in the archive by voice, `.../<voice>/<voice>-<number>.ogg`, sorted."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(archive.namelist()):
        if name.endswith(".ogg"):
            found[name.split("/")[-2]].append(name)
    return dict(found)


def transcripts_of(archive: zipfile.ZipFile, voice: str) -> dict[str, str]:
    """Normalised text by path of the recording; without those in which a number leaves open how it is read.

    `<voice>/<voice>.txt` holds lines `#(TAG) file.ogg`, each with its text below it.

    Raises:
        UserError: the archive has no such list.
    """
    from s3prl_pruned.data.corpus import normalize_transcript

    names = set(archive.namelist())
    listing = next((name for name in names if name.endswith(f"/{voice}/{voice}.txt")), None)
    if listing is None:
        raise UserError(f"{archive.filename}: has no texts of the voice {voice!r}. Fetch {PACKAGE} again.")
    folder, text = listing.rpartition("/")[0], archive.read(listing).decode("utf-8", errors="replace")
    parts = re.split(r"^#\(.*?\)[ \t]*(\S*)[ \t]*$", text, flags=re.MULTILINE)[1:]
    texts = {f"{folder}/{file}": normalize_transcript(body) for file, body in zip(parts[::2], parts[1::2], strict=True)}
    return {name: text for name, text in texts.items() if text is not None and name in names}


def windows(recordings: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Join recordings (S,), each with a short silence after it, and cut the result into windows of 30 s.

    A rest that is shorter is dropped.
    """
    silence, parts, held = np.zeros(GAP_SAMPLES, dtype=np.int16), [], 0
    for recording in recordings:
        parts += [recording, silence]
        held += len(recording) + GAP_SAMPLES
        while held >= WINDOW_SAMPLES:
            joined = np.concatenate(parts)
            yield joined[:WINDOW_SAMPLES]
            parts, held = [joined[WINDOW_SAMPLES:]], held - WINDOW_SAMPLES


def make_corpus(folder: Path) -> dict[str, float]:
    """Fetch the package and write `train` and `test` below `folder`.

    Returns:
        Hours by set.

    Raises:
        UserError: the package cannot be fetched or read.
    """
    from benchmarks.speech.debian import fetch_package
    from benchmarks.speech.debian_speech import read_pcm
    from s3prl_pruned.data.corpus import embedded_corpus, read_split

    root = fetch_package(PACKAGE, folder / "packages").root
    found = sorted(root.rglob("*-voice.uqm"))
    if len(found) != 1:
        raise UserError(f"{root}: must hold one archive `*-voice.uqm`, but holds {len(found)}. Fetch {PACKAGE} again.")
    hours: dict[str, float] = defaultdict(float)
    with zipfile.ZipFile(found[0]) as archive:
        for voice, names in recordings_of(archive).items():
            if voice in TEST_VOICES:
                hours["test"] += _write_test(folder / "test" / voice / "1", archive, voice)
            elif voice not in OTHERS:
                hours["train"] += _write_windows(folder / "train" / voice, (_read(archive, name) for name in names))
    prompts = (read_pcm(utterance.path) for utterance in read_split(embedded_corpus(), "train"))
    hours["train"] += _write_windows(folder / "train" / "embedded", prompts)
    return dict(hours)


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """(S,) int16 at 16 kHz."""
    from s3prl_pruned.data.waveforms import resample

    wav, rate = soundfile.read(io.BytesIO(archive.read(name)), dtype="float32", always_2d=True)
    wav = resample(wav.mean(1), rate)
    return np.clip(np.round(wav * 32768), -32768, 32767).astype(np.int16)


def _write_windows(folder: Path, recordings: Iterable[np.ndarray]) -> float:
    from benchmarks.speech.debian_speech import write_flac

    count = 0
    for count, window in enumerate(windows(recordings), 1):
        write_flac(folder / f"{count:04d}.flac", window)
    return count * WINDOW_SAMPLES / SAMPLE_RATE / 3600


def _write_test(folder: Path, archive: zipfile.ZipFile, voice: str) -> float:
    from benchmarks.speech.debian_speech import write_flac
    from s3prl_pruned.data.batches import evenly

    fitting = []
    for name, text in sorted(transcripts_of(archive, voice).items()):
        wav = _read(archive, name)
        if SHORTEST_SECONDS <= len(wav) / SAMPLE_RATE <= LONGEST_SECONDS:
            fitting.append((wav, text))
    chosen = [fitting[i] for i in evenly(np.arange(len(fitting)), min(TEST_LINES, len(fitting)))]
    for number, (wav, _) in enumerate(chosen):
        write_flac(folder / f"{voice}-1-{number:04d}.flac", wav)
    lines = [f"{voice}-1-{number:04d} {text}\n" for number, (_, text) in enumerate(chosen)]
    (folder / f"{voice}-1.trans.txt").write_text("".join(lines), encoding="utf-8")
    return sum(len(wav) for wav, _ in chosen) / SAMPLE_RATE / 3600


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the package and the corpus go")
    args = parser.parse_args(argv)
    for name, hours in make_corpus(args.folder.resolve()).items():
        print(f"{hours:5.2f} h  {name}")


if __name__ == "__main__":
    command_line(main)
