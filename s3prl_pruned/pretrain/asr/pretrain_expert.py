"""The pre-training expert for ASR fine-tuning with pruning in one pass (Xu et al. 2025), in s3prl's layout.

One optimiser step, as in `pretrain/expert.py`, with:

    forward          per micro-batch: masked encoder, head, CTC loss
"""

from typing import Any

import torch
from torch import Tensor

from s3prl_pruned import distributed
from s3prl_pruned.config import from_dict
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.objectives.ctc import Characters, CtcHead, ctc_loss
from s3prl_pruned.pretrain.asr.config import AsrDataConfig, AsrModelConfig
from s3prl_pruned.pretrain.asr.data import (
    LabelledBatch,
    LabelledBatches,
    corpus_root,
    labelled_digest,
    read_corpus,
    transcripts,
)
from s3prl_pruned.pretrain.asr.recognizer import Recognizer
from s3prl_pruned.pretrain.distill.model import student_shape
from s3prl_pruned.pretrain.distill.teachers import Teacher, load_teacher
from s3prl_pruned.pretrain.expert import Expert, Trained, add_records, model_config
from s3prl_pruned.pretrain.pruners.control import BandControl
from s3prl_pruned.pretrain.pruners.nothing import NoPruner
from s3prl_pruned.pretrain.pruners.pruner import Pruner
from s3prl_pruned.pretrain.pruners.self_pinching import SelfPinchingPruner
from s3prl_pruned.transfers import to_device

BASE_MODELS = {
    "wavlm": "wavlm_base",
    "hubert": "hubert_base",
    "wav2vec2": "wav2vec2_base_960",
    "data2vec": "data2vec_base_960",
    "whisper": "tiny.en.pt",
}
"""Meaning of `teacher: null`, by family."""


class AsrForPretrain(Trained):
    """All modules that are trained: encoder (called student, as in distillation), head, and gates, if any."""

    def __init__(self, encoder: SpeechEncoder, characters: Characters, config: AsrModelConfig):
        super().__init__()
        shape = student_shape(encoder, config.student)
        config.check_target(shape, encoder.spec)
        self.student = accelerate(SpeechEncoder(shape, encoder.spec))
        self.student.load_state_dict(encoder.state_dict())
        self.head = CtcHead(shape.embed_dim, characters.num_outputs, dropout=config.ctc.dropout)
        self.pruner = pruner_of(self.student, config)
        self.gates, self.lagrangian = self.pruner.gates, self.pruner.multipliers


def pruner_of(student: SpeechEncoder, config: AsrModelConfig) -> Pruner:
    """The pruner for an encoder that is fine-tuned."""
    if config.self_pinching is None:
        return NoPruner(student)
    return SelfPinchingPruner(student, config.self_pinching, BandControl(config.sparsity, student.config))


def pruner_of_checkpoint(student: SpeechEncoder, config: AsrModelConfig, states: dict[str, Any], where: str) -> Pruner:
    """`pruner_of` with the signature of `Objective.pruner_of_checkpoint`; the checkpoint is not needed."""
    return pruner_of(student, config)


class UpstreamPretrainExpert(Expert):
    """s3prl's interface (`pretrain/runner.py` there): device, forward, load_model, add_state_to_save, ...

    Args:
        datarc: `AsrDataConfig` or its dict.
        upstream_config: `AsrModelConfig`, its dict, or the path of a `config_model.yaml`.
        device: torch device.
        seed: seed of batches, of the head, and of random encoders.
        family: required family of the encoder, one of `models.shape.FAMILIES`.
    """

    loss_name = "ctc"
    objective = "asr"
    model: AsrForPretrain
    datarc: AsrDataConfig
    upstream_config: AsrModelConfig

    def __init__(
        self,
        datarc: AsrDataConfig | dict,
        upstream_config: AsrModelConfig | dict | str,
        device: str = "cuda",
        *,
        seed: int = 0,
        family: str = "wavlm",
    ):
        super().__init__()
        self.device = torch.device(device)
        self.seed = seed
        self.datarc = datarc if isinstance(datarc, AsrDataConfig) else from_dict(AsrDataConfig, datarc, "datarc")
        self.upstream_config = model_config(upstream_config, AsrModelConfig)
        training, self.dev, self.test = read_corpus(self.datarc)
        self.speech = labelled_digest(training, self.dev, self.test)
        texts = transcripts(training)
        given = self.upstream_config.ctc.characters
        self.characters = Characters.of(texts) if given is None else Characters(given)
        self.characters.refuse_unknown(
            {**texts, **transcripts(self.dev), **transcripts(self.test)}, where=str(corpus_root(self.datarc))
        )
        source = self.upstream_config.teacher or BASE_MODELS[family]
        self.loaded_teacher: Teacher = load_teacher(source, seed, family=family, objective="asr")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # for the head
            self.model = AsrForPretrain(self.loaded_teacher.encoder, self.characters, self.upstream_config)
        self.batches = LabelledBatches(training, self.characters, self.model.student.config, self.datarc, seed=seed)
        self._global_characters = 0
        self.to(self.device)

    def begin_step(self, step: int, total_steps: int, batches: list[LabelledBatch]) -> None:
        """Put the masks of optimiser step `step` (1-based) into the encoder, for all its micro-batches."""
        characters = torch.tensor(sum(int(lengths.sum()) for _, _, _, lengths in batches))
        self.fill_masks(step, total_steps)
        self._global_characters = int(distributed.all_reduce_sum(characters))

    def forward(self, data: LabelledBatch, records: dict[str, float | Tensor], global_step: int = 0) -> Tensor:
        """CTC loss of one micro-batch, divided by the characters of the global batch; micro-batch losses add up.

        Args:
            data: a `LabelledBatch`: wavs (B, S) float32, lengths (B,), characters (B, U), their numbers (B,).
            records: gets the terms of the loss, by name.
            global_step: s3prl's interface; not used.

        Returns:
            A scalar.
        """
        wavs, lengths, targets, target_lengths = data  # CTC wants lengths on the CPU
        student, host_lengths = self.model.student, lengths if bool((lengths < wavs.shape[1]).any()) else None
        padded = None if host_lengths is None else to_device(host_lengths, self.device)
        logits = self.model.head(student(to_device(wavs, self.device), padded).hidden_states[-1])
        frames = student.frame_lengths(host_lengths, wavs, logits.shape[1])
        targets = to_device(targets, self.device)
        loss = ctc_loss(logits, frames, targets, target_lengths) / self._global_characters
        add_records(records, [("ctc", loss.detach())])
        return loss

    def judge(self, draw: MaskDraw) -> dict[str, float]:
        """`dev_wer`, the WER of greedy decoding on the dev speech (a fraction); empty without dev speech."""
        if not self.dev:
            return {}
        own = self.dev[distributed.rank() :: distributed.world_size()]
        errors, _ = Recognizer(self.model.student, self.model.head, self.characters).recognize(own)
        edits, words = distributed.all_reduce_sum(
            torch.tensor([errors.edits, errors.words], device=self.device)
        ).tolist()
        return {"dev_wer": edits / words}

    def log_records(self, records: dict[str, Any]) -> dict[str, Any]:
        """Entries that are logged every `log_step`: the records, and the structure that the pruner currently keeps."""
        return {**records, **self.pruner.log_records(self._draw, self.model.student.spec)}

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        """s3prl's interface, with the alphabet. `Upstream_Config` says where the encoder comes from."""
        all_states["Characters"] = self.characters.text
        return super().add_state_to_save(all_states)

    def weights_state(self) -> dict[str, Any]:
        """As `Expert.weights_state`, with the recogniser's head."""
        return {**super().weights_state(), "Head": self.model.head.state_dict()}

    def load_weights(self, states: dict[str, Any]) -> None:
        """The reverse of `weights_state`."""
        super().load_weights(states)
        self.model.head.load_state_dict(states["Head"])
