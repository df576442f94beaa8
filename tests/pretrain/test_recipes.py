"""A recipe may name another one as its base and hold only the differences; old keys of targets are read."""

import json
from pathlib import Path

import pytest

from s3prl_pruned.config import UserError, from_dict, laid_over, to_dict
from s3prl_pruned.former_defaults import former_values, with_values
from s3prl_pruned.models.shape import FAMILIES
from s3prl_pruned.pretrain.objectives import OBJECTIVES
from s3prl_pruned.pretrain.recipes import (
    MODEL_FILE,
    RUNNER_FILE,
    load_recipe,
    recipe_folder,
    whole_recipe,
    with_overrides,
)
from s3prl_pruned.pretrain.resolve import RECIPES, parse_arguments, resolve

BEFORE = json.loads((Path(__file__).parent / "recipes_before_base.json").read_text())
"""Content of each recipe before recipes had bases, with all defaults and old keys of targets, as in `run.json`. Two are
complete, the others are differences from one of these."""
ONE_PASS = {f"self_pinching_{task}{size}": task for task in ("sv", "sd") for size in ("", "_embedded")}
"""Later recipes of one-pass pruning, and their objectives."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_recipe_that_messages_advise_exists(family, objective):
    assert recipe_folder(whole_recipe(family, objective)) is not None


def test_no_recipe_is_missing_and_new_ones_are_valid():
    there = {path.name for path in RECIPES.iterdir()}
    assert set(BEFORE["recipes"]) <= there
    for name in there - set(BEFORE["recipes"]) - set(ONE_PASS):
        family = {"xls": "wav2vec2", "embedded": "wavlm"}.get(name.split("_")[0], name.split("_")[0])
        run = resolve(parse_arguments(["-u", f"{family}_pruned_distill", "--recipe", name]))
        goal = 0.72 if name == "embedded_pos" else 0.8  # its positional convolution counts, and the size is the same
        assert run.recipe == name and run.model.sparsity.goal == pytest.approx(goal)


@pytest.mark.parametrize(("name", "objective"), ONE_PASS.items())
def test_recipes_of_one_pass_are_valid(name, objective):
    assert resolve(parse_arguments(["-u", f"wavlm_pruned_{objective}", "--recipe", name])).recipe == name


@pytest.mark.parametrize("name", BEFORE["recipes"])
def test_every_recipe_has_the_same_content_as_without_a_base(name):
    kind, changes = BEFORE["recipes"][name]
    before, objective = laid_over(BEFORE[kind], changes), OBJECTIVES[kind]
    before["runner"]["pretrain_expert"]["datarc"]["num_workers"] = None  # today null, without effect on results
    for key, cls, file in (("model", objective.model, MODEL_FILE), ("runner", objective.runner, RUNNER_FILE)):
        now = from_dict(cls, load_recipe(RECIPES / name / file, file), name)
        former = former_values(cls, before[key])
        written, was = to_dict(now), to_dict(from_dict(cls, before[key], f"{name} before"))
        assert with_values(written, former) == with_values(was, former)
        assert from_dict(cls, json.loads(json.dumps(written)), "run.json") == now
        if key == "model":
            written["sparsity"] = before["model"]["sparsity"]  # the only section with other keys
        assert keys_of(with_values(written, former), before[key]) == keys_of(
            with_values(before[key], former), before[key]
        )


def keys_of(data, older):
    """Keys that an older version knew; later fields have defaults that change nothing, as checked above."""
    if not isinstance(data, dict) or not isinstance(older, dict):
        return data
    return {key: keys_of(value, older[key]) for key, value in data.items() if key in older}


def write(folder, text, file=MODEL_FILE):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(text)
    return folder / file


def test_mappings_are_merged_by_key_and_lists_are_replaced(tmp_path):
    write(tmp_path / "a", "teacher: x\ngates: {kinds: [head, int], straight_through: false}\nself_pinching: null\n")
    write(tmp_path / "b", "base: ../a\ngates: {kinds: [int]}\nself_pinching: {kinds: [int]}\n")
    path = write(tmp_path / "c", "base: ../b\nteacher: y\n")
    assert load_recipe(path, MODEL_FILE) == {
        "teacher": "y",
        "gates": {"kinds": ["int"], "straight_through": False},
        "self_pinching": {"kinds": ["int"]},
    }


def test_a_base_is_one_of_our_recipes_or_a_folder_relative_to_the_file(tmp_path, monkeypatch):
    path = write(tmp_path / "mine", "base: embedded\nteacher: random\n")
    theirs = load_recipe(RECIPES / "embedded" / MODEL_FILE, MODEL_FILE)
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path, MODEL_FILE) == theirs | {"teacher": "random"}
    other = write(tmp_path / "other", "base: ../mine\n", file="named_otherwise.yaml")
    assert load_recipe(other, MODEL_FILE) == load_recipe(path, MODEL_FILE)
    assert recipe_folder("mine") == Path("mine") and recipe_folder("nowhere") is None


def test_a_run_uses_the_merged_recipe(tmp_path):
    write(tmp_path / "mine", "base: embedded\nsparsity: {target: {share: 0.6}}\n")
    write(tmp_path / "mine", "base: embedded\nrunner: {total_steps: 7}\n", file=RUNNER_FILE)
    run = resolve(parse_arguments(["-u", "wavlm_pruned_distill", "--recipe", str(tmp_path / "mine")]))
    assert (
        run.model.student.dropout == 0 and run.model.sparsity.warmup_fraction == 0.6 and run.model.sparsity.goal == 0.6
    )
    assert (run.runner.runner.total_steps, run.runner.runner.save_step, run.runner.optimizer.gate_lr) == (7, 100, 0.2)
    assert "base" not in json.dumps(run.identity()).replace("wavlm_base", "")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            "embeded",
            "b/config_model.yaml: `base` must be a recipe or a folder, but is 'embeded'. Did you mean `embedded`?",
        ),
        ("zzz", r"`base` must be a recipe or a folder, but is 'zzz'. Recipes: best_base, best_embedded"),
        ("[a]", r"`base` must be a recipe or a folder, but is \['a'\]"),
        ("../b", "`base` is circular: b -> b. Leave one of them out"),
        ("../c", "`base` is circular: b -> c -> b"),
        ("../empty", "empty/config_model.yaml: no such file"),
    ],
)
def test_an_unknown_base_and_a_circular_one_are_refused(tmp_path, base, message):
    path = write(tmp_path / "b", f"base: {base}\n")
    write(tmp_path / "c", "base: ../b\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        load_recipe(path, MODEL_FILE)


def test_old_keys_of_targets_work_over_a_base_with_current_keys(tmp_path):
    path = write(tmp_path / "mine", "base: embedded\nsparsity: {target_macs: 0.7, utterance_seconds: 2}\n")
    assert load_recipe(path, MODEL_FILE)["sparsity"] == {
        "warmup_fraction": 0.6,
        "target": {"of": "macs", "share": 0.7, "seconds": 2},
    }
    path = write(tmp_path / "both", "sparsity: {target_sparsity: 0.7, target: {share: 0.7}}\n")
    with pytest.raises(UserError) as refusal:
        load_recipe(path, MODEL_FILE)
    assert str(refusal.value) == (
        f"{path}: sparsity: `target_sparsity` is an old key for a target, but `target` is set too. "
        "Keep only the current one, such as `target: {of: params, share: 0.8}`."
    )


PARAMS, CNN = {"of": "params", "share": 0.759}, {"of": "macs", "share": 0.45}
"""The targets of `best_base`."""


@pytest.mark.parametrize(
    ("items", "target", "cnn"),
    [
        ("target_sparsity=0.6", {"of": "params", "share": 0.6}, CNN),
        ("target.share=0.6", {"of": "params", "share": 0.6}, CNN),
        ("target.of=macs target.share=0.7", {"of": "macs", "share": 0.7}, CNN),
        ("target_macs=0.7 utterance_seconds=2", {"of": "macs", "share": 0.7, "seconds": 2}, {**CNN, "seconds": 2}),
        ("target_cnn=null", PARAMS, None),
        ("cnn_target=null", PARAMS, None),
        ("latency_table=t target_cnn=0.5", PARAMS, {"of": "time", "share": 0.5, "table": "t"}),
        (
            "target_speedup=2.5 latency_table=t",
            {"of": "time", "share": 0.6, "table": "t"},
            {"of": "time", "share": 0.45, "table": "t"},
        ),
        ("target.speedup=2.5 target.table=t", {"of": "time", "share": 0.6, "table": "t"}, CNN),
    ],
)
def test_assignments_take_old_and_current_keys_of_targets(items, target, cnn):
    recipe = load_recipe(RECIPES / "best_base" / MODEL_FILE, MODEL_FILE)
    changed = with_overrides(recipe, [f"config.sparsity.{item}" for item in [*items.split(), "tolerance=0.02"]])
    assert changed["sparsity"] == {"target": target, "cnn_target": cnn, "tolerance": 0.02}
    assert recipe == load_recipe(RECIPES / "best_base" / MODEL_FILE, MODEL_FILE), "the recipe is copied first"


def test_assignments_with_both_old_and_current_keys_are_refused():
    items = ["sparsity.target_sparsity=0.6", "sparsity.target.share=0.6"]
    with pytest.raises(UserError, match="-o: sparsity: `target_sparsity` is an old key for a target, but `target`"):
        with_overrides({}, items)
