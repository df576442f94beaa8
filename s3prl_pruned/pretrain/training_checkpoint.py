"""Training checkpoints of `run_pretrain.py` as a readable format, with masks of the student applied or cut."""

import logging
from dataclasses import replace
from functools import partial

from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source
from s3prl_pruned.formats.tensor_files import file_sha256
from s3prl_pruned.pretrain.finish import compact_student, masked_student
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.latency import LatencyTable

logger = logging.getLogger(__name__)


def _recognise(source: Source) -> bool:
    return "Student" in source.content and "Encoder_Config" in source.content


def _read_masked(source: Source, options: ReadOptions) -> LoadedModel:
    encoder, _, provenance = masked_student(source.path)
    logger.warning("%s is a training checkpoint: its masks are applied, nothing is cut away.", source.path)
    return LoadedModel(encoder, source.path, file_sha256(source.path), provenance)


def _read_cut(
    source: Source, options: ReadOptions, *, target: Target | None = None, table: LatencyTable | None = None
) -> LoadedModel:
    encoder, provenance = compact_student(source.path, target, table)
    return LoadedModel(encoder, source.path, file_sha256(source.path), provenance)


MASKED = Format(
    name="checkpoint",
    about="a training checkpoint of run_pretrain.py (states-N.ckpt)",
    recognise=_recognise,
    read=_read_masked,
)
"""Reads the student with its masks applied, as in training."""
CUT = replace(MASKED, read=_read_cut)
"""Reads the smaller encoder, with masks cut."""


def cut_at(target: Target, table: LatencyTable | None = None) -> Format:
    """Reads the smaller encoder at another target than the run's own (`finish.masked_student`)."""
    return replace(MASKED, read=partial(_read_cut, target=target, table=table))
