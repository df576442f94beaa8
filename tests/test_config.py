"""A config is taken exactly as written, or refused with one message that says where and why."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.config import UserError, apply_overrides, from_dict, load_yaml, to_dict


@dataclass(kw_only=True)
class Distill:
    learning_rate: float = 2e-4
    total_steps: int = 200_000
    use_ste: bool = True
    teacher: str | None = None
    precision: Literal["fp32", "fp16"] = "fp16"
    layers: tuple[int, ...] = (3, 6, 9, 12)
    betas: tuple[float, float] = (0.9, 0.98)

    def validate(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"`learning_rate` must be positive, but is {self.learning_rate}.")


@dataclass(kw_only=True)
class Stage:
    name: str


@dataclass(kw_only=True)
class Recipe:
    distill: Distill = field(default_factory=Distill)
    stages: list[Stage] = field(default_factory=list)


def read(data):
    return from_dict(Recipe, data, "config_model.yaml")


def message(data):
    with pytest.raises(UserError) as caught:
        read(data)
    return str(caught.value)


def test_nothing_given_is_the_defaults():
    assert read({}) == Recipe()


def test_every_supported_type_is_read():
    recipe = read(
        {
            "distill": {
                "learning_rate": 1,
                "total_steps": 5,
                "use_ste": False,
                "teacher": "WavLM-Base.pt",
                "precision": "fp32",
                "layers": [1, 2],
                "betas": [0.5, 1],
            },
            "stages": [{"name": "one"}, {"name": "two"}],
        }
    )
    assert recipe.distill == Distill(
        learning_rate=1.0,
        total_steps=5,
        use_ste=False,
        teacher="WavLM-Base.pt",
        precision="fp32",
        layers=(1, 2),
        betas=(0.5, 1.0),
    )
    assert isinstance(recipe.distill.learning_rate, float)
    assert recipe.stages == [Stage(name="one"), Stage(name="two")]
    assert read({"distill": {"teacher": None}}).distill.teacher is None


def test_an_unknown_key_is_named_with_its_path_and_nearest_neighbour():
    assert message({"distill": {"lerning_rate": 0.1}}) == (
        "config_model.yaml: distill.lerning_rate: unknown key. Did you mean `learning_rate`?"
    )


def test_an_unknown_key_without_neighbour_lists_the_known_ones():
    assert message({"zzz": 1}) == "config_model.yaml: zzz: unknown key. Known keys: distill, stages."


def test_a_missing_required_key_is_named():
    assert message({"stages": [{"name": "one"}, {}]}) == (
        "config_model.yaml: stages[1].name: required, but not given. Add this key."
    )


@pytest.mark.parametrize(
    "key, value, complaint",
    [
        ("learning_rate", "fast", "must be a finite number, but is 'fast'."),
        ("learning_rate", True, "must be a finite number, but is True."),
        ("learning_rate", float("nan"), "must be a finite number, but is nan."),
        ("learning_rate", 10**400, "must be a finite number"),
        ("total_steps", 2.5, "must be a whole number written in digits, but is 2.5."),
        ("total_steps", True, "must be a whole number written in digits, but is True."),
        ("use_ste", 1, "must be true or false, but is 1."),
        ("teacher", False, "must be text (put it in quotes), but is False."),
        ("precision", "fp8", "must be one of fp32, fp16, but is 'fp8'."),
        ("layers", 3, "must be a list, such as [1, 2], but is 3."),
        ("layers", "36", "must be a list, such as [1, 2], but is '36'."),
        ("betas", [0.9], "must be a list of 2 values, but is [0.9]."),
    ],
)
def test_a_value_of_another_type_is_refused(key, value, complaint):
    text = message({"distill": {key: value}})
    assert text.startswith(f"config_model.yaml: distill.{key}: {complaint}")


def test_an_empty_section_is_refused():
    assert "config_model.yaml: distill: must be a section" in message({"distill": None})


def test_an_item_of_a_list_is_named_by_its_index():
    assert "distill.layers[1]: must be a whole number" in message({"distill": {"layers": [1, "x"]}})


def test_validate_is_called_and_its_message_says_where():
    assert message({"distill": {"learning_rate": -1}}) == (
        "config_model.yaml: distill: `learning_rate` must be positive, but is -1.0."
    )


def test_a_number_in_exponent_notation_is_a_float(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("distill:\n  learning_rate: 2e-3\n")
    assert isinstance(load_yaml(path)["distill"]["learning_rate"], str), "PyYAML has changed"
    assert read(load_yaml(path)).distill.learning_rate == 0.002


@settings(deadline=None)
@given(
    st.builds(
        Distill,
        learning_rate=st.floats(1e-9, 1e9),
        total_steps=st.integers(0, 10**9),
        teacher=st.none() | st.text(),
        layers=st.lists(st.integers()).map(tuple),
    )
)
def test_to_dict_survives_json_and_yaml(distill):
    recipe = Recipe(distill=distill, stages=[Stage(name="one")])
    assert read(json.loads(json.dumps(to_dict(recipe)))) == recipe
    assert read(yaml.safe_load(yaml.safe_dump(to_dict(recipe)))) == recipe


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"- 1\n- 2\n", "must hold `key: value` lines, but holds a list"),
        (b"a: [1\n", "is not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
        (b"a: 1\nb: 2\na: 3\n", "the key 'a' is given twice"),
        (b"\xff\xfe", "cannot be read as UTF-8 text"),
    ],
)
def test_a_bad_yaml_file_is_refused_by_name(tmp_path, content, complaint):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)


def test_a_missing_yaml_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml: no such file"):
        load_yaml(tmp_path / "nowhere.yaml")


def test_an_empty_yaml_file_is_the_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# nothing differs\n")
    assert load_yaml(path) == {}


def test_overrides_are_parsed_as_yaml_and_leave_the_original_alone():
    data = {"distill": {"learning_rate": 1.0, "use_ste": True}}
    changed = apply_overrides(
        data,
        ["distill.use_ste=false", "distill.layers=[1, 2]", "distill.teacher=a=b", "new.key=null"],
    )
    assert changed == {
        "distill": {"learning_rate": 1.0, "use_ste": False, "layers": [1, 2], "teacher": "a=b"},
        "new": {"key": None},
    }
    assert data == {"distill": {"learning_rate": 1.0, "use_ste": True}}


def test_s3prl_form_of_overrides_is_understood():
    changed = apply_overrides({}, "config.distill.learning_rate=1e-3,,distill.total_steps=7")
    assert read(changed).distill == Distill(learning_rate=1e-3, total_steps=7)


def test_a_later_override_wins():
    assert apply_overrides({}, ["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize("text", ["distill", "distill.teacher=", "=1", "a..b=1", ".=1"])
def test_an_override_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="must be written key.sub=value"):
        apply_overrides({}, [text])


def test_an_override_through_a_plain_value_is_refused():
    with pytest.raises(UserError, match="distill is not a section, but the value 3"):
        apply_overrides({"distill": 3}, ["distill.learning_rate=1"])


def test_override_values_are_never_evaluated(tmp_path):
    target = tmp_path / "written"
    texts = [f"__import__('pathlib').Path('{target}').touch()", "!!python/name:os.system ''"]
    assert apply_overrides({}, [f"a={texts[0]}"]) == {"a": texts[0]}
    with pytest.raises(UserError, match="is not valid YAML"):
        apply_overrides({}, [f"a={texts[1]}"])
    assert not target.exists()
