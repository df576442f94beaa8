"""Texts that s3prl saved: every utterance once, the same in hypotheses and references."""

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.arks import read_hypotheses


def an_s3prl_run(folder, hyp="1-7-0000 ONE\n1-7-0001\n", ref="1-7-0000 ONE\n1-7-0001 ONE TWO\n"):
    """The files of an evaluation by s3prl's asr."""
    folder.mkdir(parents=True)
    (folder / "test-clean-noLM-hyp.ark").write_text(hyp)
    (folder / "test-clean-noLM-ref.ark").write_text(ref)
    return folder


def test_an_empty_hypothesis_is_kept(tmp_path):
    hypotheses, references = read_hypotheses(an_s3prl_run(tmp_path / "asr"), "test-clean-noLM")
    assert hypotheses == {"1-7-0000": "ONE", "1-7-0001": ""}
    assert references["1-7-0001"] == "ONE TWO"


@pytest.mark.parametrize(
    ("hyp", "message"),
    [
        ("1-7-0000 ONE\n", r"must hold the same utterances, but 1 are in one of them only \(1-7-0001\)"),
        ("1-7-0000 ONE\n1-7-0000 ONE\n", "every line must begin with another utterance's id"),
        ("", "is empty"),
    ],
)
def test_inconsistent_arks_are_refused(tmp_path, hyp, message):
    with pytest.raises(UserError, match=message):
        read_hypotheses(an_s3prl_run(tmp_path / "asr", hyp=hyp), "test-clean-noLM")
