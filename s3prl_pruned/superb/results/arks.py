"""The texts that s3prl's ASR, PR and SF save in an evaluation: ``<stem>-hyp.ark`` and ``<stem>-ref.ark``.

s3prl prints its test metrics without saving them; they are recomputed from these texts. Each line is
``utterance-id WORD WORD ...``; the stem is the split's name (``test``), and for ASR ``test-clean-noLM``.
"""

from __future__ import annotations

from pathlib import Path

from s3prl_pruned.config import UserError


def ark_paths(folder: Path, stem: str) -> tuple[Path, Path]:
    """The files of the hypotheses and of the references."""
    return folder / f"{stem}-hyp.ark", folder / f"{stem}-ref.ark"


def read_hypotheses(folder: Path, stem: str) -> tuple[dict[str, str], dict[str, str]]:
    """Hypotheses and references by utterance.

    Raises:
        UserError: if one of the two is missing or empty, or they hold different utterances.
    """
    hypotheses, references = (_read_ark(path) for path in ark_paths(folder, stem))
    if hypotheses.keys() != references.keys():
        alone = sorted(hypotheses.keys() ^ references.keys())
        raise UserError(
            f"{folder}: hypotheses and references of {stem} must hold the same utterances, but {len(alone)} are in "
            f"one of them only ({', '.join(alone[:3])}). Evaluate again."
        )
    return hypotheses, references


def _read_ark(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Evaluate the run again.") from error
    texts: dict[str, str] = {}
    for line in lines:
        key, _, text = line.partition(" ")
        if not key or key in texts:
            raise UserError(f"{path}: every line must begin with another utterance's id, but has {line!r}.")
        texts[key] = text.strip()
    if not texts:
        raise UserError(f"{path}: is empty. Evaluate the run again.")
    return texts
