"""The pre-training expert for fine-tuning and pruning in one pass, for any task, in s3prl's layout.

One optimiser step, as in `pretrain/expert.py`, with:

    forward          per micro-batch: masked encoder, head, loss of the task
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from s3prl_pruned import distributed
from s3prl_pruned.config import from_dict
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.config import DataConfig
from s3prl_pruned.pretrain.distill.model import student_shape
from s3prl_pruned.pretrain.distill.teachers import Teacher, load_teacher
from s3prl_pruned.pretrain.expert import Expert, Trained, add_records, model_config
from s3prl_pruned.pretrain.one_pass.config import OnePassModelConfig
from s3prl_pruned.pretrain.one_pass.task import OnePassTask
from s3prl_pruned.pretrain.pruners.control import BandControl
from s3prl_pruned.pretrain.pruners.nothing import NoPruner
from s3prl_pruned.pretrain.pruners.pruner import Pruner
from s3prl_pruned.pretrain.pruners.self_pinching import SelfPinchingPruner

BASE_MODELS = {
    "wavlm": "wavlm_base",
    "hubert": "hubert_base",
    "wav2vec2": "wav2vec2_base_960",
    "data2vec": "data2vec_base_960",
    "whisper": "tiny.en.pt",
}
"""Meaning of `teacher: null`, by family."""


class OnePassModel(Trained):
    """All modules that are trained: encoder (called student, as in distillation), head, and gates, if any."""

    def __init__(self, encoder: SpeechEncoder, task: OnePassTask, config: OnePassModelConfig):
        super().__init__()
        shape = student_shape(encoder, config.student)
        config.check_target(shape, encoder.spec)
        self.student = accelerate(SpeechEncoder(shape, encoder.spec))
        self.student.load_state_dict(encoder.state_dict())
        self.head = task.head(shape)
        self.pruner = pruner_of(self.student, config)
        self.gates, self.lagrangian = self.pruner.gates, self.pruner.multipliers


def pruner_of(student: SpeechEncoder, config: OnePassModelConfig) -> Pruner:
    """The pruner for an encoder that is fine-tuned."""
    if config.self_pinching is None:
        return NoPruner(student)
    return SelfPinchingPruner(student, config.self_pinching, BandControl(config.sparsity, student.config))


def pruner_of_checkpoint(
    student: SpeechEncoder, config: OnePassModelConfig, states: dict[str, Any], where: str
) -> Pruner:
    """`pruner_of` with the signature of `Objective.pruner_of_checkpoint`; the checkpoint is not needed."""
    return pruner_of(student, config)


class OnePassExpert(Expert):
    """s3prl's interface (`pretrain/runner.py` there): device, forward, load_model, add_state_to_save, ...

    Subclasses set `task_kind`.

    Args:
        datarc: a `OnePassTask.data_kind` or its dict.
        upstream_config: a `OnePassTask.model_kind`, its dict, or the path of a `config_model.yaml`.
        device: torch device.
        seed: seed of batches, of the head, and of random encoders.
        family: required family of the encoder, one of `models.shape.FAMILIES`.
    """

    task_kind: ClassVar[type[OnePassTask]]
    """Class of the task."""
    model: OnePassModel
    upstream_config: OnePassModelConfig

    def __init__(
        self,
        datarc: DataConfig | dict,
        upstream_config: OnePassModelConfig | dict | str,
        device: str = "cuda",
        *,
        seed: int = 0,
        family: str = "wavlm",
    ):
        super().__init__()
        kind = self.task_kind
        self.device = torch.device(device)
        self.seed = seed
        self.datarc = from_dict(kind.data_kind, datarc, "datarc") if isinstance(datarc, dict) else datarc
        self.upstream_config = model_config(upstream_config, kind.model_kind)
        self.task = kind(self.datarc, self.upstream_config, seed=seed)
        self.speech, self.loss_name, self.objective = self.task.speech, kind.loss_name, kind.name
        source = self.upstream_config.teacher or BASE_MODELS[family]
        self.loaded_teacher: Teacher = load_teacher(source, seed, family=family, objective=kind.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # for the head
            self.model = OnePassModel(self.loaded_teacher.encoder, self.task, self.upstream_config)
        self.batches = self.task.batches(self.model.student.config)
        self._global_units = 0
        self.to(self.device)

    def begin_step(self, step: int, total_steps: int, batches: list[tuple[Tensor, ...]]) -> None:
        """Put the masks of optimiser step `step` (1-based) into the encoder, for all its micro-batches."""
        units = torch.tensor(sum(map(self.task.num_units, batches)))
        self.fill_masks(step, total_steps)
        self._global_units = int(distributed.all_reduce_sum(units))

    def forward(self, data: tuple[Tensor, ...], records: dict[str, float | Tensor], global_step: int = 0) -> Tensor:
        """Loss of one micro-batch, divided by the units of the global batch; micro-batch losses add up.

        Args:
            data: a batch of the task: wavs (B, S) float32, lengths (B,), and its labels.
            records: gets the loss, by name.
            global_step: s3prl's interface; not used.

        Returns:
            A scalar.
        """
        loss = self.task.loss(self.model.student, self.model.head, data, self.device) / self._global_units
        add_records(records, [(self.loss_name, loss.detach())])
        return loss

    def judge(self, draw: MaskDraw) -> dict[str, float]:
        """The task's measure on speech that is not trained on; empty without such speech."""
        return self.task.judge(self.model.student, self.model.head)

    def log_records(self, records: dict[str, Any]) -> dict[str, Any]:
        """Entries that are logged every `log_step`: the records, and the structure that the pruner currently keeps."""
        return {**records, **self.pruner.log_records(self._draw, self.model.student.spec)}

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        """s3prl's interface, with the task's entries. `Upstream_Config` says where the encoder comes from."""
        all_states.update(self.task.state())
        return super().add_state_to_save(all_states)

    def weights_state(self) -> dict[str, Any]:
        """As `Expert.weights_state`, with the task's head."""
        return {**super().weights_state(), "Head": self.model.head.state_dict()}

    def load_weights(self, states: dict[str, Any]) -> None:
        """The reverse of `weights_state`."""
        super().load_weights(states)
        self.model.head.load_state_dict(states["Head"])
