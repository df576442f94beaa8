"""`python -m benchmarks.embedded_teacher`: all steps to make the embedded teacher."""

import argparse
import logging
import platform
import shutil
from collections import defaultdict
from datetime import date
from pathlib import Path

import torch

from benchmarks.embedded_teacher.export import install_teacher
from benchmarks.embedded_teacher.recipe import TeacherRecipe
from benchmarks.embedded_teacher.train import TeacherTraining
from benchmarks.embedded_teacher.whisper import load_tiny_en
from benchmarks.embedded_teacher.windows import Window, cache_windows, plan_windows, read_manifest
from benchmarks.speech.debian_speech import fetch_training_speech
from s3prl_pruned.config import apply_overrides, from_dict, to_dict
from s3prl_pruned.data.corpus import embedded_corpus
from s3prl_pruned.data.manifest import scan_corpus
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models.families import wavlm_embedded

COMMAND = "OMP_NUM_THREADS=1 python -m benchmarks.embedded_teacher"
EMBEDDED = Path(__file__).parents[2] / "s3prl_pruned" / "embedded" / "teacher"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedded_teacher",
        description="Distil Whisper tiny.en's encoder into the embedded teacher. Called again, it resumes.",
    )
    add = parser.add_argument
    add("--run", metavar="DIR", type=Path, default=Path("result/teacher"), help="the run's folder (%(default)s)")
    add("--data", metavar="DIR", type=Path, help="folder of the fetched speech (default: RUN/speech)")
    add("--targets", metavar="DIR", type=Path, help="folder of the cached targets, 6 GB (default: RUN/targets)")
    add("-o", "--override", metavar="K=V", default="", help="change keys of the recipe: total_steps=500,,bf16=false")
    add("--install", action="store_true", help="copy RUN/export into the package with its card, and train nothing")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Fetch, compute targets, train, export; `argv` None: the process's own arguments."""
    options = parse_arguments(argv)
    logging.getLogger("s3prl_pruned").setLevel(logging.INFO)
    if options.install:
        install_teacher(options.run / "export", EMBEDDED)
        print(f"{EMBEDDED}: {(EMBEDDED / 'model.safetensors').stat().st_size / 1e6:.1f} MB")
        return
    recipe = from_dict(TeacherRecipe, apply_overrides(to_dict(TeacherRecipe()), options.override), "recipe")
    speech, targets = options.data or options.run / "speech", options.targets or options.run / "targets"
    # The run keeps its first list, even if more speech is fetched later.
    manifest = options.run / "manifest.jsonl"
    if not manifest.exists():
        source = speech / "manifest.jsonl"
        options.run.mkdir(parents=True, exist_ok=True)
        shutil.copy(source if source.exists() else fetch_training_speech(speech), manifest)
    entries = read_manifest(manifest)
    train, held_out = plan_windows(entries), held_out_windows()
    whisper = load_tiny_en(options.run / "whisper")
    cache_windows(held_out, embedded_corpus(), targets, whisper, bf16=recipe.bf16)
    cache_windows(train, speech, targets, whisper, bf16=recipe.bf16)
    about = {"sources": sources(entries), "hardware": hardware(), "date": date.today().isoformat(), "command": COMMAND}
    training = TeacherTraining(
        recipe,
        wavlm_embedded(),
        train=train,
        held_out=held_out,
        cache=targets,
        folder=options.run,
        about=about,
    )
    print(training.run())


def held_out_windows() -> list[Window]:
    """The embedded corpus's English dev prompts: losses on them are logged, but never trained on."""
    root = embedded_corpus()
    entries = [
        {
            "path": utterance.path.relative_to(root).as_posix(),
            "seconds": utterance.num_samples / SAMPLE_RATE,
            "source": "embedded-dev",
            "language": "held_out",  # once, at the original speed
        }
        for utterance in scan_corpus(root, ["dev"])
    ]
    return plan_windows(entries)


def hardware() -> str:
    """The processor and the threads used, for the card."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    amx = " with AMX (bf16)" if any(line.startswith("flags") and "amx_bf16" in line for line in lines) else ""
    return f"{torch.get_num_threads()} thread(s) of an {(names or [platform.processor()])[0]}{amx}"


def sources(entries: list[dict]) -> list[dict]:
    """Minutes by package: dicts with `source`, `licence`, `minutes`, `languages` (language to minutes)."""
    table: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for entry in entries:
        table[entry["source"], entry["licence"]][entry["language"]] += entry["seconds"] / 60
    return [
        {
            "source": source,
            "licence": licence,
            "minutes": round(sum(languages.values()), 1),
            "languages": {language: round(minutes, 1) for language, minutes in sorted(languages.items())},
        }
        for (source, licence), languages in sorted(table.items())
    ]
