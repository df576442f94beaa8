"""Speech recognition as a task of one-pass pruning (Xu et al. 2025): CTC on characters, judged by word errors."""

from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned import distributed
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.objectives.ctc import Characters, CtcHead, ctc_loss
from s3prl_pruned.pretrain.asr.config import AsrDataConfig, AsrModelConfig
from s3prl_pruned.pretrain.asr.data import LabelledBatches, corpus_root, labelled_digest, read_corpus, transcripts
from s3prl_pruned.pretrain.asr.recognizer import Recognizer
from s3prl_pruned.pretrain.one_pass.expert import OnePassExpert
from s3prl_pruned.pretrain.one_pass.task import OnePassTask
from s3prl_pruned.transfers import to_device


class RecognitionTask(OnePassTask[AsrDataConfig, AsrModelConfig]):
    """Character CTC on the encoder's last hidden state. A batch is a `LabelledBatch`."""

    name, loss_name = "asr", "ctc"
    data_kind, model_kind = AsrDataConfig, AsrModelConfig

    def __init__(self, datarc: AsrDataConfig, config: AsrModelConfig, *, seed: int):
        self._datarc, self._config, self._seed = datarc, config, seed
        self._training, self._dev, test = read_corpus(datarc)
        self.speech = labelled_digest(self._training, self._dev, test)
        texts = transcripts(self._training)
        given = config.ctc.characters
        self._characters = Characters.of(texts) if given is None else Characters(given)
        self._characters.refuse_unknown(
            {**texts, **transcripts(self._dev), **transcripts(test)}, where=str(corpus_root(datarc))
        )

    def head(self, shape: EncoderConfig) -> CtcHead:
        """The CTC head."""
        return CtcHead(shape.embed_dim, self._characters.num_outputs, dropout=self._config.ctc.dropout)

    def batches(self, shape: EncoderConfig) -> LabelledBatches:
        """Whole utterances with transcripts, padded."""
        return LabelledBatches(self._training, self._characters, shape, self._datarc, seed=self._seed)

    def num_units(self, batch: tuple[Tensor, ...]) -> int:
        """Number of characters."""
        return int(batch[3].sum())

    def loss(self, student: SpeechEncoder, head: nn.Module, batch: tuple[Tensor, ...], device: torch.device) -> Tensor:
        """CTC loss, summed over the characters."""
        wavs, lengths, targets, target_lengths = batch  # CTC wants lengths on the CPU
        host_lengths = lengths if bool((lengths < wavs.shape[1]).any()) else None
        padded = None if host_lengths is None else to_device(host_lengths, device)
        logits = head(student(to_device(wavs, device), padded).hidden_states[-1])
        frames = student.frame_lengths(host_lengths, wavs, logits.shape[1])
        return ctc_loss(logits, frames, to_device(targets, device), target_lengths)

    def judge(self, student: SpeechEncoder, head: nn.Module) -> dict[str, float]:
        """`dev_wer`, the WER of greedy decoding on the dev speech (a fraction); empty without dev speech."""
        if not self._dev:
            return {}
        assert isinstance(head, CtcHead)
        own = self._dev[distributed.rank() :: distributed.world_size()]
        errors, _ = Recognizer(student, head, self._characters).recognize(own)
        found = torch.tensor([errors.edits, errors.words], device=head.projection.weight.device)
        edits, words = distributed.all_reduce_sum(found).tolist()
        return {"dev_wer": edits / words}

    def state(self) -> dict[str, Any]:
        """The alphabet."""
        return {"Characters": self._characters.text}


class UpstreamPretrainExpert(OnePassExpert):
    """`-u <family>_pruned_asr`."""

    task_kind = RecognitionTask
