"""What `-u <family>_pruned_<objective>` trains for: the one place that tells the objectives apart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from s3prl_pruned.data.manifest import speech_digest
from s3prl_pruned.pretrain.asr import pretrain_expert as asr
from s3prl_pruned.pretrain.asr.config import AsrModelConfig, AsrRunnerConfig
from s3prl_pruned.pretrain.asr.data import labelled_digest, read_corpus
from s3prl_pruned.pretrain.asr.recognizer import test_lines
from s3prl_pruned.pretrain.config import DataConfig, RunnerConfig
from s3prl_pruned.pretrain.distill import model as distill
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert, training_corpus
from s3prl_pruned.pretrain.expert import Expert
from s3prl_pruned.pretrain.pruners.pruner import Pruner

AnyModelConfig: TypeAlias = ModelConfig | AsrModelConfig


def _no_lines(folder: Path, export: Path, datarc: DataConfig, device: str) -> list[str]:
    return []


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One of them."""

    model: type[AnyModelConfig]
    """What `config_model.yaml` may hold; `Upstream_Config` of a checkpoint."""
    runner: type[RunnerConfig]
    """What `config_runner.yaml` may hold."""
    default: str
    """The recipe when none is named."""
    expert: Callable[..., Expert]
    """`expert(datarc, model, device, seed=, family=)`: what is trained, and how a step runs."""
    speech: Callable[[Any], str]
    """`speech(datarc)`: `speech_digest` of the corpus that a configuration names."""
    pruner_of_checkpoint: Callable[..., Pruner]
    """`pruner_of_checkpoint(student, model, states, where)`, for the final masks of a checkpoint."""
    test_lines: Callable[[Path, Path, Any, str], list[str]] = _no_lines
    """`test_lines(folder, export, datarc, device)`: for the screen, how good a finished run's export is at its task."""


OBJECTIVES = {
    "distill": Objective(
        model=ModelConfig,
        runner=RunnerConfig,
        default="embedded",
        expert=UpstreamPretrainExpert,
        speech=lambda datarc: speech_digest(training_corpus(datarc)),
        pruner_of_checkpoint=distill.pruner_of_checkpoint,
    ),
    "asr": Objective(
        model=AsrModelConfig,
        runner=AsrRunnerConfig,
        default="self_pinching_asr_embedded",
        expert=asr.UpstreamPretrainExpert,
        speech=lambda datarc: labelled_digest(*read_corpus(datarc)),
        pruner_of_checkpoint=asr.pruner_of_checkpoint,
        test_lines=test_lines,
    ),
}
