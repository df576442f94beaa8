"""Objectives of `-u <family>_pruned_<objective>`: the only place that distinguishes them."""

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
    """A training objective."""

    model: type[AnyModelConfig]
    """Class of `config_model.yaml`, also of `Upstream_Config` in a checkpoint."""
    runner: type[RunnerConfig]
    """Class of `config_runner.yaml`."""
    default: str
    """The default recipe."""
    expert: Callable[..., Expert]
    """`expert(datarc, model, device, seed=, family=)`: the trained module, with the methods of a step."""
    speech: Callable[[Any], str]
    """`speech(datarc)`: `speech_digest` of the corpus in a configuration."""
    pruner_of_checkpoint: Callable[..., Pruner]
    """`pruner_of_checkpoint(student, model, states, where)`, for the final masks of a checkpoint."""
    test_lines: Callable[[Path, Path, Any, str], list[str]] = _no_lines
    """`test_lines(folder, export, datarc, device)`: the test result of a finished run's export, for the screen."""


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
