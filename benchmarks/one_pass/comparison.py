"""Pruning while fine-tuning for ASR, in one pass (Xu et al. 2025), against distillation and fine-tuning after it.

Both take the same number of optimiser steps in all, aim at the same sparsity and are tested on the same utterances; the
difference of their word error rates is tested by matched pairs (`significance.py`).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.pretrain import command
from s3prl_pruned.pretrain.asr.recognizer import read_test
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.run_folder import EXPORT
from s3prl_pruned.report.significance import MatchedPairs, mapsswe
from s3prl_pruned.tables import Column, Table


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is compared."""

    family: str = "wavlm"
    """Of the encoder, one of `models.spec.FAMILIES`."""
    one_pass: str = "self_pinching_asr_embedded"
    """Recipe of `-u <family>_pruned_asr`."""
    prune: str = "embedded"
    """Recipe of `-u <family>_pruned_distill`: the first stage."""
    finetune: str = "finetune_asr_embedded"
    """Recipe of `-u <family>_pruned_asr` without gates: the second stage."""
    steps: int
    """Optimiser steps of either way in all."""
    prune_steps: int
    """How many of them are the first stage's."""
    target_sparsity: float
    """Of both ways."""
    seed: int = 1337
    """Of all three runs."""
    options: tuple[str, ...] = ()
    """More options of all three, such as `--corpus DIR --device cpu`."""

    def validate(self) -> None:
        """Raise UserError where the settings do not fit together."""
        if not 0 < self.prune_steps < self.steps:
            raise UserError(
                f"`prune_steps` must be from 1 to {self.steps - 1} of {self.steps} steps, but is {self.prune_steps}."
            )


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of the two, as measured."""

    name: str
    runs: list[str]
    """Folders, in their order."""
    steps: int
    seconds: float
    """Of the optimiser steps of all its runs, on the machine that made them."""
    sparsity: float
    """Realised."""
    parameters: int
    """Of the encoder."""
    wer: float
    """On test, a fraction."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both ways, and whether their word error rates differ."""

    setting: Setting
    one_pass: Way
    two_stages: Way
    test: MatchedPairs
    """First the one pass, second the two stages."""

    def to_dict(self) -> dict:
        """JSON data."""
        return asdict(self)


def compare(setting: Setting, root: Path, *, train: Callable[[list[str]], Path] = command.main) -> Comparison:
    """Make the three runs under `root` (those that stand there finished are kept, others go on) and compare them.

    Args:
        setting: what is compared.
        root: folder for `one_pass`, `prune` and `finetune`.
        train: `run_pretrain.py`'s main function.

    Raises:
        UserError: anything of the runs.
    """
    setting.validate()

    def run(name: str, objective: str, recipe: str, steps: int, *more: str, override: str = "") -> Path:
        arguments = ["-u", f"{setting.family}_pruned_{objective}", "--recipe", recipe, "-p", str(root / name), "-a"]
        options = f"runner.total_steps={steps}{override}"
        return train([*arguments, "--seed", str(setting.seed), *setting.options, *more, "-o", options])

    target = f",,sparsity.target.share={setting.target_sparsity}"
    one = run("one_pass", "asr", setting.one_pass, setting.steps, override=target)
    first = run("prune", "distill", setting.prune, setting.prune_steps, override=target)
    teacher = ("--teacher", str(first / EXPORT))
    second = run("finetune", "asr", setting.finetune, setting.steps - setting.prune_steps, *teacher)
    results = [read_test(folder)["utterances"] for folder in (one, second)]
    references, *hypotheses = (
        {key: texts[kind] for key, texts in result.items()}
        for result, kind in ((results[0], "reference"), (results[0], "hypothesis"), (results[1], "hypothesis"))
    )
    return Comparison(
        setting=setting,
        one_pass=_way("one pass", [one]),
        two_stages=_way("prune, then fine-tune", [first, second]),
        test=mapsswe(references, *hypotheses),
    )


def _way(name: str, runs: list[Path]) -> Way:
    last = [read_log(run)[-1] for run in runs]
    encoder, provenance = load_encoder(runs[-1] / EXPORT)
    return Way(
        name=name,
        runs=[str(run) for run in runs],
        steps=sum(line["step"] for line in last),
        seconds=sum(line["train_seconds"] for line in last),
        sparsity=provenance["sparsity"]["realised"],
        parameters=encoder.num_parameters(),
        wer=read_test(runs[-1])["wer"],
    )


def report(found: Comparison) -> str:
    """A Markdown table, the test, and the time of the one pass against the two stages."""
    table = Table(
        [
            Column("name", "way"),
            Column("steps", show="{:,}"),
            Column("seconds", "step time, s", show="{:.0f}"),
            Column("sparsity", "sparsity %", show=lambda share: f"{100 * share:.1f}"),
            Column("parameters", show="{:,}"),
            Column("wer", "WER %", show=lambda rate: f"{100 * rate:.2f}"),
        ],
        [vars(way) for way in (found.one_pass, found.two_stages)],
    )
    change = 100 * (found.one_pass.seconds / found.two_stages.seconds - 1)
    return "\n".join(
        [
            table.markdown(),
            "",
            found.test.describe((found.one_pass.name, found.two_stages.name)),
            f"step time of the one pass: {change:+.0f} % of the two stages'",
        ]
    )
