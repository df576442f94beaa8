"""A second stage distils an exported student again: same structure, other weights, and both stages are recorded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import load_encoder, model_hash, save_encoder
from s3prl_pruned.gates.distribution import write_hard_concrete
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, random_spec
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.pretrain import command
from s3prl_pruned.pretrain import resolve as resolve_module
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.recipes import MODEL_FILE, RUNNER_FILE, load_recipe
from s3prl_pruned.pretrain.resolve import RECIPES
from s3prl_pruned.report.figures import draw_run
from s3prl_pruned.report.live import draw_remaining
from s3prl_pruned.sparsity.counts import EncoderCounts, parameters, realised_sparsity, weights
from s3prl_pruned.timing.exports import method_name
from s3prl_pruned.upstream.expert import UpstreamExpert
from tests.pretrain.test_interruption import trajectory
from tests.tiny_run import tiny_wavlm

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("-o", "runner.total_steps=4")


@pytest.fixture(scope="module")
def first(recipe):
    """A student pruned in heads, dimensions and channels of the CNN."""
    return recipe.train(recipe.root / "first", "-o", "gates.kinds=[mha,qk,vo,ffn,int,conv]") / "export"


@pytest.fixture(scope="module")
def second(recipe, first):
    return recipe.train(recipe.root / "second", *STEPS, "--student", str(first))


def test_both_stages_in_one_command_equal_those_of_two_commands(recipe, tmp_path, monkeypatch):
    second_recipe = tmp_path / "tiny_stage2"
    shutil.copytree(recipe.recipe, second_recipe)
    call = ("-o", "distill.num_pairs=1", "--second-stage", str(second_recipe))
    folder = recipe.train(tmp_path / "one", *call)
    assert folder == tmp_path / "one_stage2"
    apart = recipe.train(tmp_path / "two", "-o", "distill.num_pairs=1") / "export"
    assert model_hash(tmp_path / "one/export") == model_hash(apart)
    options = recipe.arguments(tmp_path / "again", "--student", str(apart))
    options[options.index(str(recipe.recipe))] = str(second_recipe)
    assert model_hash(folder / "export") == model_hash(command.main(options) / "export")

    shutil.rmtree(folder / "export")  # as if it had been stopped: the same command continues with the second stage
    checkpoint.newest(folder).unlink()
    trained = []

    def stopped(expert, config, folder, **_):
        trained.append(folder)
        raise SystemExit

    monkeypatch.setattr(command.runner, "train", stopped)
    with pytest.raises(SystemExit):
        recipe.train(tmp_path / "one", *call, "-a")
    assert trained == [folder]


def test_stages_that_do_not_fit_together_are_refused_before_the_first(recipe, tmp_path):
    options = resolve_module.parse_arguments(
        [*recipe.arguments(tmp_path / "x", "-o", "teacher=random"), "--second-stage", "dphubert_embedded_stage2"]
    )
    first_run = resolve_module.resolve(options)
    second_run = resolve_module.resolve_second_stage(options, first_run)
    assert second_run.model.teacher == first_run.model.teacher == "random"
    assert second_run.folder == (tmp_path / "x_stage2").absolute()
    options.past_exp = str(tmp_path)
    with pytest.raises(UserError, match="`-e` continues one run"):
        resolve_module.resolve_second_stage(options, first_run)
    single = resolve_module.parse_arguments(
        ["-u", "wavlm_pruned_distill", "--recipe", "magnitude_embedded", "--second-stage", "embedded_stage2"]
    )
    with pytest.raises(UserError, match="zeros of pruned single weights"):
        resolve_module.resolve_second_stage(single, resolve_module.resolve(single))


def test_structure_is_kept_and_weights_are_trained(first, second):
    before, after = load_encoder(first)[0], load_encoder(second / "export")[0]
    assert after.spec == before.spec and after.spec.channels is not None
    assert after.num_parameters() == before.num_parameters()
    old, new = before.state_dict(), after.state_dict()
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert not any("q_proj" in name or "fc1" in name or "feature_extractor" in name for name in same)


def test_the_student_starts_as_the_export_without_masks(recipe, first, relative_differences):
    settings = yaml.safe_load((recipe.recipe / "config_model.yaml").read_text())
    config = from_dict(ModelConfig, {**settings, "teacher": str(recipe.teacher), "student_export": str(first)}, "tiny")
    expert = UpstreamPretrainExpert({"corpus": str(recipe.corpus), "min_seconds": 0.3}, config, "cpu", seed=0)
    wavs = 0.1 * torch.randn(1, 6000, generator=torch.Generator().manual_seed(0))
    expert.begin_step(1, 10, [(wavs, torch.tensor([6000]))])
    expert.model.eval()
    exported = load_encoder(first)[0]
    weights = expert.model.student.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in exported.state_dict().items())
    with torch.no_grad():
        states = [encoder(wavs).hidden_states for encoder in (expert.model.student, exported)]
    assert max(relative_differences(*states)) < 2e-5  # a closed gate would make a far larger difference
    assert list(expert.model.gates.parameters()) == list(expert.model.lagrangian.parameters()) == []


def test_the_loss_falls_below_the_final_loss_of_the_first_stage(recipe, first, tmp_path):
    run = recipe.train(tmp_path / "run", "-o", "runner.total_steps=30,,optimizer.lr=3e-3", "--student", str(first))
    losses = [line["distill"] for line in read_log(run)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_export_names_both_stages(first, second):
    provenance, before = load_encoder(second / "export")[1], load_encoder(first)[1]
    assert provenance["first_stage"] == {"sha256": model_hash(first), **before}
    assert "second stage" in provenance["method"] and provenance["recipe"]["model"]["student_export"] == str(first)
    assert provenance["sparsity"]["realised"] == provenance["sparsity"]["target"] == before["sparsity"]["realised"]
    card = (second / "export" / "README.md").read_text()
    assert f"- first_stage.sha256: {model_hash(first)}" in card and "- first_stage.method: Wang et al. 2023" in card
    assert method_name(provenance) == "hard concrete (mha, qk, vo, ffn, int, conv), second stage"


def test_a_resumed_run_takes_the_same_steps(recipe, first, second, tmp_path):
    shutil.copytree(second, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    for step in (3, 4):
        (tmp_path / "run" / f"states-{step}.ckpt").unlink()
    recipe.train(tmp_path / "run", *STEPS, "--student", str(first), "-a")
    assert trajectory(tmp_path / "run") == trajectory(second)
    assert model_hash(tmp_path / "run" / "export") == model_hash(second / "export")


def test_a_run_only_resumes_with_the_export_that_it_was_started_from(recipe, first, tmp_path):
    shutil.copytree(first, tmp_path / "student")
    options = ("-p", str(tmp_path / "run"), "--student", str(tmp_path / "student"))
    recipe.train(tmp_path / "run", *options)
    shutil.rmtree(tmp_path / "run" / "export")
    (tmp_path / "run" / "states-3.ckpt").unlink()
    encoder, provenance = load_encoder(first)
    shutil.rmtree(tmp_path / "student")
    with torch.no_grad():
        encoder.mask_embedding += 1
    save_encoder(tmp_path / "student", encoder, provenance)
    with pytest.raises(UserError, match="student: is no longer the export that this run was started from"):
        recipe.train(tmp_path / "run", *options, "-a")


def test_log_pictures_and_upstream_work(first, second):
    line, encoder = read_log(second)[-1], load_encoder(first)[0]
    found = realised_sparsity(encoder.config, encoder.spec)
    assert line["realised_sparsity"] == line["expected_sparsity"] == line["target_sparsity"] == found
    assert "mask_means" not in line and len(line["pairs"]) >= 1 and line["bad_steps"] == 0
    write_hard_concrete(second)
    assert {"rounds.png", "remaining_parameters.png"} <= {path.name for path in draw_run(second)}
    assert draw_remaining(second).is_file()
    with torch.no_grad():
        assert len(UpstreamExpert(second / "export").eval()([torch.randn(6000)])["hidden_states"]) == 4


def test_an_untouched_cnn_that_stays_frozen_is_computed_once(recipe, tmp_path):
    frozen = "student.feature_grad_mult=0"
    student = recipe.train(tmp_path / "first", "-o", frozen) / "export"
    run = recipe.train(tmp_path / "second", "-o", frozen, "--student", str(student))
    state = checkpoint.load_checkpoint(run / "latest")
    teacher = {
        name: value
        for name, value in load_encoder(student)[0].state_dict().items()
        if name.startswith("feature_extractor")
    }
    assert all(torch.equal(state["Student"][name], value) for name, value in teacher.items())
    for export, shares in ((student, True), (recipe.root / "first" / "export", False)):
        if export.exists():
            config = ModelConfig(teacher=str(recipe.teacher), student_export=str(export))
            config.distill.num_pairs = 2
            config.student.feature_grad_mult = 0.0
            expert = UpstreamPretrainExpert({"corpus": str(recipe.corpus), "min_seconds": 0.3}, config, "cpu")
            assert expert.model.shares_features == shares


def test_the_screen_names_the_student(recipe, first, tmp_path):
    command = [sys.executable, ROOT / "run_pretrain.py", *recipe.arguments(tmp_path / "run", "--student", str(first))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert f"second stage without masks, from {first} (sparsity 0." in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--student", "nowhere"), "nowhere: no such file or folder.* run the first stage"),
        (
            ("--student", "FIRST", "-o", "sparsity.target_sparsity=0.5"),
            "nothing is pruned, and `sparsity` would have no effect",
        ),
        (("--student", "FIRST", "--target", "macs=0.5"), "`sparsity` would have no effect"),
        (("--student", "FIRST", "-o", "gates.kinds=[int]"), "`gates` would have no effect"),
        (("--student", "FIRST", "--teacher", "random"), "have one dense shape, but the student's `conv_layers` is"),
    ],
)
def test_wrong_settings_of_a_second_stage_are_refused(recipe, first, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        recipe.train(tmp_path / "run", *(str(first) if option == "FIRST" else option for option in options))
    assert not (tmp_path / "run").exists()


def test_a_random_export_with_empty_layers_is_accepted(recipe, tmp_path):
    """Any export can be used, even with empty layers."""
    config = tiny_wavlm()
    save_encoder(
        tmp_path / "x",
        random_encoder(config, seed=1, spec=random_spec(config, seed=6, channels=True)),
        {"teacher_note": None},
    )
    run = recipe.train(tmp_path / "run", "--student", str(tmp_path / "x"))
    assert json.loads((run / "run.json").read_text())["model"]["student_export"] == str(tmp_path / "x")
    assert [line["step"] for line in read_log(run)] == [1, 2, 3]


# --- the recipes ----------------------------------------------------------------------------------


def recipe_of(name):
    folder = RECIPES / name
    model = from_dict(ModelConfig, load_recipe(folder / MODEL_FILE, MODEL_FILE), name)
    return model, from_dict(RunnerConfig, load_recipe(folder / RUNNER_FILE, RUNNER_FILE), name)


STAGED = sorted(path.name for path in RECIPES.glob("*_stage2"))


@pytest.mark.parametrize("name", STAGED)
def test_a_second_stage_continues_its_first_one(name):
    """The default path of the first stage's export, and the same target."""
    (before, _), (after, runner) = recipe_of(name.removesuffix("_stage2")), recipe_of(name)
    family = "hubert" if "hubert_base" in name else "wavlm"
    assert after.student_export == f"result/pretrain/{family}_pruned_distill/{name.removesuffix('_stage2')}/export"
    assert (after.teacher, after.distill, after.student) == (before.teacher, before.distill, before.student)
    assert runner.runner.total_steps > 0 and before.student_export is None


def test_dphubert_has_its_own_numbers():
    """Numbers of pyf98/DPHuBERT, run.sh, and of the paper's second step."""
    model, runner = recipe_of("dphubert_base")
    assert set(model.gates.kinds) == {"head", "int", "conv"} and not model.gates.straight_through
    assert model.gates.start_of("int") == 0 and model.gates.start_of("conv") == model.gates.start_of("head") == 4.605
    assert runner.runner.total_steps * model.sparsity.warmup_fraction == 5_000
    assert runner.runner.total_steps * runner.optimizer.warmup_proportion == pytest.approx(15_000)
    assert (runner.runner.total_steps, runner.runner.gradient_clipping, runner.optimizer.lr) == (50_000, 10.0, 2e-4)
    assert runner.optimizer.gate_lr == runner.optimizer.multiplier_lr == 0.02 and runner.optimizer.weight_decay == 0
    datarc = runner.pretrain_expert.datarc
    assert datarc.max_batch_seconds * runner.runner.gradient_accumulate_steps == 640
    distillation = LayerDistillation(num_layers=12, embed_dim=4, config=model.distill)
    assert distillation.teacher_layers == [0, 4, 8, 12] and model.distill.cosine == "raw"
    _, second = recipe_of("dphubert_base_stage2")
    assert (second.runner.total_steps, second.optimizer.lr) == (25_000, 1e-4)
    assert second.runner.total_steps * second.optimizer.warmup_proportion == 5_000


def test_dphuberts_target_leaves_a_quarter_of_all_parameters():
    """23.59 M parameters, as published: whole heads, dimensions and channels removed evenly until the target is met."""
    shape, target = families.hubert_base(), recipe_of("dphubert_base")[0].sparsity.goal
    dims, low, high = tuple(range(shape.head_dim)), 0, 511

    def thinned(units):
        layer = LayerSpec(
            attention=True,
            heads=tuple(HeadSpec(index=i, qk=dims, vo=dims) for i in range(round(12 * units / 512))),
            feed_forward=True,
            ffn=tuple(range(6 * units)),
        )
        return CompactSpec(layers=(layer,) * 12, channels=(tuple(range(units)),) * 7)

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if realised_sparsity(shape, thinned(middle)) > target else (low, middle)
    assert sum(parameters(shape, thinned(high)).values()) / 1e6 == pytest.approx(23.59, abs=1.0)


@pytest.mark.parametrize(
    "main, names, shape",
    [
        ("embedded", ("dphubert_embedded", "dphubert_embedded_stage2"), families.wavlm_embedded()),
        ("embedded", ("best_embedded",), families.wavlm_embedded()),
        ("wavlm_base_s80", ("best_base",), families.wavlm_base()),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_all_stages_take_the_steps_of_the_papers_recipe_and_keep_as_many_parameters(main, names, shape):
    (proposed, whole), *stages = (recipe_of(name) for name in (main, *names))
    model = stages[0][0]
    assert sum(runner.runner.total_steps for _, runner in stages) == whole.runner.total_steps
    assert all(runner.pretrain_expert == whole.pretrain_expert for _, runner in stages)
    dense = [weights(shape, EncoderCounts.dense(shape, with_cnn=with_cnn)) for with_cnn in (False, True)]
    kept = (1 - model.sparsity.goal) * dense[1]
    whole_cnn = dense[1] - dense[0]
    assert kept == pytest.approx((1 - proposed.sparsity.goal) * dense[0] + whole_cnn, rel=0.005)
