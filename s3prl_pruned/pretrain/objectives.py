"""Objectives of `-u <family>_pruned_<objective>`: the only place that distinguishes them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from s3prl_pruned.checkpoint import load_checkpoint
from s3prl_pruned.data.manifest import speech_digest
from s3prl_pruned.formats import ctc_head
from s3prl_pruned.objectives.diarization import MOST_SPEAKERS
from s3prl_pruned.pretrain.asr import pretrain_expert as asr
from s3prl_pruned.pretrain.asr.config import AsrModelConfig, AsrRunnerConfig
from s3prl_pruned.pretrain.asr.data import labelled_digest, read_corpus
from s3prl_pruned.pretrain.asr.recognizer import HEAD_NOTE, ctc_files, test_lines
from s3prl_pruned.pretrain.config import DataConfig, RunnerConfig
from s3prl_pruned.pretrain.distill import model as distill
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert, training_corpus
from s3prl_pruned.pretrain.expert import Expert
from s3prl_pruned.pretrain.one_pass import expert as one_pass
from s3prl_pruned.pretrain.one_pass.config import OnePassModelConfig
from s3prl_pruned.pretrain.one_pass.head_files import names_of
from s3prl_pruned.pretrain.pruners.pruner import Pruner
from s3prl_pruned.pretrain.sd import diarizer
from s3prl_pruned.pretrain.sd import pretrain_expert as sd
from s3prl_pruned.pretrain.sd.config import SdModelConfig, SdRunnerConfig
from s3prl_pruned.pretrain.sd.data import mixture_digest
from s3prl_pruned.pretrain.sd.data import read_corpus as read_mixtures
from s3prl_pruned.pretrain.sv import pretrain_expert as sv
from s3prl_pruned.pretrain.sv import verifier
from s3prl_pruned.pretrain.sv.config import SvModelConfig, SvRunnerConfig
from s3prl_pruned.pretrain.sv.data import read_corpus as read_speakers

AnyModelConfig: TypeAlias = ModelConfig | OnePassModelConfig


def _no_lines(folder: Path, export: Path, datarc: DataConfig, device: str) -> list[str]:
    return []


@dataclass(frozen=True, kw_only=True)
class HeadFiles:
    """The files of a task's head beside an exported encoder."""

    names: tuple[str, ...]
    """Their names."""
    of_checkpoint: Callable[[dict[str, Any]], dict[str, bytes]]
    """Their content by name, from a checkpoint with the weights to export in `Head`."""
    card: dict[str, str]
    """Entry of the card: what they are, and how to load them."""


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
    corpus: str = "/data/LibriSpeech"
    """An example of `--corpus`, for advice."""
    head: HeadFiles | None = None
    """Files of the head, for an objective with one."""
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
        pruner_of_checkpoint=one_pass.pruner_of_checkpoint,
        head=HeadFiles(names=names_of(ctc_head.NAME), of_checkpoint=ctc_files, card={"ctc_head": HEAD_NOTE}),
        test_lines=test_lines,
    ),
    "sv": Objective(
        model=SvModelConfig,
        runner=SvRunnerConfig,
        default="self_pinching_sv_embedded",
        corpus="/data/VoxCeleb1",
        expert=sv.UpstreamPretrainExpert,
        speech=lambda datarc: speech_digest(read_speakers(datarc).utterances),
        pruner_of_checkpoint=one_pass.pruner_of_checkpoint,
        head=HeadFiles(
            names=names_of(verifier.HEAD),
            of_checkpoint=verifier.head_files,
            card={"speaker_head": verifier.HEAD_NOTE},
        ),
    ),
    "sd": Objective(
        model=SdModelConfig,
        runner=SdRunnerConfig,
        default="self_pinching_sd_embedded",
        corpus="/data/Libri2Mix/data",
        expert=sd.UpstreamPretrainExpert,
        speech=lambda datarc: mixture_digest(*read_mixtures(datarc, num_speakers=MOST_SPEAKERS)),
        pruner_of_checkpoint=one_pass.pruner_of_checkpoint,
        head=HeadFiles(
            names=names_of(diarizer.HEAD),
            of_checkpoint=diarizer.head_files,
            card={"diarization_head": diarizer.HEAD_NOTE},
        ),
    ),
}


def objective_of_checkpoint(state: dict[str, Any]) -> Objective:
    """The objective of a training checkpoint."""
    return OBJECTIVES[state.get("Objective", "distill")]


def head_files(source: str | Path) -> dict[str, bytes]:
    """Files of a task's head beside an exported encoder: content by file name; empty without a head.

    Args:
        source: a training checkpoint (`states-*.ckpt`), an exported folder, or any other model.
    """
    source = Path(source)
    if source.is_dir():
        heads = [objective.head for objective in OBJECTIVES.values() if objective.head is not None]
        paths = [source / name for head in heads for name in head.names]
        return {path.name: path.read_bytes() for path in paths if path.is_file()}
    state = load_checkpoint(source, mapped=True) if source.name.endswith(".ckpt") else {}
    if "Head" not in state:
        return {}
    head = objective_of_checkpoint(state).head
    assert head is not None
    return head.of_checkpoint({**state, "Head": state.get("Average", state)["Head"]})
