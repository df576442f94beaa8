"""The basic techniques through `run_pretrain.py`: recipe, rounds, checkpoints and export, with the tiny recipe."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from s3prl_pruned.compressors.plan import make_plan
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.dummies import random_encoder, tiny_base
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.objectives.distill import DistillConfig
from s3prl_pruned.objectives.prediction_heads import PredictionHeads
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.model import DistillForPretrain
from s3prl_pruned.pretrain.distill.teachers import EMBEDDED_TEACHER
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.recipes import MODEL_FILE, RUNNER_FILE, load_recipe
from s3prl_pruned.pretrain.resolve import RECIPES
from s3prl_pruned.report.figures import draw_run
from s3prl_pruned.sparsity.counts import realised_sparsity
from s3prl_pruned.upstream.load import load_model

ROOT = Path(__file__).resolve().parents[2]
# in the tiny teacher, a head is 5.9 % of the weights, and a row 0.5 %
HEAD = 4 * 24 * 6 / (3 * (4 * 24 * 24 + 2 * 24 * 20))


def options(techniques, rate, more=""):
    return [
        "-o",
        f"compress.techniques=[{techniques}],,compress.rounds=2,,sparsity.target_sparsity={rate},,runner.total_steps=4{more}",
    ]


@pytest.mark.parametrize(
    "techniques, rate, more",
    [
        ("magnitude", 0.8, ""),
        ("heads", 3 * HEAD, ""),
        ("heads", 3 * HEAD, ",,compress.head_scores=l1"),
        ("rows", 0.2, ""),
        ("low_rank", 0.5, ""),
        ("low_rank", 0.5, ",,compress.ranks=budget"),
        ("layers", 2 / 3, ",,distill.prediction_heads=true"),
        ("heads,rows", 0.4, ""),
    ],
)
def test_each_technique_ends_in_an_export_with_the_target_sparsity(recipe, tmp_path, techniques, rate, more):
    run = recipe.train(tmp_path / "run", *options(techniques, rate, more + ",,sparsity.tolerance=0.03"))
    encoder, provenance = load_encoder(run / "export")
    assert provenance["method"].startswith("Lin et al. 2024: " + techniques.replace(",", " + "))
    assert provenance["sparsity"]["realised"] == pytest.approx(rate, abs=0.03)
    card = (run / "export" / "README.md").read_text()
    assert card.startswith(f"# wavlm encoder, {100 * provenance['sparsity']['realised']:.1f} % pruned")
    teacher = read(recipe.teacher).encoder
    if techniques == "magnitude":  # not smaller, and the card says so
        assert (
            encoder.num_parameters() == teacher.num_parameters()
            and realised_sparsity(encoder.config, encoder.spec) == 0
        )
        nonzero = sum(int(p.count_nonzero()) for p in encoder.parameters())
        assert f"| parameters that are not zero |  | {nonzero:,} |" in card
    else:
        assert encoder.num_parameters() < teacher.num_parameters() and "not zero" not in card
        assert realised_sparsity(encoder.config, encoder.spec) == provenance["sparsity"]["realised"]
    lines = read_log(run)
    assert lines[-1]["realised_sparsity"] == pytest.approx(provenance["sparsity"]["realised"])
    assert all(line["distill"] > 0 for line in lines)
    assert len(encoder(torch.randn(1, 4000)).hidden_states) == 4, "always L + 1 states"
    assert {path.stem for path in draw_run(run)} == {"remaining_parameters", "remaining_value_dims", "rounds"}


def test_weights_are_trained_between_rounds_with_the_students_loss(recipe, tmp_path):
    run = recipe.train(tmp_path / "run", *options("magnitude", 0.5))
    before, after = read(recipe.teacher).encoder, load_encoder(run / "export")[0]
    ours, theirs = after.layers[0].attention.q_proj.weight, before.layers[0].attention.q_proj.weight
    kept = ours != 0
    assert 0.2 < kept.float().mean() < 0.9 and not torch.equal(ours[kept], theirs[kept])


@pytest.mark.parametrize("techniques", ["heads,rows,magnitude", "low_rank,rows"])
def test_a_resumed_run_equals_the_uninterrupted_one(recipe, tmp_path, techniques):
    """Between two rounds: masks, scores and pruned weights are restored from the checkpoint, bit for bit."""
    more = options(techniques, 0.5, ",,sparsity.tolerance=0.05,,compress.rounds=3,,compress.last_round=0.9")
    whole = recipe.train(tmp_path / "whole", *more)
    for step in (1, 2, 3):
        part = tmp_path / f"from{step}"
        part.mkdir()
        for name in ("run.json", f"states-{step}.ckpt"):
            shutil.copy(whole / name, part / name)
        recipe.train(part, *more, "-a")
        assert model_hash(part / "export") == model_hash(whole / "export")
        assert [line["distill"] for line in read_log(part)] == [line["distill"] for line in read_log(whole)][step:]


def test_a_checkpoint_between_rounds_is_an_upstream_and_an_export(recipe, tmp_path):
    from s3prl_pruned.pretrain.finish import export_checkpoint

    run = recipe.train(tmp_path / "run", *options("heads,rows", 0.4, ",,sparsity.tolerance=0.03"))
    small = export_checkpoint(run / "states-1.ckpt", tmp_path / "early")
    early, final = (realised_sparsity(e.config, e.spec) for e in (small, load_encoder(run / "export")[0]))
    assert 0.1 < early < final
    masked = load_model(run / "states-1.ckpt").encoder
    wavs = torch.randn(1, 5000)
    with torch.no_grad():
        for a, b in zip(masked(wavs).hidden_states, small(wavs).hidden_states, strict=True):
            assert (a - b).abs().max() <= 2e-5 * max(1.0, float(b.abs().max()))


def test_an_export_is_pruned_by_another_technique(recipe, tmp_path):
    rows = recipe.train(tmp_path / "rows", *options("rows", 0.2))
    more = options("magnitude", 0.6)
    again = recipe.train(tmp_path / "again", *more, "--teacher", str(rows / "export"))
    encoder, provenance = load_encoder(again / "export")
    assert encoder.spec == load_encoder(rows / "export")[0].spec and provenance["sparsity"][
        "realised"
    ] == pytest.approx(0.6, abs=1e-3)
    with pytest.raises(UserError, match="the encoder has 0.2"):
        recipe.train(tmp_path / "less", *options("magnitude", 0.1), "--teacher", str(rows / "export"))


def test_pruned_single_weights_stay_zero_in_a_further_run_or_it_is_refused(recipe, tmp_path):
    first = recipe.train(tmp_path / "first", *options("magnitude", 0.6))
    zeros = load_encoder(first / "export")[0].layers[1].feed_forward.fc1.weight == 0
    teacher = ["--teacher", str(first / "export")]
    more = recipe.train(tmp_path / "more", *options("magnitude", 0.7), *teacher)
    assert (load_encoder(more / "export")[0].layers[1].feed_forward.fc1.weight[zeros] == 0).all()
    assert [round(line["realised_sparsity"], 3) for line in read_log(more)] == [0.65, 0.65, 0.7, 0.7]
    with pytest.raises(UserError, match="the encoder has 0.6000 already"):
        recipe.train(tmp_path / "less", *options("magnitude", 0.5), *teacher)
    with pytest.raises(UserError, match="pruned one by one, and only `magnitude` keeps them zero"):
        recipe.train(tmp_path / "rows", *options("rows", 0.7), *teacher)
    with pytest.raises(UserError, match="A second stage has no masks, and would turn these zeros into weights again"):
        recipe.train(tmp_path / "second", "--student", str(first / "export"))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            "compress.techniques=[heads],,sparsity.target_sparsity=0.5",
            "the nearest rate that heads can bring this encoder to is 0.5294",
        ),
        ("compress.techniques=[heads],,sparsity.target_sparsity=0.6", r"heads reach 0.0000 to 0.5294 on this encoder"),
        ("compress.techniques=[head]", "`techniques` must be some of"),
        ("distill.prediction_heads=true", "`distill.prediction_heads` is for students made by `compress`"),
        ("compress.techniques=[rows],,self_pinching.kinds=[int]", "two ways to prune"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(recipe, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        recipe.train(tmp_path / "run", "-o", overrides)
    assert not (tmp_path / "run").exists()


def test_prediction_heads_depend_on_the_seed():
    compress = {"techniques": ["layers"]}
    target, distill = {"target": {"of": "params", "share": 2 / 3}}, {"prediction_heads": True, "num_pairs": 2}
    config = from_dict(ModelConfig, {"compress": compress, "sparsity": target, "distill": distill}, "test")

    def heads(seed):
        torch.rand(1)  # earlier random numbers must not matter
        return DistillForPretrain(random_encoder(tiny_base(), seed=0), config, seed=seed).distillation.state_dict()

    first, again, other = heads(1), heads(1), heads(2)
    assert first and all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_prediction_heads_compute_distilhuberts_loss():
    """Eq. 1 of Chang et al. 2022 written out; padding does not count; the teacher's layers are as configured."""
    heads = PredictionHeads(num_layers=6, embed_dim=8, config=DistillConfig(num_pairs=3, prediction_heads=True))
    assert heads.teacher_layers == [2, 4, 6]
    student, teacher = ([torch.randn(2, 5, 8) for _ in range(7)] for _ in range(2))
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    losses = heads(student, teacher, valid, heads.pairs)
    for k, layer in enumerate((2, 4, 6)):
        expected = 0.0
        for b, t in valid.nonzero().tolist():
            hidden = F.gelu(heads.shared[0](student[6][b, t]))
            predicted = heads.heads[k](hidden)
            cosine = predicted @ teacher[layer][b, t] / (predicted.norm() * teacher[layer][b, t].norm())
            expected += (predicted - teacher[layer][b, t]).abs().mean() - torch.log(torch.sigmoid(cosine))
        torch.testing.assert_close(losses[k], expected)


def test_the_recipes_targets_are_reachable_and_all_else_is_as_in_the_main_method():
    encoder = read(EMBEDDED_TEACHER).encoder
    main = from_dict(RunnerConfig, load_recipe(RECIPES / "embedded" / RUNNER_FILE, RUNNER_FILE), "embedded")
    names = {
        path.parent.name for path in RECIPES.glob("*/config_model.yaml") if "compress" in load_recipe(path, MODEL_FILE)
    }
    assert {"magnitude_s80", "heads_s25", "rows_s50", "low_rank_s50", "distil_6l", "combined"} <= names
    for name in names:
        model = from_dict(ModelConfig, load_recipe(RECIPES / name / MODEL_FILE, MODEL_FILE), name)
        runner = from_dict(RunnerConfig, load_recipe(RECIPES / name / RUNNER_FILE, RUNNER_FILE), name)
        if not name.endswith("_embedded"):
            assert model.teacher == "wavlm_base" and runner.runner.total_steps == 200_000
            continue
        plan = make_plan(encoder, model.compress, model.sparsity)
        assert plan.target == model.sparsity.goal
        assert (
            runner.runner == main.runner
            and runner.pretrain_expert == main.pretrain_expert
            and runner.optimizer.lr == main.optimizer.lr
        )
        assert plan.student.spec.layers and CompactSpec.dense(encoder.config)


def test_a_dry_run_scores_heads_on_one_batch_and_says_so(recipe, tmp_path, caplog):
    assert (
        recipe.train(
            tmp_path / "run",
            *options("heads", 3 * HEAD, ",,sparsity.tolerance=0.03,,compress.data_share=1.0"),
            "--dry-run",
        )
        is None
    )
    assert "Each of 2 rounds takes head scores from 4 batches; this one from a single batch" in caplog.text
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_prune_the_same_heads_as_one(recipe, tmp_path):
    """Each process scores its share of the batches; masks, and with them the export's structure, are the same."""
    quiet = ",,student.dropout=0,,student.attention_dropout=0,,student.activation_dropout=0,,sparsity.tolerance=0.03"
    more = options("heads", 4 * HEAD, quiet + ",,runner.gradient_accumulate_steps=2")
    one = recipe.train(tmp_path / "one", *more)
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(ROOT / "run_pretrain.py"),
    ]
    done = subprocess.run(
        [*line, *recipe.arguments(tmp_path / "two", *more)], capture_output=True, text=True, cwd=ROOT, timeout=240
    )
    assert done.returncode == 0, done.stderr
    first, second = (load_encoder(run / "export")[0] for run in (one, tmp_path / "two"))
    assert first.spec == second.spec
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], rtol=0, atol=1e-4, msg=name)


def test_head_scores_use_other_batches_in_each_round(recipe, tmp_path, monkeypatch):
    from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert

    asked = []
    plain = UpstreamPretrainExpert.get_train_dataloader
    monkeypatch.setattr(
        UpstreamPretrainExpert,
        "get_train_dataloader",
        lambda self, numbers=None: (asked.append(numbers), plain(self, numbers))[1],
    )
    run = recipe.train(
        tmp_path / "run", *options("heads", 3 * HEAD, ",,sparsity.tolerance=0.03,,compress.data_share=0.5")
    )
    epoch = 4  # seven utterances in batches of two
    scored = [list(numbers) for numbers in asked if isinstance(numbers, range)]
    assert scored == [[0, 1], [epoch, epoch + 1]]
    assert json.loads((run / "run.json").read_text())["model"]["compress"]["data_share"] == 0.5
