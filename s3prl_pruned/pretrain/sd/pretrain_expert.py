"""Speaker diarisation as a task of one-pass pruning: s3prl's LSTM head, judged by the error rate over frames."""

from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned import distributed
from s3prl_pruned.data.waveforms import normalize_waveform
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.objectives.diarization import DiarizationHead, frame_errors, permutation_invariant_loss
from s3prl_pruned.pretrain.one_pass.expert import OnePassExpert
from s3prl_pruned.pretrain.one_pass.task import OnePassTask
from s3prl_pruned.pretrain.sd.config import SdDataConfig, SdModelConfig
from s3prl_pruned.pretrain.sd.data import MixtureBatches, mixture_digest, read_corpus
from s3prl_pruned.transfers import to_device


class DiarizationTask(OnePassTask[SdDataConfig, SdModelConfig]):
    """s3prl's head on the weighted sum of the hidden states. A batch is a `MixtureBatch`."""

    name, loss_name = "sd", "pit_bce"
    data_kind, model_kind = SdDataConfig, SdModelConfig

    def __init__(self, datarc: SdDataConfig, config: SdModelConfig, *, seed: int):
        self._datarc, self._config, self._seed = datarc, config, seed
        self._training, self._dev = read_corpus(datarc, num_speakers=config.head.num_speakers)
        self.speech = mixture_digest(self._training, self._dev)
        self._batches: MixtureBatches | None = None

    def head(self, shape: EncoderConfig) -> DiarizationHead:
        """s3prl's head."""
        return DiarizationHead(shape.num_states, shape.state_dim, self._config.head)

    def batches(self, shape: EncoderConfig) -> MixtureBatches:
        """Cropped recordings with the activity of their speakers."""
        num_speakers = self._config.head.num_speakers
        self._batches = MixtureBatches(self._training, shape, self._datarc, num_speakers=num_speakers, seed=self._seed)
        return self._batches

    def num_units(self, batch: tuple[Tensor, ...]) -> int:
        """Number of frames."""
        return batch[2].shape[0] * batch[2].shape[1]

    def loss(self, student: SpeechEncoder, head: nn.Module, batch: tuple[Tensor, ...], device: torch.device) -> Tensor:
        """Permutation-invariant loss, summed over the frames."""
        wavs, _, labels = batch  # none is padded
        logits = head(student.states(student(to_device(wavs, device))))
        return permutation_invariant_loss(logits, to_device(labels, device))

    def judge(self, student: SpeechEncoder, head: nn.Module) -> dict[str, float]:
        """`dev_frame_der`, s3prl's error rate over frames on the dev recordings; empty without dev recordings.

        A recording longer than `max_seconds` is cut to it.
        """
        assert self._batches is not None
        counts = torch.zeros(2, dtype=torch.int64)
        for mixture in self._dev[distributed.rank() :: distributed.world_size()]:
            wav = mixture.utterance.read()
            wav = (normalize_waveform(wav) if student.config.normalize_waveform else wav)[: self._batches.max_samples]
            labels = self._batches.labels(mixture.segments, 0, len(wav))[None]
            device = next(head.parameters()).device
            logits = head(student.states(student(wav[None].to(device)))).cpu()
            counts += torch.tensor(frame_errors(logits, labels))
        wrong, scored = distributed.all_reduce_sum(counts.to(next(head.parameters()).device)).tolist()
        return {"dev_frame_der": wrong / scored} if scored else {}

    def state(self) -> dict[str, Any]:
        """Nothing: `Upstream_Config` has all settings of the head."""
        return {}


class UpstreamPretrainExpert(OnePassExpert):
    """`-u <family>_pruned_sd`."""

    task_kind = DiarizationTask
