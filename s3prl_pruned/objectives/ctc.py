"""CTC on characters (Graves et al. 2006): alphabet, head, loss, greedy decoding and word errors."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import ALPHABET

BLANK = 0
LETTERS = "".join(sorted(ALPHABET))
"""Space, apostrophe and A to Z, as in LibriSpeech's transcripts."""


@dataclass(frozen=True)
class Characters:
    """The characters of transcripts, each once. Character i of the text is output i + 1; output 0 is the blank."""

    text: str = LETTERS

    def __post_init__(self) -> None:
        if not self.text or len(set(self.text)) < len(self.text):
            raise UserError(f"`characters` must be distinct characters, at least one, but are {self.text!r}.")

    @classmethod
    def of(cls, transcripts: Mapping[str, str]) -> "Characters":
        """All characters in some transcripts, a mapping from utterance to text."""
        return cls("".join(sorted(set().union(*transcripts.values()))))

    @property
    def num_outputs(self) -> int:
        """Number of outputs: characters and the blank."""
        return len(self.text) + 1

    def encode(self, transcript: str) -> list[int]:
        """Outputs of a transcript, all of whose characters must be known (`refuse_unknown`)."""
        return [self.text.index(character) + 1 for character in transcript]

    def decode(self, outputs: Sequence[int]) -> str:
        """The transcript of outputs without blanks; leading, trailing and repeated spaces are removed."""
        return " ".join("".join(self.text[output - 1] for output in outputs).split())

    def refuse_unknown(self, transcripts: Mapping[str, str], *, where: str) -> None:
        """Raise one UserError that lists all characters of `transcripts` (by utterance) outside the alphabet."""
        unknown: dict[str, list[str]] = {}
        for utterance, transcript in transcripts.items():
            for character in set(transcript) - set(self.text):
                unknown.setdefault(character, []).append(utterance)
        if unknown:
            listed = "; ".join(f"{c!r} in {len(names)}, such as {names[0]}" for c, names in sorted(unknown.items()))
            raise UserError(
                f"{where}: transcripts hold {len(unknown)} characters outside the vocabulary {self.text!r}: {listed}. "
                "Normalise the transcripts, add the characters to `ctc.characters`, or set it to null to use the "
                "characters of the training transcripts."
            )


def frames_needed(outputs: Sequence[int]) -> int:
    """Smallest number of frames for which CTC can output `outputs`: one each, and a blank between equal neighbours."""
    return len(outputs) + sum(a == b for a, b in itertools.pairwise(outputs))


class CtcHead(nn.Module):
    """Dropout and a linear map: states (B, T, D) -> logits (B, T, outputs)."""

    def __init__(self, embed_dim: int, num_outputs: int, *, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(embed_dim, num_outputs)
        nn.init.normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Logits (B, T, outputs) of hidden states (B, T, D)."""
        return self.projection(self.dropout(states))


def ctc_loss(logits: Tensor, frame_lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Negative log-likelihood of the transcripts, summed over the batch: a scalar, in fp32 also under autocast.

    Divided by the number of characters in the global batch, this is fairseq's loss. The caller divides, because only it
    knows the other micro-batches and ranks.

    Args:
        logits: (B, T, outputs).
        frame_lengths: (B,) int64, frames that are not padding; at least `frames_needed` of each transcript.
        targets: (B, U) int64 outputs, padded with anything.
        target_lengths: (B,) int64.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_probabilities = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)  # (T, B, outputs)
        return F.ctc_loss(log_probabilities, targets, frame_lengths, target_lengths, blank=BLANK, reduction="sum")


def greedy(logits: Tensor, frame_lengths: Tensor) -> list[list[int]]:
    """Most probable output of each frame; repetitions are merged, then blanks are dropped.

    Args:
        logits: (B, T, outputs).
        frame_lengths: (B,) frames that are not padding.
    """
    best = logits.argmax(-1)
    paths = [torch.unique_consecutive(path[:length]) for path, length in zip(best, frame_lengths.tolist(), strict=True)]
    return [path[path != BLANK].tolist() for path in paths]


@dataclass(frozen=True)
class WordErrors:
    """Substitutions, deletions and insertions over whole test sets, and the number of reference words."""

    edits: int = 0
    words: int = 0

    @classmethod
    def between(cls, hypothesis: str, reference: str) -> "WordErrors":
        """Errors of one utterance; words are separated by spaces."""
        import editdistance

        words = reference.split()
        return cls(editdistance.eval(hypothesis.split(), words), len(words))

    def __add__(self, other: "WordErrors") -> "WordErrors":
        return WordErrors(self.edits + other.edits, self.words + other.words)

    @property
    def rate(self) -> float:
        """WER as a fraction; above 1 if there are many insertions.

        Raises:
            UserError: there are no reference words.
        """
        if not self.words:
            raise UserError("WER: the references are empty; there is nothing to score.")
        return self.edits / self.words
