"""ASR, PR and SF: error rates and slot type F1, from the hypotheses and references that s3prl keeps.

The definitions are the benchmark's (s3prl's ``asr/expert.py`` and ``ctc/metric.py``, which print the numbers and keep
none). A slot is tagged in the text, ``PLAY B-artist MOBY E-artist NOW``. ASR's are in percent, the others fractions;
error rates may exceed 100 percent.

The tags' pattern keeps s3prl's meaning in the odd cases of an untrained model too: a slot opens at ``B-type``, closes
at the nearest ``E-type``, and tags of other slots inside it are dropped from a hypothesis' value (not from a
reference's).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value

_SLOT = re.compile(r"B-(\S+) (.+?) E-\1")
_HOPELESS = 100.0
"""s3prl takes a slot's value as empty where every hypothesis has this error rate or more."""


def word_and_character_error_rates(hypotheses: Mapping[str, str], references: Mapping[str, str]) -> list[Value]:
    """WER and CER over a test set, percent: edits over reference length.

    Characters include the single spaces between words.

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
    """Edits between phone sequences over reference phones, of a whole test set.

    Args:
        hypotheses: phones separated by spaces, by utterance.
        references: likewise; the same utterances.
    """
    return _error_rate([(hypotheses[key].split(), text.split()) for key, text in references.items()], "per")


def slot_type_f1(hypotheses: Mapping[str, str], references: Mapping[str, str]) -> float:
    """Mean over the utterances of the F1 between the sets of slot types; 1 where neither has any.

    Args:
        hypotheses: tagged text by utterance.
        references: likewise; the same utterances.
    """
    if not references:
        raise UserError("slot_type_f1: there are no references; there is nothing to score.")
    scores = []
    for key, reference in references.items():
        found, wanted = (set(_slots(text)) for text in (hypotheses[key], reference))
        # 2 PR / (P + R) with P = common / found and R = common / wanted
        scores.append(2 * len(found & wanted) / (len(found) + len(wanted)) if found or wanted else 1.0)
    return sum(scores) / len(scores)


def slot_value_cer(hypotheses: Mapping[str, str], references: Mapping[str, str]) -> float:
    """Character edits over reference characters, of the values of all slots in the references.

    Each reference value is compared with the nearest hypothesis value of the same type in its utterance, or with
    nothing. What a hypothesis has more than the reference costs nothing.

    Args:
        hypotheses: tagged text by utterance.
        references: likewise; the same utterances.
    """
    pairs = []
    for key, reference in references.items():
        found = {slot: [_untagged(value) for value in values] for slot, values in _slots(hypotheses[key]).items()}
        for slot, values in _slots(reference).items():
            pairs += [(_nearest(found.get(slot, []), value), value) for value in values]
    return _error_rate(pairs, "slot_value_cer")


def _slots(text: str) -> dict[str, list[str]]:
    """Values by slot type, in the order of the text."""
    slots: dict[str, list[str]] = {}
    for slot, value in _SLOT.findall(re.sub(r" +", " ", text)):
        slots.setdefault(slot, []).append(value)
    return slots


def _untagged(value: str) -> str:
    return re.sub(r" E-(\S+)", "", re.sub(r"B-(\S+) ", "", value))


def _nearest(candidates: Sequence[str], reference: str) -> str:
    rates = [_error_rate([(candidate, reference)], "slot value") for candidate in candidates]
    best = min(rates, default=_HOPELESS)
    return candidates[rates.index(best)] if best < _HOPELESS else ""


def _error_rate(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], name: str) -> float:
    edits, length = _edits(pairs, name)
    return edits / length


def _edits(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], name: str) -> tuple[int, int]:
    """Edits, and length of the references, summed over pairs of hypothesis and reference."""
    import editdistance

    length = sum(len(reference) for _, reference in pairs)
    if length == 0:
        raise UserError(f"{name}: the references are empty; there is nothing to score.")
    return sum(editdistance.eval(hypothesis, reference) for hypothesis, reference in pairs), length
