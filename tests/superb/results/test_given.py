"""Hand-written results: every value has its unit, and every mistake is one clear error."""

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.given import read_given


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_models_are_read_with_their_units(tmp_path):
    path = write(tmp_path, """
- model: a
  params_millions: 26.6
  source: a paper
  asr: {wer: {value: 10.6, unit: percent}, cer: {value: 3, unit: percent}}
  speech_commands: {acc: {value: 0.96, unit: fraction}}
- model: b
  sf: {slot_type_f1: {value: 88, unit: percent}}
""")  # fmt: skip
    first, second = read_given(path)
    assert (first.model, first.params_millions, first.source) == ("a", 26.6, "a paper")
    assert first.metrics["asr"] == [
        Value(name="wer", value=10.6, unit="percent"),
        Value(name="cer", value=3.0, unit="percent"),
    ]
    assert first.metrics["ks"][0].percent == pytest.approx(96)
    assert second.params_millions is None and list(second.metrics) == ["sf"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {model: a, asr: {wer: 10.6}}", r"asr: wer: must have its unit, .*unit: percent.* but is 10.6"),
        ("- {model: a, asr: {wer: {value: 10.6}}}", "asr: wer: unit: required, but not given"),
        ("- {model: a, asr: {wer: {value: 10.6, unit: permille}}}", "must be one of percent, fraction"),
        ("- {model: a, asr: {wer: {value: .nan, unit: percent}}}", "must be a finite number"),
        (
            "- {model: a, ks: {acc: {value: 96, unit: fraction}}}",
            "acc must be between 0 and 100 percent, but is 96 fraction",
        ),
        ("- {model: a, asr: {wer: {value: -1, unit: percent}}}", "wer must be at least 0 percent"),
        (
            "- {model: a, ars: {wer: {value: 1, unit: percent}}}",
            r"entry 1 \(a\): ars: no such SUPERB task. Did you mean `asr`",
        ),
        ("- {model: a, ctc: {per: {value: 1, unit: percent}}}", "ctc: no such SUPERB task"),
        ("- {model: a, param_millions: 3, asr: {wer: {value: 1, unit: percent}}}", "Did you mean `params_millions`"),
        ("- {model: a, asr: {per: {value: 1, unit: percent}}}", "asr: per: no such metric. Did you mean"),
        ("- {model: a, asr: 10.6}", "must give metrics by name .wer, cer., but is 10.6"),
        (
            "- {model: a, ks: {acc: {value: 1, unit: percent}}, speech_commands: {acc: {value: 1, unit: percent}}}",
            "ks is given twice",
        ),
        (
            "- {model: a, asr: {wer: {value: 1, unit: percent}}, asr: {wer: {value: 2, unit: percent}}}",
            "'asr' is given twice",
        ),
        (
            "- {model: a, asr: &x {wer: {value: 1, unit: percent}}}\n- {model: a, asr: *x}",
            "every model once, but a is there twice",
        ),
        ("- {asr: {wer: {value: 1, unit: percent}}}", "entry 1: model: required"),
        ("- {model: a}", "gives no task"),
        (
            "- {model: a, params_millions: 0, asr: {wer: {value: 1, unit: percent}}}",
            "`params_millions` must be positive",
        ),
        ("model: a", "must hold entries of `- key: value` lines"),
        ("[]", "names none"),
        ("- {model: a", "is not valid YAML"),
    ],
)
def test_a_mistake_is_one_clear_error(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        read_given(write(tmp_path, text))
    assert "mine.yaml" in str(error.value)
