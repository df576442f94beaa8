"""IEMOCAP as SUPERB uses it: four classes, five folds, made from the corpus's own annotation.

s3prl's package lacks its ``emotion/meta_data``. The order of these lists matters: the expert draws the development set
from them at random with a fixed seed. Sessions are in order, their dialogues in the order in which a file system once
listed them, and the utterances of a dialogue by name. With ``DIALOGUES`` the lists are the same as s3prl's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError

LABELS = {"neu": 0, "hap": 1, "ang": 2, "sad": 3}
"""The classes and their numbers in s3prl; ``exc`` (excited) counts as ``hap``, other emotions are left out."""

DIALOGUES = {
    1: """F_script02_2 F_impro07 F_script03_2 M_impro02 F_impro06 F_script01_3 M_script02_1 M_impro04 M_script01_1
        F_impro01 F_script01_1 F_impro05 M_script01_2 M_script02_2 F_script02_1 M_script03_2 M_impro05 M_impro01
        F_impro03 M_impro03 M_script01_3 F_script03_1 M_impro07 F_impro02 M_impro06 M_script03_1 F_impro04
        F_script01_2""",
    2: """F_impro03 F_script03_2 M_script03_2 M_impro04 M_impro05 F_script02_1 F_script02_2 M_script02_2 M_impro08
        M_impro07 F_script03_1 M_script01_3 F_impro06 F_impro01 F_impro04 F_script01_2 M_impro02 M_impro03 F_script01_3
        F_impro05 F_script01_1 M_impro06 M_script02_1 F_impro08 F_impro02 M_script01_1 M_impro01 M_script01_2
        M_script03_1 F_impro07""",
    3: """F_script02_1 M_impro04 M_script03_2 M_impro05b M_impro02 F_impro05 M_script02_2 M_impro08b F_impro07
        M_script01_1 M_script02_1 M_impro05a M_impro07 M_script03_1 F_script03_1 M_impro01 F_script01_1 F_impro04
        F_script02_2 F_script01_3 M_script01_3 M_impro06 F_impro01 F_impro03 M_script01_2 M_impro08a M_impro03
        F_script03_2 F_script01_2 F_impro08 F_impro06 F_impro02""",
    4: """F_script03_1 F_impro01 M_script02_1 M_script02_2 F_script01_3 M_impro05 F_script02_1 F_impro07 F_impro02
        F_impro03 M_impro02 F_script01_1 M_script01_1 F_script03_2 M_impro06 F_script02_2 M_impro01 M_impro04 F_impro05
        F_script01_2 F_impro08 F_impro06 M_impro03 M_script01_3 M_script01_2 M_script03_1 M_script03_2 M_impro07
        F_impro04 M_impro08""",
    5: """M_script01_3 F_impro04 M_script02_2 F_script01_3 F_script01_2 F_impro06 M_impro06 M_impro01 F_script03_1
        F_impro07 F_script03_2 M_script01_1b F_impro05 M_script01_1 F_impro08 M_script03_1 M_impro05 F_impro01 F_impro02
        M_impro03 F_script01_1 M_impro04 M_script02_1 F_impro03 F_script02_2 F_script02_1 M_script03_2 M_impro08
        M_impro02 M_impro07 M_script01_2""",
}
"""Per session, the dialogues in the order of s3prl's ``emotion/meta_data`` (``Ses01F_script02_2``, ...). Other
dialogues come after them."""

SESSIONS = tuple(DIALOGUES)


@dataclass(frozen=True, kw_only=True)
class EmotionUtterance:
    """One utterance of the four classes."""

    path: str
    """Path below the corpus: ``Session1/sentences/wav/<dialogue>/<utterance>.wav``."""
    label: str
    speaker: str

    def as_s3prl(self) -> dict[str, str]:
        """The utterance's entry in s3prl's ``meta_data``."""
        return {"path": self.path, "label": self.label, "speaker": self.speaker}


def read_session(root: Path, session: int) -> list[EmotionUtterance]:
    """The utterances of a session, in s3prl's order.

    Args:
        root: the corpus.
        session: 1 to 5.

    Raises:
        UserError: if an annotation cannot be read, or there are no utterances.
    """
    annotation = root / f"Session{session}" / "dialog" / "EmoEvaluation"
    order = [f"Ses{session:02d}{name}" for name in DIALOGUES[session].split()]
    # The archive holds a macOS file such as `._Ses01F_impro01.txt` beside each.
    names = sorted(path.stem for path in annotation.glob("*.txt") if not path.name.startswith("."))
    utterances = []
    for dialogue in sorted(names, key=lambda name: order.index(name) if name in order else len(order)):
        emotions = _read_emotions(annotation / f"{dialogue}.txt")
        for name in sorted(emotions):
            path = f"Session{session}/sentences/wav/{dialogue}/{name}.wav"
            if (root / path).is_file():
                utterances.append(EmotionUtterance(path=path, label=emotions[name], speaker=name.partition("_")[0]))
    if not utterances:
        raise UserError(
            f"{annotation}: must hold annotations (*.txt) of utterances in Session{session}/sentences/wav with one of "
            f"the emotions {', '.join([*LABELS, 'exc'])}, but holds none."
        )
    return utterances


def _read_emotions(path: Path) -> dict[str, str]:
    """The emotion by utterance.

    Lines look like ``[6.29 - 8.23]<TAB>Ses01F_impro01_F000<TAB>neu<TAB>[2.5, 2.5, 2.5]``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}).") from error
    emotions = {}
    for line in lines:
        match = re.match(r"\[[^\]]*\]\t+(\S+)\t+(\w+)", line)
        if match and (label := match[2].replace("exc", "hap")) in LABELS:
            emotions[match[1]] = label
    return emotions
