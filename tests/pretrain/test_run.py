"""`run_pretrain.py` as users see it: settings that determine a result, wrong input, and messages."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from s3prl_pruned.checkpoint import load_checkpoint, write_text
from s3prl_pruned.config import UserError, apply_overrides, from_dict
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.recipes import MODEL_FILE, RUNNER_FILE, load_recipe
from s3prl_pruned.pretrain.resolve import RECIPES, parse_arguments, resolve
from tests.tiny_run import MODEL

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments):
    line = [sys.executable, ROOT / "run_pretrain.py", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120)


def losses(folder):
    return [line["distill"] for line in read_log(folder)]


@pytest.fixture(scope="module")
def finished(recipe):
    return recipe.train(recipe.root / "finished")


def test_two_runs_with_one_seed_are_identical_and_another_seed_differs(recipe, finished, tmp_path):
    torch.manual_seed(99)  # earlier random numbers in the process must not matter
    again = recipe.train(tmp_path / "again")
    assert losses(again) == losses(finished) and len(losses(finished)) == 3
    assert model_hash(again / "export") == model_hash(finished / "export")
    other = recipe.train(tmp_path / "other", "--seed", "7")
    assert not set(losses(other)) & set(losses(finished))


def test_a_finished_run_called_again_exits_0_says_so_and_is_left_alone(recipe, finished):
    before = {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if "figures" not in path.parts and path.is_file()
    }
    result = command(*recipe.arguments(finished))
    assert result.returncode == 0, result.stderr
    assert "this run is finished already; nothing to do (--force starts anew)" in result.stdout
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert {path.name for path in (finished / "figures").iterdir()} >= {"mask_averages.png", "remaining_parameters.png"}


def test_a_folder_of_another_recipe_exits_2_and_names_the_ways_out(recipe, finished):
    result = command(*recipe.arguments(finished, "-o", "sparsity.target_sparsity=0.5"))
    assert result.returncode == 2
    assert "error: " in result.stderr and "model.sparsity.target.share: 0.8 there, 0.5 wanted" in result.stderr
    assert "-n NAME" in result.stderr and "--force" in result.stderr
    assert "Traceback" not in result.stderr


def test_force_moves_the_old_run_aside_and_deletes_nothing(recipe, tmp_path):
    run = recipe.train(tmp_path / "run")
    old = {path.name: path.read_bytes() for path in run.glob("*.ckpt")}
    recipe.train(run, "--force", "--seed", "8")
    (aside,) = tmp_path.glob("run.old-*")
    assert {path.name: path.read_bytes() for path in aside.glob("*.ckpt")} == old
    assert (aside / "export").is_dir() and json.loads((run / "run.json").read_text())["seed"] == 8


def test_the_first_line_of_the_default_names_the_papers_recipe(tmp_path, recipe):
    options = "runner.total_steps=1,,distill.num_pairs=1,,pretrain_expert.datarc.train_batch_size=1"
    where = ("--teacher", str(recipe.teacher), "-p", str(tmp_path / "run"))
    result = command("-u", "wavlm_pruned_distill", *where, "-o", options)
    assert result.returncode == 0, result.stderr
    first = result.stdout.splitlines()[0]
    assert "embedded" in first and "--recipe wavlm_base_s80 --corpus /data/LibriSpeech" in first


@pytest.mark.parametrize(
    "override, message",
    [
        ("sparsity.targett.share=0.5", "sparsity.targett: unknown key. Did you mean `target`"),
        ("sparsity.target.shar=0.5", "sparsity.target.shar: unknown key. Did you mean `share`"),
        ("sparsity.target_sparcity=0.5", "target_sparcity: unknown key. Known keys: target, also, cnn_target, warmup"),
        ("runner.total_step=3", "total_step: unknown key. Did you mean `total_steps`"),
        ("sparsity.target_sparsity=1.0", r"sparsity.target: `share` must be in \[0, 1\), but is 1.0"),
        ("sparsity.target_sparsity=-0.1", r"sparsity.target: `share` must be in \[0, 1\), but is -0.1"),
        (
            "sparsity.target_sparsity=0.999999",
            r"`sparsity.target.share` is 0.999999, but gates of the kinds .* reach 0\.9999\d+ at most",
        ),
        ("gates.kinds=[int],,sparsity.target_sparsity=0.8", r"gates of the kinds \['int'\] reach 0\.\d+ at most"),
        ("runner.total_steps=many", "runner.total_steps: must be a whole number"),
        ("distill.num_pairs=9", "`num_pairs` must be at most the teacher's 3 layers, but is 9"),
    ],
)
def test_wrong_configuration_is_refused_with_the_rule_and_the_value(recipe, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        recipe.train(tmp_path / "run", "-o", override)
    assert not (tmp_path / "run").exists(), "a refused run leaves nothing behind"


def test_the_reachable_maximum_in_the_message_is_accepted(recipe, tmp_path):
    with pytest.raises(UserError, match="at most") as refusal:
        recipe.train(tmp_path / "run", "-o", "gates.kinds=[int],,sparsity.target_sparsity=0.8")
    reachable = float(str(refusal.value).split("reach ")[1].split()[0])
    recipe.train(tmp_path / "run", "-o", f"gates.kinds=[int],,sparsity.target_sparsity={reachable - 1e-4:.4f}")


def test_wrong_sources_are_named(recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: a corpus must hold audio"):
        recipe.train(tmp_path / "run", "--corpus", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="`teacher` must be one of .*but is 'nobody'"):
        recipe.train(tmp_path / "run", "--teacher", "nobody")
    (tmp_path / "cut.pt").write_bytes(recipe.teacher.read_bytes()[:5000])
    with pytest.raises(UserError, match="cut.pt: is truncated"):
        recipe.train(tmp_path / "run", "--teacher", str(tmp_path / "cut.pt"))
    with pytest.raises(UserError, match="`--recipe` must be one of .*wavlm_base_s80.* but is 'nothing'"):
        recipe.train(tmp_path / "run", "--recipe", "nothing")


def test_help_explains_every_option(capsys):
    result = command("--help-all")
    assert result.returncode == 0
    for option in "-u -g -c -n -p -e -a -o --recipe --corpus --teacher --force --seed --device".split():
        assert f"{option} " in result.stdout or f"{option}," in result.stdout, option


def test_the_run_and_its_export_hold_the_command_that_made_them(recipe, finished):
    command = shlex.join(["python", "run_pretrain.py", *recipe.arguments(finished)])
    assert json.loads((finished / "run.json").read_text())["command"] == command
    assert load_encoder(finished / "export")[1]["command"] == command
    assert f"- command: {command}" in (finished / "export" / "README.md").read_text()


def test_the_realised_sparsity_meets_the_target_and_the_cards_count_is_numel(finished):
    encoder, provenance = load_encoder(finished / "export")
    spec, config = encoder.spec, encoder.config
    kept = sum(
        len(head.qk) + len(head.vo) for layer in spec.layers for head in layer.heads
    ) + sum(len(layer.ffn) for layer in spec.layers)  # fmt: skip
    dense = config.num_layers * (2 * config.embed_dim + config.ffn_dim)
    assert 1 - kept / dense == pytest.approx(provenance["sparsity"]["realised"])
    assert 1 - kept / dense == pytest.approx(0.8, abs=0.01)
    card = (finished / "export" / "README.md").read_text()
    assert f"{sum(p.numel() for p in encoder.parameters()):,}" in card


# --- the paper's numbers (Wang et al. 2023, section 4.2; DistilHuBERT) -----------------------


def paper_recipe(name):
    folder = RECIPES / name
    model = from_dict(ModelConfig, load_recipe(folder / MODEL_FILE, MODEL_FILE), name)
    return model, from_dict(RunnerConfig, load_recipe(folder / RUNNER_FILE, RUNNER_FILE), name)


def test_the_papers_recipe_has_the_papers_numbers():
    model, runner = paper_recipe("wavlm_base_s80")
    assert model.teacher == "wavlm_base" and model.sparsity.goal == 0.8
    assert model.sparsity.warmup_fraction == 0.07 and runner.optimizer.warmup_proportion == 0.07
    assert runner.runner.total_steps == 200_000 and runner.optimizer.lr == 2e-4
    assert (
        runner.optimizer.betas == (0.9, 0.98) and runner.optimizer.eps == 1e-6 and runner.optimizer.weight_decay == 1e-6
    )
    assert runner.runner.gradient_clipping == 5.0 and runner.runner.fp16
    datarc = runner.pretrain_expert.datarc
    assert datarc.train_batch_size * runner.runner.gradient_accumulate_steps == 24 and datarc.max_seconds == 15.6
    assert datarc.sets == ("train-clean-100", "train-clean-360", "train-other-500")
    assert set(model.gates.kinds) == {"mha", "qk", "vo", "ffn", "int"} and model.gates.straight_through
    assert model.distill.num_pairs == 4


def test_the_ablations_differ_from_the_paper_in_what_they_ablate_only():
    model, runner = paper_recipe("wavlm_base_s80")
    without_fahp, runner_fahp = paper_recipe("wavlm_base_s80_wo_fahp")
    assert without_fahp.gates.kinds == ("mha", "head", "ffn", "int")
    without_fahp.gates.kinds = model.gates.kinds
    without_ste, runner_ste = paper_recipe("wavlm_base_s80_wo_ste")
    assert without_ste.gates.straight_through is False
    without_ste.gates.straight_through = True
    assert without_fahp == without_ste == model and runner_fahp == runner_ste == runner


def test_learning_rate_and_target_rise_over_7_percent_then_fall_or_stay():
    model, runner = ModelConfig(), RunnerConfig()
    total = 1000
    rates = [runner.optimizer.lr_factor(step, total) for step in range(1, total + 1)]
    assert max(rates) == rates[69] == 1.0 and rates[34] == pytest.approx(0.5)
    assert rates[534] == pytest.approx(0.5, abs=2e-3) and 0 < rates[-1] < 2e-3
    targets = [model.sparsity.target_at(step, total) for step in range(1, total + 1)]
    assert targets[34] == pytest.approx(0.4) and targets[69] == targets[-1] == 0.8


# --- one optimiser step ------------------------------------------------------------------------------------------


def step_of(recipe, micro_batches, changes):
    """Loss and gradients of one optimiser step over given micro-batches."""
    model = yaml.safe_load((recipe.recipe / "config_model.yaml").read_text())
    model = from_dict(ModelConfig, apply_overrides(model, changes), "tiny")
    model.teacher = str(recipe.teacher)
    model.student.dropout = model.student.attention_dropout = model.student.activation_dropout = 0.0
    expert = UpstreamPretrainExpert({"corpus": str(recipe.corpus), "min_seconds": 0.3}, model, "cpu", seed=0)
    expert.model.train()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # a student that is not the teacher, and gates that matter
        for parameter in expert.model.student.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for _, _, gate in expert.model.gates.items():
            gate.log_alpha += torch.randn(gate.log_alpha.shape, generator=generator) * 2 - 2
    records = {}
    expert.begin_step(1, 10, micro_batches)
    for batch in micro_batches:
        expert(batch, records, 1).backward()
    expert.end_backward(records)
    records = {name: float(value) for name, value in records.items()}
    return records, {name: p.grad.clone() for name, p in expert.model.named_parameters() if p.grad is not None}


SWITCHES = {
    "the paper's": [],
    "pruned CNN, towards MACs": ["gates.kinds=[mha,qk,vo,ffn,int,conv]", "sparsity={target: {of: macs, share: 0.7}}"],
    "DPHuBERT's": [
        "gates.kinds=[head,int,conv]",
        "distill.loss=l1_cosine",
        "distill.cosine=raw",
        "distill.pairing=fixed",
    ],
}


@pytest.mark.parametrize("lengths", [(6_000, 300), (300, 300), (300, 7)])
def test_utterances_shorter_than_a_frame_give_finite_losses_and_gradients_in_training(recipe, lengths):
    wavs = torch.randn(2, max(lengths), generator=torch.Generator().manual_seed(0)) * 0.1
    wavs[1, lengths[1] :] = 0
    records, gradients = step_of(recipe, [(wavs, torch.tensor(lengths))], [])
    assert math.isfinite(records["distill"]) and records["distill"] > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_accumulating_two_half_batches_equals_one_whole_batch(recipe, changes):
    assert MODEL["distill"]["num_pairs"] == 2
    generator = torch.Generator().manual_seed(0)
    wavs, lengths = torch.randn(4, 6_000, generator=generator) * 0.1, torch.full((4,), 6_000)
    whole, whole_gradients = step_of(recipe, [(wavs, lengths)], changes)
    halves, halves_gradients = step_of(recipe, [(wavs[:1], lengths[:1]), (wavs[1:], lengths[1:])], changes)
    assert whole.keys() == halves.keys()
    for name, value in whole.items():
        # DPHuBERT's terms, 0.19 and -0.17, nearly cancel
        assert halves[name] == pytest.approx(value, rel=1e-5, abs=2**-22), name
    assert whole_gradients.keys() == halves_gradients.keys()
    assert any("log_alpha" in name for name in whole_gradients)
    rounding = 1e-7 * max(gradient.norm() for gradient in whole_gradients.values())  # for values that are 0 in theory
    for name, gradient in whole_gradients.items():
        error = (halves_gradients[name] - gradient).norm()
        assert error <= 1e-5 * gradient.norm() + rounding, name


def test_every_line_of_the_log_has_the_fixed_pairs(recipe, tmp_path):
    run = recipe.train(tmp_path / "run", "-o", ",,".join(SWITCHES["DPHuBERT's"]))
    lines = read_log(run)
    assert [line["pairs"] for line in lines] == [[[0, 0], [3, 3]]] * 3
    assert all(line["distill"] == pytest.approx(line["distill_layer_0"] + line["distill_layer_3"]) for line in lines)


def test_a_teacher_of_another_family_is_refused_on_the_command_line(tmp_path):
    refused = command("-u", "hubert_pruned_distill", "-p", tmp_path / "run")
    assert refused.returncode == 2
    assert "`teacher` must be a hubert encoder, but 'embedded' is a wavlm" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_any_folder_of_audio_is_accepted_although_the_recipe_names_sets(recipe, tmp_path):
    options = parse_arguments(["-u", "wavlm_pruned_distill", "--corpus", str(recipe.corpus)])
    assert resolve(options).runner.pretrain_expert.datarc.sets is None
    for name in ("train-clean-100", "dev-clean"):
        (tmp_path / name).mkdir()
    options.corpus = str(tmp_path)  # LibriSpeech under the embedded recipe: never its dev and test
    assert resolve(options).runner.pretrain_expert.datarc.sets == ("train-clean-100",)
    options.recipe = "wavlm_base_s80"
    assert "train-other-500" in resolve(options).runner.pretrain_expert.datarc.sets


def test_a_corpus_folder_without_audio_is_refused(tmp_path):
    refused = command("-u", "wavlm_pruned_distill", "--corpus", tmp_path, "-p", tmp_path / "run")
    assert refused.returncode == 2
    assert f"error: {tmp_path}: a corpus must hold audio" in refused.stderr


def test_files_that_a_resumed_run_rewrites_are_complete_or_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_text(path, "first")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="could not be written .No space left on device"):
        write_text(path, "second")
    assert path.read_text() == "first" and [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_matching_over_several_micro_batches_uses_the_runs_precision(recipe, tmp_path, monkeypatch):
    """Two micro-batches: the first step has a pass over each to match the layers, then one over each to learn."""
    seen, states = [], UpstreamPretrainExpert._states

    def watched(self, *batch):
        seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return states(self, *batch)

    monkeypatch.setattr(UpstreamPretrainExpert, "_states", watched)
    recipe.train(tmp_path / "run", "-o", "runner.total_steps=2,,runner.bf16=true,,runner.gradient_accumulate_steps=2")
    assert seen == [torch.bfloat16] * (4 + 2)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_layers_are_matched_by_running_errors_of_earlier_steps(recipe, tmp_path, monkeypatch, accumulate):
    seen, errors = [], LayerDistillation.errors

    def watched(self, student, teacher, valid):
        seen.append((errors(self, student, teacher, valid), int(valid.sum())))
        return seen[-1][0]

    monkeypatch.setattr(LayerDistillation, "errors", watched)
    options = f"runner.gradient_accumulate_steps={accumulate},,pretrain_expert.datarc.held_out=0"
    run = recipe.train(tmp_path / "run", "-o", options)
    first, *steps = (seen[start : start + accumulate] for start in range(0, len(seen), accumulate))
    assert len(steps) == 3 and all(torch.equal(one[0], other[0]) for one, other in zip(first, steps[0], strict=True))
    running = None
    for line, step in zip(read_log(run), steps, strict=True):
        now = sum(part.double() for part, _ in step) / sum(frames for _, frames in step)
        if running is None:
            running = now
        deepest = line["pairs"][0]  # no layer closes in three steps: each pick is the nearest below the previous one
        assert deepest[0] == 3 and deepest[1] - 1 == int(running[1].argmin())
        running = 0.9 * running + 0.1 * now
    kept = load_checkpoint(run / "states-3.ckpt")["Running_Errors"]
    torch.testing.assert_close(kept.double(), running, rtol=1e-5, atol=0)


@pytest.mark.parametrize("setting", ["runner.max_seconds_at_once=0.6", "runner.gradient_checkpointing=true"])
def test_settings_that_save_memory_keep_losses_and_weights(recipe, tmp_path, monkeypatch, setting):
    """Without dropout, which draws other numbers for a batch in parts."""
    sizes = []
    forward = UpstreamPretrainExpert.forward
    monkeypatch.setattr(
        UpstreamPretrainExpert,
        "forward",
        lambda self, data, *rest: sizes.append(len(data[0])) or forward(self, data, *rest),
    )
    silent = "student.dropout=0,,student.attention_dropout=0,,student.activation_dropout=0"
    whole = recipe.train(tmp_path / "whole", "-o", silent)
    assert (first := sizes.copy()) == [1, 2, 2]
    saving = recipe.train(tmp_path / "saving", "-o", f"{silent},,{setting}")
    assert sizes[3:] == ([1] * 5 if "at_once" in setting else first)
    for one, other in zip(read_log(saving), read_log(whole), strict=True):
        for name in ("distill", "gradient_norm", "gate_gradient_norm", "expected_sparsity"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
        assert one["pairs"] == other["pairs"]
