"""An encoder with its CTC head: greedy transcription, word errors, and files of the head beside an exported encoder."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import normalize_waveform
from s3prl_pruned.formats.ctc_head import HEAD, NAME
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.objectives.ctc import Characters, CtcHead, WordErrors, greedy
from s3prl_pruned.pretrain.asr.config import AsrDataConfig
from s3prl_pruned.pretrain.asr.data import Labelled, corpus_root, read_sets, transcripts
from s3prl_pruned.pretrain.one_pass.head_files import read_head, written_head
from s3prl_pruned.progress import progress

HEAD_NOTE = (
    f"{HEAD}; s3prl_pruned.pretrain.asr.recognizer.load_recognizer(<this folder>).transcribe(wav) gives the text"
)
"""Text for cards."""
TEST = "test.json"


@dataclass
class Recognizer:
    """An encoder (dense, masked or pruned), the head on its last hidden state, and the alphabet."""

    encoder: SpeechEncoder
    head: CtcHead
    characters: Characters

    @torch.no_grad()
    def transcribe(self, wav: Tensor) -> str:
        """Greedy transcript of one utterance.

        Args:
            wav: (S,) float32, unnormalised, 16 kHz; at least 400 samples.
        """
        device = self.head.projection.weight.device
        if self.encoder.config.normalize_waveform:
            wav = normalize_waveform(wav)
        logits = self.head(self.encoder(wav[None].to(device)).hidden_states[-1])
        (outputs,) = greedy(logits, torch.tensor([logits.shape[1]]))
        return self.characters.decode(outputs)

    def recognize(
        self, labelled: Sequence[Labelled], progress: Callable[[Iterable], Iterable] = lambda items: items
    ) -> tuple[WordErrors, dict[str, str]]:
        """Word errors on labelled speech, and the hypotheses by utterance. In evaluation mode, one by one, unpadded."""
        modes = [(module, module.training) for module in (self.encoder, self.head)]
        for module, _ in modes:
            module.eval()
        errors, hypotheses = WordErrors(), {}
        for item in progress(labelled):
            text = hypotheses[item.utterance.id] = self.transcribe(item.utterance.read())
            errors += WordErrors.between(text, item.transcript)
        for module, training in modes:
            module.train(training)
        return errors, hypotheses


def ctc_files(state: dict[str, Any]) -> dict[str, bytes]:
    """Files of the CTC head and its alphabet: content by file name.

    Args:
        state: a training checkpoint, with the weights to export in `Head`.
    """
    return written_head(NAME, state["Head"], {"characters": state["Characters"]})


def load_recognizer(folder: str | Path) -> Recognizer:
    """Load a recogniser from an export of `-u <family>_pruned_asr`.

    Returns:
        The recogniser, on the CPU and in evaluation mode.

    Raises:
        UserError: it is not such an export, or is damaged.
    """
    folder = Path(folder)
    encoder, _ = load_encoder(folder, for_inference=True)

    def make(settings: Any) -> CtcHead:
        return CtcHead(encoder.config.embed_dim, Characters(settings["characters"]).num_outputs)

    head, settings = read_head(folder, NAME, make, what="CTC head", objective="asr")
    return Recognizer(encoder, head, Characters(settings["characters"]))


def tested(folder: Path, export: Path, datarc: AsrDataConfig, device: str = "cpu") -> dict:
    """Word errors of a run's export on its test sets: measured once, then read from `test.json`.

    Args:
        folder: folder of the run.
        export: folder of the exported recogniser.
        datarc: names the test sets.
        device: torch device.

    Returns:
        `wer` (a fraction), `edits`, `words`, and `utterances`: by id, `reference` and `hypothesis`.
    """
    if not (folder / TEST).exists():
        recognizer, labelled = load_recognizer(export), read_sets(corpus_root(datarc), datarc.test_sets)
        recognizer.encoder.to(device), recognizer.head.to(device)
        errors, hypotheses = recognizer.recognize(labelled, lambda items: progress(items, desc="test", delay=2))
        texts = {key: {"reference": text, "hypothesis": hypotheses[key]} for key, text in transcripts(labelled).items()}
        data = {"wer": errors.rate, "edits": errors.edits, "words": errors.words, "utterances": texts}
        write_text(folder / TEST, json.dumps(data, indent=1) + "\n")
    return read_test(folder)


def test_lines(folder: Path, export: Path, datarc: AsrDataConfig, device: str) -> list[str]:
    """Lines about the result of `tested` for the screen; empty without test sets.

    Args:
        folder: folder of the run.
        export: folder of the exported recogniser.
        datarc: names the test sets.
        device: torch device.
    """
    if not datarc.test_sets:
        return []
    result = tested(folder, export, datarc, device)
    errors = f"{result['edits']} of {result['words']} words"
    return [f"WER on {' '.join(datarc.test_sets)}: {100 * result['wer']:.2f} % ({errors}), greedy"]


def read_test(folder: str | Path) -> dict:
    """Read the result that `tested` saved.

    Raises:
        UserError: there is no such result, or it is damaged.
    """
    path = Path(folder) / TEST
    try:
        data = json.loads(path.read_text())
        data["wer"], data["edits"], data["words"], data["utterances"]
        return data
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not a test result of an ASR run ({error!r}). Name the folder of a finished run."
        ) from error
