"""Pruning while fine-tuning for ASR in one pass (Xu et al. 2025), compared with distillation and then fine-tuning.

Both have the same total number of optimiser steps and the same target sparsity, and are tested on the same utterances;
the difference of their word error rates is tested by matched pairs (`significance.py`).
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
    """The setting of a comparison."""

    family: str = "wavlm"
    """Family of the encoder, one of `models.shape.FAMILIES`."""
    one_pass: str = "self_pinching_asr_embedded"
    """Recipe of `-u <family>_pruned_asr`."""
    prune: str = "embedded"
    """Recipe of `-u <family>_pruned_distill`: the first stage."""
    finetune: str = "finetune_asr_embedded"
    """Recipe of `-u <family>_pruned_asr` without gates: the second stage."""
    steps: int
    """Total optimiser steps of either method."""
    prune_steps: int
    """How many of them are for the first stage."""
    target_sparsity: float
    """Target sparsity of both methods."""
    seed: int = 1337
    """Seed of all three runs."""
    options: tuple[str, ...] = ()
    """Further options of all three runs, such as `--corpus DIR --device cpu`."""

    def validate(self) -> None:
        """Raise UserError where the settings do not fit together."""
        if not 0 < self.prune_steps < self.steps:
            raise UserError(
                f"`prune_steps` must be from 1 to {self.steps - 1} of {self.steps} steps, but is {self.prune_steps}."
            )


@dataclass(frozen=True, kw_only=True)
class Way:
    """The measured result of one of the two methods."""

    name: str
    runs: list[str]
    """Folders of the runs, in order."""
    steps: int
    seconds: float
    """Seconds of the optimiser steps of all its runs, on the machine that ran them."""
    sparsity: float
    """Realised sparsity."""
    parameters: int
    """Parameters of the encoder."""
    wer: float
    """Word error rate on test, a fraction."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both methods, and whether their word error rates differ."""

    setting: Setting
    one_pass: Way
    two_stages: Way
    test: MatchedPairs
    """First is the one pass, second are the two stages."""

    def to_dict(self) -> dict:
        """The comparison as JSON data."""
        return asdict(self)


def compare(setting: Setting, root: Path, *, train: Callable[[list[str]], Path] = command.main) -> Comparison:
    """Make the three runs under `root` (finished runs are kept, others are resumed) and compare them.

    Args:
        setting: the setting of the comparison.
        root: folder for `one_pass`, `prune` and `finetune`.
        train: `run_pretrain.py`'s main function.

    Raises:
        UserError: any error of the runs.
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
    """A Markdown table, the significance test, and the time of the one pass relative to the two stages."""
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
