"""Corpora in the official layouts of SUPERB's tasks, for tests.

They are synthetic noise, so no number measured on them means anything.
"""

import csv
from pathlib import Path

import numpy as np
import soundfile

KEYWORDS = "yes no up down left right on off stop go".split()
DEV_SPEAKER, TRAIN_SPEAKER, DISCARDED_SPEAKER = "9e4d6e3c", "d82c07cd", "c2094cac"
"""Speakers whose utterances are in these splits by the hash of the speaker's name (Speech Commands' README)."""

UTTERANCE_LEVEL = {
    "config.runner.total_steps": 4,
    "config.runner.save_step": 2,
    "config.runner.eval_step": 2,
    "config.runner.log_step": 2,
    "config.runner.gradient_accumulate_steps": 1,
    "config.downstream_expert.datarc.num_workers": 0,
    "config.downstream_expert.modelrc.projector_dim": 8,
}


def tiny(**more) -> str:
    """``-o`` for a tiny model and four steps of a classification task; ``batch_size=2`` sets a datarc key."""
    settings = UTTERANCE_LEVEL | {f"config.downstream_expert.datarc.{key}": value for key, value in more.items()}
    return ",,".join(f"{key}={value}" for key, value in settings.items())


def write_noise(path: Path, rng: np.random.Generator, *, seconds: float = 0.3, sample_rate: int = 16000) -> None:
    """Write a file of white noise; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * sample_rate)), sample_rate, subtype="PCM_16")


def make_speech_commands(root: Path) -> Path:
    """Both archives of Speech Commands v0.01: 12 words of each of three speakers, noise, and 12 test files."""
    rng = np.random.default_rng(1)
    train, test = root / "speech_commands_v0.01", root / "speech_commands_test_set_v0.01"
    for word in [*KEYWORDS, "bed", "cat"]:
        for speaker in (DEV_SPEAKER, TRAIN_SPEAKER, DISCARDED_SPEAKER):
            write_noise(train / word / f"{speaker}_nohash_0.wav", rng)
    write_noise(train / "_background_noise_" / "pink_noise.wav", rng, seconds=1.5)
    for word in [*KEYWORDS, "_unknown_", "_silence_"]:
        write_noise(test / word / f"{TRAIN_SPEAKER}_nohash_1.wav", rng)
    return root


def make_voxceleb1(root: Path) -> Path:
    """Three speakers in ``dev/wav`` and one in ``test/wav``, with VoxCeleb1's list for identification."""
    rng = np.random.default_rng(2)
    lines = []
    for speaker, top in ((10001, "dev"), (10002, "dev"), (11251, "dev"), (10270, "test")):
        for video, split in (("aaaaaaaaaaa", 1), ("bbbbbbbbbbb", 2), ("ccccccccccc", 3)):
            name = f"id{speaker}/{video}/00001.wav"
            write_noise(root / top / "wav" / name, rng)
            lines.append(f"{split} {name}\n")
    (root / "iden_split.txt").write_text("".join(lines))
    return root


def make_fluent_commands(root: Path, *, seed: int = 3) -> Path:
    """Fluent Speech Commands: the three lists and the audio of two speakers."""
    rng = np.random.default_rng(seed)
    intents = [("activate", "lights", "kitchen"), ("increase", "volume", "none"), ("bring", "shoes", "none")]
    for name, count in (("train", 6), ("valid", 3), ("test", 5)):
        rows = []
        for index in range(count):
            path = f"wavs/speakers/{'ab'[index % 2]}1/{name}-{index}.wav"
            write_noise(root / path, rng)
            rows.append([index, path, f"{'ab'[index % 2]}1", "turn, please", *intents[index % len(intents)]])
        (root / "data").mkdir(exist_ok=True)
        with (root / "data" / f"{name}_data.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [["", "path", "speakerId", "transcription", "action", "object", "location"], *rows]
            )
    return root


def make_iemocap(root: Path, *, sessions: int = 5) -> Path:
    """Five sessions of two dialogues; one utterance of every emotion, five of which s3prl uses as four classes."""
    rng = np.random.default_rng(4)
    for session in range(1, sessions + 1):
        folder = root / f"Session{session}"
        (folder / "dialog" / "EmoEvaluation").mkdir(parents=True)
        for dialogue in (f"Ses{session:02d}F_impro01", f"Ses{session:02d}M_script02_1"):
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n", "\n"]
            for index, emotion in enumerate(["neu", "fru", "exc", "ang", "sad", "hap", "xxx"]):
                name = f"{dialogue}_F{index:03d}"
                write_noise(folder / "sentences" / "wav" / dialogue / f"{name}.wav", rng)
                lines += [
                    f"[{index}.0000 - {index}.5000]\t{name}\t{emotion}\t[2.5, 2.5, 2.5]\n",
                    "C-E1:\tNeutral;\t()\n",
                ]
            (folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt").write_text("".join(lines))
            # As in the archive; this file is not text.
            (folder / "dialog" / "EmoEvaluation" / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    return root
