"""At every checkpoint, a run logs the size of its export and its loss on speech that is never trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.synthetic_audio import synthetic_noise, synthetic_tone
from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import RandomCropBatches
from s3prl_pruned.data.manifest import scan_corpus
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.pretrain.conversion import convert
from s3prl_pruned.pretrain.distill.teachers import load_teacher
from s3prl_pruned.pretrain.finish import export_checkpoint
from s3prl_pruned.pretrain.logging import best_line, read_log
from s3prl_pruned.pretrain.report import held_out_lines

NUMBER = 42
HELD = (10, 31)
"""The middle utterances of two halves of the corpus: one in twenty is held out."""


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    for number in range(NUMBER):
        samples = 6_400 + 200 * number
        wav = synthetic_tone(samples, frequency=200 + 40 * number) + synthetic_noise(samples, seed=number)
        soundfile.write(folder / f"tone-{number:02}.flac", np.clip(wav, -1, 1), 16_000)
    return folder


@pytest.fixture(scope="module")
def finished(recipe, tones):
    """Three steps; the last checkpoint and the best one are kept."""
    options = "runner.max_keep=1,,optimizer.lr=0.02,,sparsity.target.share=0.5"
    return recipe.train(recipe.root / "judged", "--corpus", str(tones), "-o", options)


def batches(tones, **changes):
    options = {"batch_size": 4, "max_seconds": 0.6, "min_seconds": 0.3, "seed": 1, "normalize": False, **changes}
    return RandomCropBatches(scan_corpus(tones), **options)


@pytest.mark.parametrize("bound", [{}, {"max_batch_seconds": 2.0}])
def test_held_out_utterances_are_in_no_batch(tones, bound):
    corpus = batches(tones, held_out=32, **bound)
    held = [utterance.id for utterance in corpus.held_out]
    assert held == [scan_corpus(tones)[i].id for i in HELD]
    trained = [u.id for index in range(3 * len(corpus)) for u in corpus.members(index)]
    assert sorted(set(trained)) == sorted({u.id for u in scan_corpus(tones)} - set(held))
    assert len(trained) == 3 * (NUMBER - len(HELD)) == 3 * corpus.num_utterances
    assert corpus.left_out == []


def test_a_small_corpus_has_no_held_out_part(tones):
    few = RandomCropBatches(
        scan_corpus(tones)[:19], batch_size=4, max_seconds=0.6, min_seconds=0.3, seed=1, normalize=False, held_out=32
    )
    assert few.held_out == [] and few.num_utterances == 19 and list(few.held_out_batches()) == []


def test_held_out_batches_are_starts_of_utterances_and_are_shared_among_processes(tones):
    corpus = batches(tones, held_out=32, batch_size=1)
    alone = [wav for wavs, _ in corpus.held_out_batches() for wav in wavs]
    for wav, number in zip(alone, HELD, strict=True):
        expected, _ = soundfile.read(tones / f"tone-{number:02}.flac", dtype="float32")
        np.testing.assert_array_equal(wav.numpy(), expected[:9_600])  # at most max_seconds
    shared = [wav for rank in range(2) for wavs, _ in corpus.held_out_batches(rank, 2) for wav in wavs]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def held_out_loss(recipe, export, projection, tones):
    """Squared errors of the matched pairs, summed, as a mean over frames: float64, from the exported folder alone."""
    student, _ = load_encoder(export)
    teacher, layers = load_teacher(str(recipe.teacher), 0).encoder, student.config.num_layers
    wavs = [torch.from_numpy(soundfile.read(tones / f"tone-{n:02}.flac", dtype="float32")[0]) for n in HELD]
    length = min(8_000, *(len(wav) for wav in wavs))
    wavs = torch.stack([wav[:length] for wav in wavs])
    with torch.no_grad():
        ours, theirs = (model.eval()(wavs).hidden_states for model in (student, teacher))
    mapped = [state.double() @ projection.double().T for state in ours[1:]]
    total, below = 0.0, layers
    for state in (layers, round(layers / 2)):  # two pairs: the deepest first
        errors = [float((theirs[state].double() - mapped[j]).square().mean()) for j in range(below)]
        alive = [j for j in range(below) if student.spec.layers[j].heads or student.spec.layers[j].ffn]
        if not alive:
            break
        below = min(alive, key=lambda j: errors[j])
        total += errors[below]
    return total


def test_the_held_out_loss_equals_that_of_the_export(recipe, finished, tones):
    last = read_log(finished)[-1]
    projection = checkpoint.load_checkpoint(finished / "states-3.ckpt")["Distillation"]["projection.weight"]
    expected = held_out_loss(recipe, finished / "export", projection, tones)
    assert last["held_out_distill"] == pytest.approx(expected, rel=1e-4)
    perturbed = held_out_loss(recipe, finished / "export", projection * 1.01, tones)
    assert perturbed != pytest.approx(expected, rel=1e-3)


def test_the_logged_figures_equal_those_of_the_export(finished):
    for line in read_log(finished):
        assert line["held_out_distill"] > 0 and line["export_macs"] > 0
    encoder, card = load_encoder(finished / "export")
    assert line["export_parameters"] == encoder.num_parameters()
    assert line["export_sparsity"] == card["sparsity"]["realised"]
    assert line["inert_share"] == card["sparsity"]["inert_share"]


def test_evaluation_does_not_change_training(recipe, finished, tones, tmp_path):
    options = "runner.max_keep=1,,runner.save_step=3,,optimizer.lr=0.02,,sparsity.target.share=0.5"
    seldom = recipe.train(tmp_path / "seldom", "--corpus", str(tones), "-o", options)
    assert [line["distill"] for line in read_log(seldom)] == [line["distill"] for line in read_log(finished)]
    assert model_hash(seldom / "export") == model_hash(finished / "export")


def test_the_best_checkpoint_on_target_is_kept_besides_the_newest(finished, tmp_path):
    log = read_log(finished)
    best = best_line(log)
    assert best["held_out_distill"] == min(line["held_out_distill"] for line in log if line["on_target"])
    names = {path.name for path in finished.glob("states-*.ckpt")}
    assert names == {"states-3.ckpt", f"states-{best['step']}.ckpt"}
    convert(finished / "best", tmp_path / "best", "folder")
    export_checkpoint(finished / f"states-{best['step']}.ckpt", tmp_path / "by number")
    assert model_hash(tmp_path / "best") == model_hash(tmp_path / "by number")


def test_lines_off_target_are_never_the_best():
    log = [
        {"step": 1, "held_out_distill": 0.1, "on_target": False},
        {"step": 2, "held_out_distill": 0.3, "on_target": True},
        {"step": 3, "distill": 0.2},
        {"step": 4, "held_out_distill": 0.4, "on_target": True},
    ]
    assert best_line(log)["step"] == 2 and best_line(log[:1]) is None
    shown = held_out_lines(log, Path("run"))
    assert shown[0] == "held_out_distill: 0.4" and "0.3, at step 2: tools/export.py run/best TARGET" in shown[1]
    assert (
        held_out_lines(log[:2], Path("run")) == ["held_out_distill: 0.3"] and held_out_lines(log[:3], Path("run")) == []
    )


def test_an_old_run_without_held_out_speech_resumes_without_it(recipe, tones, tmp_path):
    options = ("--corpus", str(tones), "-o")
    whole = recipe.train(tmp_path / "whole", *options, "pretrain_expert.datarc.held_out=0")
    old = tmp_path / "old"
    old.mkdir()
    for name in ("log.jsonl", "states-1.ckpt"):
        shutil.copy(whole / name, old)
    record = json.loads((whole / "run.json").read_text())
    del record["defaults"], record["runner"]["pretrain_expert"]["datarc"]["held_out"]
    (old / "run.json").write_text(json.dumps(record))
    recipe.train(old, *options, "runner.log_step=1", "-a")
    assert model_hash(old / "export") == model_hash(whole / "export")
    assert "held_out_distill" not in read_log(old)[-1]
    with pytest.raises(UserError, match="optimizer.lr: 0.001 there, 0.5 wanted"):
        recipe.train(old, *options, "optimizer.lr=0.5", "-a")
