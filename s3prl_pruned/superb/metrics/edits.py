"""ASR, PR and SF: error rates and slot type F1, from the hypotheses and references that s3prl saves.

PR and SF use the host's own functions (``s3prl.metric``), which the benchmark prints. A slot is tagged in the text:
``PLAY B-artist MOBY E-artist NOW``. ASR's rates are in percent, the others fractions; error rates may exceed 100 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value


def word_and_character_error_rates(hypotheses: Mapping[str, str], references: Mapping[str, str]) -> list[Value]:
    """WER and CER of a test set in percent: edits divided by reference length.

    The single spaces between words count as characters.

    Args:
        hypotheses: text by utterance.
        references: text by utterance; the same utterances.

    Raises:
        UserError: if the references hold no words.
    """
    rates = []
    for name, units in (("wer", str.split), ("cer", list)):
        pairs = [(units(hypotheses[key]), units(text)) for key, text in references.items()]
        edits, length = _edits(pairs, name)
        rates.append(Value(name=name, value=100.0 * edits / length, unit="percent"))
    return rates


def phone_error_rate(hypotheses: Mapping[str, str], references: Mapping[str, str]) -> float:
    """Edits between phone sequences divided by the number of reference phones, over a whole test set.

    Args:
        hypotheses: phones separated by spaces, by utterance.
        references: likewise; the same utterances.

    Raises:
        UserError: if the references are empty.
    """
    if not any(references.values()):
        raise UserError("per: the references are empty; there is nothing to score.")
    return _by_host(_host().per, hypotheses, references, "per")


def slot_type_f1(hypotheses: Mapping[str, str], references: Mapping[str, str]) -> float:
    """Mean over the utterances of the F1 between the two sets of slot types; 1 where both are empty.

    Args:
        hypotheses: tagged text by utterance.
        references: likewise; the same utterances.

    Raises:
        UserError: if there are no references, or a text's tags cannot be read.
    """
    return _by_host(_host().slot_type_f1, hypotheses, references, "slot_type_f1")


def slot_value_cer(hypotheses: Mapping[str, str], references: Mapping[str, str]) -> float:
    """Character edits divided by reference characters, over the values of all slots in the references.

    Each reference value is compared with the nearest hypothesis value of the same type in its utterance, or with an
    empty text if there is none. Additional slots in a hypothesis cost nothing.

    Args:
        hypotheses: tagged text by utterance.
        references: likewise; the same utterances.

    Raises:
        UserError: if the references hold no slots, or a text's tags cannot be read.
    """
    return _by_host(_host().slot_value_cer, hypotheses, references, "slot_value_cer")


def edits_of(hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
    """Edits between two sequences of units, and the number of units in the reference."""
    import editdistance

    return editdistance.eval(hypothesis, reference), len(reference)


def slot_value_edits(hypothesis: str, reference: str) -> tuple[int, int]:
    """The part of one utterance in ``slot_value_cer``: edits, and number of characters in the reference's values."""
    values, _ = _host().slot_filling.get_slot_dict(hypothesis, reference)
    length = sum(len(value) for of_slot in values.values() for value in of_slot)
    return (round(slot_value_cer({"": hypothesis}, {"": reference}) * length) if length else 0), length


def _host() -> ModuleType:
    """The module ``s3prl.metric``."""
    try:
        import s3prl.metric
    except ImportError as error:
        raise UserError(
            f"PR and SF are scored by s3prl.metric, which cannot be imported ({error}). Run pip install scikit-learn."
        ) from error
    return s3prl.metric


def _by_host(
    metric: Callable[[list[str], list[str]], float],
    hypotheses: Mapping[str, str],
    references: Mapping[str, str],
    name: str,
) -> float:
    """Call a metric of the host on lists; its exceptions become a UserError."""
    try:
        return float(metric([hypotheses[key] for key in references], list(references.values())))
    except ZeroDivisionError:
        raise UserError(f"{name}: the references are empty; there is nothing to score.") from None
    except ValueError as error:
        raise UserError(f"{name}: s3prl cannot read the tags of a text ({error}).") from error


def _edits(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], name: str) -> tuple[int, int]:
    """Edits, and length of the references, summed over pairs of hypothesis and reference."""
    counts = [edits_of(hypothesis, reference) for hypothesis, reference in pairs]
    length = sum(units for _, units in counts)
    if length == 0:
        raise UserError(f"{name}: the references are empty; there is nothing to score.")
    return sum(found for found, _ in counts), length
