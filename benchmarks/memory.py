"""GPU memory of the recipes, and settings with which they fit a card, by the formula of `--dry-run`; needs no GPU.

    python -m benchmarks.memory                             # the paper-sized recipes, cards of 12 to 80 GB
    python -m benchmarks.memory --recipes wavlm_base_s80 --cards 11,48

Computes a step of each recipe at its largest batch, in half precision. A setting fits if its peak, plus 5 % for memory
that the allocator cannot use and 1 GiB for CUDA itself, is no more than the card has. Settings are tried in the order
of their cost in time; all of them give the same losses.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from s3prl_pruned import resources
from s3prl_pruned.command_line import command_line
from s3prl_pruned.config import from_dict
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models import families
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.config import DataConfig
from s3prl_pruned.pretrain.memory import GIB, Batch, MemorySetting, memory_of_step
from s3prl_pruned.pretrain.objectives import OBJECTIVES
from s3prl_pruned.pretrain.recipes import MODEL_FILE, RUNNER_FILE, load_recipe
from s3prl_pruned.tables import Column, Table

RECIPES = (
    "wavlm_base_s80",
    "hubert_base_s80",
    "data2vec_base_s80",
    "best_base",
    "dphubert_base",
    "wavlm_large_s80",
    "hubert_large_s80",
    "self_pinching_asr",
)
CARDS = (12, 16, 24, 40, 80)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="names, by commas (default: %(default)s)")
    parser.add_argument("--cards", default=",".join(map(str, CARDS)), help="GiB of each (default: %(default)s)")
    args = parser.parse_args()
    cards = [float(card) for card in args.cards.split(",")]
    rows = [row_of(recipe, cards) for recipe in args.recipes.split(",")]
    print(Table([Column(name) for name in rows[0]], rows).markdown())


def row_of(recipe: str, cards: list[float]) -> dict[str, Any]:
    """A recipe's batch, its peak without changes, and the first setting that fits each card."""
    setting, batch, accumulate = setting_of_recipe(recipe)
    micro_batches = f"{accumulate} x " if accumulate > 1 else ""
    row: dict[str, Any] = {
        "recipe": recipe,
        "batch": f"{micro_batches}{batch.utterances} x {batch.seconds:g} s",
        "peak, GiB": f"{memory_of_step(setting, batch).total / GIB:.1f}",
    }
    for card in cards:
        fitting = (words for words, tried in _settings(setting) if _fits(memory_of_step(tried, batch).total, card))
        row[f"{card:g} GB"] = next(fitting, "-")
    return row


def _fits(peak: float, card: float) -> bool:
    return 1.05 * peak / GIB + 1 <= card


def _settings(setting: MemorySetting) -> Iterator[tuple[str, MemorySetting]]:
    peak = "as it is"
    yield peak, setting
    again = replace(setting, checkpointing=True)
    yield "checkpointing", again
    for seconds in (100, 50, 25, 16):
        yield f"checkpointing, {seconds} s at once", replace(again, max_seconds_at_once=seconds)


def setting_of_recipe(recipe: str) -> tuple[MemorySetting, Batch, int]:
    """A recipe's memory setting, its largest batch, and its micro-batches per step."""
    folder = resources.recipes() / recipe
    data, runner = load_recipe(folder / MODEL_FILE, MODEL_FILE), load_recipe(folder / RUNNER_FILE, RUNNER_FILE)
    objective = OBJECTIVES["asr" if "ctc" in data else "distill"]
    model = from_dict(objective.model, data, recipe)
    config = from_dict(objective.runner, runner, recipe)
    distill, gates = getattr(model, "distill", None), getattr(model, "gates", None)
    loop, student = config.runner, model.student
    shape = replace(
        shape_of(model.teacher or "wav2vec2_base_960"),
        dropout=student.dropout,
        attention_dropout=student.attention_dropout,
        activation_dropout=student.activation_dropout,
        feature_grad_mult=student.feature_grad_mult,
    )
    setting = MemorySetting(
        shape=shape,
        spec=CompactSpec.dense(shape),
        checkpointing=loop.gradient_checkpointing,
        accumulates=loop.gradient_accumulate_steps > 1,
        max_seconds_at_once=loop.max_seconds_at_once,
        pairs=0 if distill is None else distill.num_pairs,
        matches=distill is not None and distill.pairing == "learned",
        masks_cnn=gates is not None and "conv" in gates.kinds,
        averages=loop.ema_decay is not None,
    )
    return setting, largest_batch(config.pretrain_expert.datarc), loop.gradient_accumulate_steps


def largest_batch(datarc: DataConfig) -> Batch:
    """The largest batch that the settings allow, if the corpus has enough long utterances."""
    utterances = datarc.train_batch_size
    if datarc.max_batch_seconds is not None:
        utterances = max(1, int(datarc.max_batch_seconds / datarc.max_seconds))
    return Batch(utterances, round(datarc.max_seconds * SAMPLE_RATE))


def shape_of(teacher: str) -> EncoderConfig:
    """The shape of a teacher on s3prl's hub, whose name begins with the shape's name."""
    names = [f"{family}_{size}" for family in ("wavlm", "hubert", "wav2vec2", "data2vec") for size in ("base", "large")]
    return families.named(next(name for name in names if teacher.startswith(name)))


if __name__ == "__main__":
    command_line(main)
