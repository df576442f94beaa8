"""Speaker verification as a task of one-pass pruning: AM-Softmax on s3prl's x-vector, judged by the EER."""

from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned import distributed
from s3prl_pruned.data.manifest import speech_digest
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.objectives.eer import equal_error_rate
from s3prl_pruned.objectives.verification import SpeakerHead
from s3prl_pruned.pretrain.one_pass.expert import OnePassExpert
from s3prl_pruned.pretrain.one_pass.task import OnePassTask
from s3prl_pruned.pretrain.sv.config import SvDataConfig, SvModelConfig
from s3prl_pruned.pretrain.sv.data import SpeakerBatches, read_corpus
from s3prl_pruned.transfers import to_device


class VerificationTask(OnePassTask[SvDataConfig, SvModelConfig]):
    """s3prl's head on the weighted sum of the hidden states. A batch is a `SpeakerBatch`."""

    name, loss_name = "sv", "am_softmax"
    data_kind, model_kind = SvDataConfig, SvModelConfig

    def __init__(self, datarc: SvDataConfig, config: SvModelConfig, *, seed: int):
        self._datarc, self._config, self._seed = datarc, config, seed
        self._corpus = read_corpus(datarc)
        self.speech = speech_digest(self._corpus.utterances)
        self._batches: SpeakerBatches | None = None

    def head(self, shape: EncoderConfig) -> SpeakerHead:
        """s3prl's head."""
        return SpeakerHead(shape.num_states, shape.state_dim, len(self._corpus.names), self._config.head)

    def batches(self, shape: EncoderConfig) -> SpeakerBatches:
        """Cropped utterances with speakers."""
        self._batches = SpeakerBatches(self._corpus, shape, self._datarc, seed=self._seed)
        return self._batches

    def num_units(self, batch: tuple[Tensor, ...]) -> int:
        """Number of utterances."""
        return len(batch[2])

    def loss(self, student: SpeechEncoder, head: nn.Module, batch: tuple[Tensor, ...], device: torch.device) -> Tensor:
        """AM-Softmax loss, summed over the utterances."""
        wavs, _, speakers = batch  # none is padded
        return head(student.states(student(to_device(wavs, device))), to_device(speakers, device))

    def judge(self, student: SpeechEncoder, head: nn.Module) -> dict[str, float]:
        """`held_out_eer`, the EER over all pairs of held-out utterances (a fraction); empty without such pairs."""
        assert self._batches is not None and isinstance(head, SpeakerHead)
        device = head.connector.weight.device
        embeddings = torch.zeros(len(self._batches.held_out), self._config.head.input_dim, device=device)
        for place, wav in self._batches.held_out_speech(distributed.rank(), distributed.world_size()):
            embeddings[place] = head.embed(student.states(student(wav[None].to(device))))[0]
        embeddings = distributed.all_reduce_sum(embeddings).cpu()
        read = embeddings.abs().sum(1) > 0  # an embedding has length 1; it is still 0 if the file cannot be read
        embeddings, speakers = embeddings[read], self._batches.held_out_speakers()[read]
        first, second = torch.triu_indices(len(speakers), len(speakers), offset=1)
        same = speakers[first] == speakers[second]
        if not same.any() or same.all():
            return {}
        scores = (embeddings @ embeddings.T)[first, second]
        return {"held_out_eer": equal_error_rate(same.long().numpy(), scores.double().numpy())}

    def state(self) -> dict[str, Any]:
        """The speakers."""
        return {"Speakers": list(self._corpus.names)}


class UpstreamPretrainExpert(OnePassExpert):
    """`-u <family>_pruned_sv`."""

    task_kind = VerificationTask
