"""The embedded teacher's training: targets, alignment, resuming, export. Tiny shapes, synthetic audio."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.embedded_teacher import whisper as w
from benchmarks.embedded_teacher.distill import frame_log_mel
from benchmarks.embedded_teacher.export import install_teacher
from benchmarks.embedded_teacher.recipe import TeacherRecipe
from benchmarks.embedded_teacher.train import TeacherTraining
from benchmarks.embedded_teacher.windows import (
    GAP_SAMPLES,
    Piece,
    TargetStatistics,
    Window,
    load_crop,
    plan_windows,
    read_window,
)
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.families import wavlm_embedded

TINY = replace(
    wavlm_embedded(),
    conv_layers=tuple((4, kernel, stride) for _, kernel, stride in wavlm_embedded().conv_layers),
    num_layers=3,
    embed_dim=16,
    num_heads=2,
    ffn_dim=8,
    pos_conv_kernel=8,
    pos_conv_groups=4,
)
RECIPE = TeacherRecipe(
    total_steps=6,
    cnn_steps=2,
    warmup_steps=2,
    crop_seconds=(1.0, 1.5),
    batch_seconds=3.0,
    cnn_batch_seconds=1.5,
    student_layers=(1, 2, 3),
    bf16=False,
    log_step=1,
    save_step=2,
)


# ---- Whisper


@pytest.fixture(scope="module")
def transformers():
    from s3prl_pruned import compat

    module = pytest.importorskip("transformers")
    compat.apply()  # torchaudio, which transformers' audio utilities import, may be broken with a CPU build of torch
    return module


def test_whisper_states_equal_transformers(transformers):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    shape = {"encoder_layers": 2, "d_model": 24, "encoder_attention_heads": 3, "encoder_ffn_dim": 96}
    theirs = WhisperEncoder(transformers.WhisperConfig(**shape)).eval()
    for name, parameter in theirs.named_parameters():
        parameter.data.normal_(1.0 if name.endswith("layer_norm.weight") else 0.0, 0.3)
    theirs.embed_positions.weight.data = w.sinusoids(1500, 24)
    names = {
        "embed_positions.weight": "positional_embedding",
        "layers.": "blocks.",
        "self_attn_layer_norm": "attn_ln",
        "self_attn.q_proj": "attn.query",
        "self_attn.k_proj": "attn.key",
        "self_attn.v_proj": "attn.value",
        "self_attn.out_proj": "attn.out",
        "final_layer_norm": "mlp_ln",
        "fc1": "mlp.0",
        "fc2": "mlp.2",
    }
    state = {}
    for key, value in theirs.state_dict().items():
        key = "ln_post" + key[len("layer_norm") :] if key.startswith("layer_norm") else key
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    ours = w.WhisperEncoder(layers=2, width=24, heads=3).eval()
    ours.load_state_dict(state)
    mel = torch.randn(1, 80, 3000)
    with torch.no_grad():
        expected = theirs(mel, output_hidden_states=True).hidden_states
        states = ours(mel)
        assert len(states) == len(expected) == 3
        for mine, other in zip(states, expected):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
        ours.blocks[0].attn.key.weight.data[0] += 0.5 * torch.randn(24)
        assert (ours(mel)[1] - expected[1]).abs().max() > 1e-3


def test_log_mel_equals_transformers(transformers):
    torch.manual_seed(0)
    wav = torch.randn(w.WINDOW_SAMPLES) * 0.1
    wav[200_000:] = 0
    extract = transformers.WhisperFeatureExtractor()
    expected = torch.from_numpy(extract(wav.numpy(), sampling_rate=16_000).input_features)
    torch.testing.assert_close(w.log_mel(wav[None]), expected, atol=1e-4, rtol=0)


def test_foreign_whisper_weights_are_refused(tmp_path):
    (tmp_path / "tiny.en.pt").write_bytes(b"something else")
    with pytest.raises(UserError, match="SHA-256 must be d3dd57d3"):
        w.load_tiny_en(tmp_path)


# ---- alignment


def _centre_of_support(gradient):
    """The middle of all samples with any influence."""
    touched = gradient.nonzero().flatten()
    return (touched[0] + touched[-1]).item() / 2


def test_frames_of_a_crop_and_of_whisper_have_the_same_centres(tmp_path):
    """The samples that reach a frame are found by differentiating both, not by arithmetic."""
    torch.manual_seed(0)
    wav = torch.randn(w.WINDOW_SAMPLES) * 0.1
    audio = (wav * 32767).round().clamp(-32768, 32767).to(torch.int16)
    save_file({"audio": audio, "states": torch.zeros(1500, 12).half()}, tmp_path / "x.safetensors")
    first, frame = 700, 31

    wav.requires_grad_()
    whisper = w.WhisperEncoder(layers=0, width=8, heads=1)
    features = torch.nn.functional.gelu(whisper.conv2(torch.nn.functional.gelu(whisper.conv1(w.log_mel(wav[None])))))
    features[0, :, first + frame].sum().backward()
    theirs = _centre_of_support(wav.grad)

    crop, _ = load_crop(tmp_path, "x", first, 50)
    assert crop.shape == (320 * 49 + 400,)
    start = int((audio.float().unfold(0, 4, 1) / 32767 == crop[:4]).all(-1).nonzero())
    crop.requires_grad_()
    # GroupNorm mixes all samples of a crop; without it the convolutions' own receptive field is visible
    extractor = SpeechEncoder(TINY).feature_extractor
    extractor.layers[0].norm = None
    out = extractor(crop[None])
    assert out.shape[1] == 50
    out[0, frame].sum().backward()
    ours = start + _centre_of_support(crop.grad)

    assert abs(ours - theirs) <= 1
    assert abs(ours + 200 - theirs) > 100  # what a crop without the 200 samples would give


def test_the_log_mel_target_has_the_encoders_frames():
    """A click in the middle of frame 7's samples is loudest there."""
    wav = torch.zeros(1, 16_000)
    wav[0, 320 * 7 + 200] = 1.0
    mel = frame_log_mel(wav, w.mel_filters(), 5.0)
    assert mel.shape == (1, SpeechEncoder(TINY)(wav).hidden_states[0].shape[1], 80)
    assert mel[0].mean(-1).argmax() == 7


def test_crops_beyond_the_window_are_silent(tmp_path):
    save_file(
        {"audio": torch.ones(w.WINDOW_SAMPLES, dtype=torch.int16), "states": torch.zeros(1500, 3).half()},
        tmp_path / "x.safetensors",
    )
    assert (load_crop(tmp_path, "x", 0, 2)[0] == 0).sum() == 200
    assert (load_crop(tmp_path, "x", 1400, 100)[0] == 0).sum() == 0


# ---- windows


def _entries(seconds, language="ru"):
    return [{"path": f"{i}.wav", "seconds": s, "source": "a 1.0", "language": language} for i, s in enumerate(seconds)]


def test_windows_hold_all_of_the_speech_and_no_more_than_30_seconds():
    seconds = [0.5, 12.0, 14.0, 14.5, 75.0, 3.0]
    windows = plan_windows(_entries(seconds))
    for window in windows:
        assert sum(p.num_samples + GAP_SAMPLES for p in window.pieces) + GAP_SAMPLES <= w.WINDOW_SAMPLES
        assert window.num_frames <= 1500
    packed = sum(piece.num_samples for window in windows for piece in window.pieces)
    assert packed == pytest.approx(sum(seconds) * 16_000, abs=20 * len(seconds))


def test_english_comes_in_three_speeds_and_a_changed_corpus_in_new_names():
    assert len(plan_windows(_entries([20.0], "en"))) == 3
    before, after = plan_windows(_entries([2.0])), plan_windows(_entries([2.1]))
    assert {x.name for x in before}.isdisjoint(x.name for x in after)
    assert plan_windows(_entries([2.0], "en"))[0].is_english and not before[0].is_english


def test_a_window_concatenates_its_pieces(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", torch.full((8000,), 0.25).numpy(), 16_000)
    pieces = tuple(Piece(path="a.wav", speed=1.0, start=0, num_samples=n) for n in (8000, 4000))
    audio = read_window(Window(name="x.ru.1.0", pieces=pieces), tmp_path)
    assert audio.shape == (w.WINDOW_SAMPLES,)
    loud = audio.abs() > 0.1
    assert loud.sum() == 12_000
    second = 2 * GAP_SAMPLES + 8000
    assert loud[GAP_SAMPLES : GAP_SAMPLES + 8000].all() and loud[second : second + 4000].all()


# ---- training


def _write_window(folder, name, generator):
    """Noise; its targets are a slow and a fast pattern of the position, plus noise of variance 1."""
    position = 4 * torch.cos(torch.arange(1500)[:, None] * torch.linspace(0.002, 1, 12))
    audio = (torch.randn(w.WINDOW_SAMPLES, generator=generator) * 3000).to(torch.int16)
    states = position + torch.randn(1500, 12, generator=generator)
    save_file({"audio": audio, "states": states.half()}, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    generator = torch.Generator().manual_seed(0)
    for name in ("a.en.1.0", "b.ru.1.0", "c.ru.1.0"):
        _write_window(folder, name, generator)
    return folder


def _windows(*names):
    piece = Piece(path="", speed=1.0, start=0, num_samples=w.WINDOW_SAMPLES)
    return [Window(name=name, pieces=(piece,)) for name in names]


def _training(cache, folder, recipe=RECIPE):
    about = {"sources": [], "hardware": "a test", "date": "2000-01-01", "command": "none"}
    train, held_out = _windows("a.en.1.0", "b.ru.1.0"), _windows("c.ru.1.0")
    return TeacherTraining(recipe, TINY, train=train, held_out=held_out, cache=cache, folder=folder, about=about)


def _losses(folder):
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {entry["step"]: entry for entry in entries if "lr" in entry}


def test_standardised_targets_do_not_reveal_the_position(cache, tmp_path):
    generator = torch.Generator().manual_seed(1)
    names = [f"{i}.ru.1.0" for i in range(20)]
    for name in names:
        _write_window(tmp_path, name, generator)
    statistics = TargetStatistics.of(_windows(*names), tmp_path)
    left = (load_crop(cache, "c.ru.1.0", 0, 1500)[1] - statistics.mean) / statistics.std
    assert left.std() == pytest.approx(1.05, abs=0.03)  # the mean of 20 windows has an error of 1 / 20
    assert left.unflatten(0, (-1, 100)).mean(1).abs().max() < 0.5  # 1 / 10, at 4 standard deviations
    whole = load_crop(cache, "c.ru.1.0", 0, 1500)[1]
    assert ((whole - whole.mean(0)) / whole.std(0)).unflatten(0, (-1, 100))[:, :, 0].mean(1).abs().max() > 1


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(cache, tmp_path, monkeypatch):
    whole = _training(cache, tmp_path / "whole")
    whole.run()

    step = TeacherTraining._train_step

    def fall_over(self):
        if self.step == 5:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(TeacherTraining, "_train_step", fall_over)
    with pytest.raises(KeyboardInterrupt):
        _training(cache, tmp_path / "parts").run()
    monkeypatch.undo()
    torch.manual_seed(99)
    resumed = _training(cache, tmp_path / "parts")
    resumed.run()

    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name
    expected, found = _losses(tmp_path / "whole"), _losses(tmp_path / "parts")
    for number in range(1, 7):
        same = [{k: v for k, v in x[number].items() if k != "wall_minutes"} for x in (expected, found)]
        assert same[0] == same[1]
    assert "loss" not in expected[2] and "loss" in expected[3]  # first the convolutions alone, then all
    assert resumed.seconds_passed == whole.seconds_passed


def test_the_loss_falls_on_one_batch(cache, tmp_path, monkeypatch):
    recipe = replace(RECIPE, cnn_steps=0, total_steps=60, decay_fraction=0.1, lr=1e-2)
    training = _training(cache, tmp_path, recipe)
    batch = training.batches.batch(0)
    monkeypatch.setattr(training.batches, "batch", lambda index: batch)
    losses = [training._train_step()["loss"] for _ in range(60)]
    assert losses[-1] < losses[0] - 0.1


def test_the_export_loads_back_with_the_same_outputs(cache, tmp_path):
    training = _training(cache, tmp_path)
    export = training.run()
    wavs = torch.randn(2, 8000) * 0.1
    with torch.no_grad():
        expected = training.encoder()(wavs).hidden_states
        for name in ("model.safetensors", "teacher.pt"):
            states = read(export / name).encoder(wavs).hidden_states
            assert len(states) == len(expected) == 4
            for mine, other in zip(states, expected):
                torch.testing.assert_close(mine, other, atol=2e-2, rtol=1e-2)
        assert (states[-1] - SpeechEncoder(TINY).eval()(wavs).hidden_states[-1]).abs().max() > 0.1
    assert "not WavLM" in (export / "README.md").read_text()

    install_teacher(export, tmp_path / "package")
    assert sorted(path.name for path in (tmp_path / "package").iterdir()) == ["README.md", "model.safetensors"]


def test_nothing_is_installed_before_there_is_an_export(tmp_path):
    with pytest.raises(UserError, match="model.safetensors: no such file"):
        install_teacher(tmp_path, tmp_path / "package")


# ---- recipe


def test_a_run_resumes_only_with_its_own_recipe(cache, tmp_path):
    _training(cache, tmp_path).run()
    with pytest.raises(UserError, match=r"other values of \['lr'\]"):
        _training(cache, tmp_path, replace(RECIPE, lr=1e-4)).run()
    with pytest.raises(UserError, match="total_steps.* must not change once the learning rate falls"):
        _training(cache, tmp_path, replace(RECIPE, total_steps=7)).run()


def test_the_learning_rate_rises_stays_and_falls():
    recipe = TeacherRecipe(total_steps=1000, cnn_steps=100, warmup_steps=100, decay_fraction=0.25, lr=1.0, cnn_lr=3.0)
    assert recipe.lr_at(49) == pytest.approx(3.0)
    assert recipe.lr_at(100) == pytest.approx(0.01)
    assert recipe.lr_at(200) == recipe.lr_at(749) == 1.0
    assert recipe.lr_at(875) == pytest.approx(0.5)
    assert 0 < recipe.lr_at(999) < 0.005


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cnn_steps": 6}, "`cnn_steps` must be below `total_steps`"),
        ({"crop_seconds": (0.2,)}, "`crop_seconds` must be between 1 and 29"),
        ({"batch_seconds": 1.0}, "`batch_seconds` must hold the longest crop"),
        ({"decay_fraction": 0.0}, "`decay_fraction` must be above 0"),
        ({"save_step": 0}, "`save_step` must be at least 1"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        replace(RECIPE, **change).validate()
