"""One driver per task, with what s3prl's experts need: corpus, lists, checkpoints, metrics."""

from __future__ import annotations

import importlib

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Task
from s3prl_pruned.superb.tasks.driver import Driver

DRIVERS = {
    "pr": "libriphone.PhonemeRecognition",
    "asr": "asr.SpeechRecognition",
    "ks": "speech_commands.KeywordSpotting",
    "sid": "voxceleb1.SpeakerIdentification",
    "sv": "sv_voxceleb1.SpeakerVerification",
    "sd": "diarization.SpeakerDiarization",
    "qbe": "quesst14.QueryByExample",
    "sf": "snips.SlotFilling",
    "ic": "fluent_commands.IntentClassification",
    "er": "emotion.EmotionRecognition",
}
"""Each task's driver: ``<module>.<class>`` in this folder, imported when the task is used."""


def driver_of(task: Task) -> Driver:
    """The driver of a task.

    Raises:
        UserError: if this version cannot run the task.
    """
    if task.name not in DRIVERS:
        raise UserError(f"-d {task.name} ({task.title}): this version runs {' '.join(DRIVERS)} only.")
    module, _, name = DRIVERS[task.name].rpartition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)(task)
