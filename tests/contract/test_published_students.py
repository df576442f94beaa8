"""Pruned models of other papers can be used wherever a model is named, from their own files."""

import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import s3prl_pruned
from s3prl_pruned.commands import convert, export
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.pretrain.command import main
from s3prl_pruned.pretrain.distill.teachers import _HUB
from s3prl_pruned.timing import checks
from s3prl_pruned.timing.models import Builder
from s3prl_pruned.timing.names import parse
from tests.formats import fairseq_student as students

WHOLE = {**students.TINY, "_name": "student_hubert"}
WRITERS = {
    "starhubert": students.star,
    "maskhubert": students.mask,
    "distilhubert": students.distil,
    "lighthubert": partial(students.light, cfg=WHOLE),
}
STATES = {
    "starhubert": partial(students.star_states, cfg=students.TINY),
    "maskhubert": partial(students.mask_states, cfg=students.TINY),
    "distilhubert": partial(students.distil_states, cfg=students.TINY),
    "lighthubert": partial(students.light_states, cfg=WHOLE),
}
WAV = 0.3 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=WRITERS)
def student(request, tmp_path_factory):
    """Name of the model, its file, and its hidden states for `WAV`."""
    path = tmp_path_factory.mktemp(request.param) / "model.ckpt"
    state = WRITERS[request.param](path)
    return request.param, path, STATES[request.param](state, wavs=[WAV])


def test_load_extracts_its_states(student, relative_differences):
    _, path, expected = student
    loaded = s3prl_pruned.load(path)
    found = loaded.extract(WAV)
    assert max(relative_differences(list(found), [state[0] for state in expected])) <= TOLERANCE
    assert torch.equal(loaded.extract(WAV, layer=-1), found[-1])
    info = loaded.info()
    assert (info["states"], info["dim"]) == (len(expected), expected[0].shape[-1])
    assert info["parameters"] == loaded.encoder.num_parameters() and info["sha256"] == loaded.sha256


def test_it_is_an_upstream(student, hub, relative_differences):
    from s3prl.upstream.interfaces import Featurizer

    _, path, expected = student
    expert = hub.hubert_pruned_local(ckpt=str(path)).eval()
    with torch.no_grad():
        found = expert([WAV])
        assert max(relative_differences(found["hidden_states"], expected)) <= TOLERANCE
        featurizer = Featurizer(expert, feature_selection="hidden_states", upstream_device="cpu")
        assert featurizer.layer_num == len(expected) and featurizer.output_dim == expected[0].shape[-1]
        assert featurizer([WAV], found)[0].shape == expected[0].shape[1:]
    other = hub.hubert_pruned_local(ckpt=str(path), states="s3prl")
    assert len(other([WAV])["hidden_states"]) == students.TINY["encoder_layers"] + 1


@pytest.mark.parametrize("states", ["own", "s3prl"])
def test_every_weight_of_the_upstream_that_asks_for_a_gradient_has_one(student, states, hub):
    _, path, _ = student
    expert = hub.hubert_pruned_local(ckpt=str(path), states=states).train()
    generator = torch.Generator().manual_seed(0)
    found = expert([WAV])["hidden_states"]
    sum((state * torch.randn(state.shape, generator=generator)).sum() for state in found).backward()
    without = [name for name, p in expert.model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    heads = [p.requires_grad for name, p in expert.model.named_parameters() if name.startswith("state_heads.")]
    assert all(heads) if states == "own" else not any(heads)


def test_it_teaches_a_student_that_publishes_the_same_states(student, recipe, tmp_path):
    name, path, expected = student
    given = ["-u", "hubert_pruned_distill", "--recipe", str(recipe.recipe), "--corpus", str(recipe.corpus)]
    folder = main([*given, "--teacher", str(path), "-p", str(tmp_path / "run"), "--device", "cpu"])
    encoder, teacher = load_encoder(folder / "export")[0], read(path).encoder
    assert encoder.config.states == teacher.config.states and encoder.num_parameters() < teacher.num_parameters()
    with torch.no_grad():
        states = encoder.states(encoder.encode_raw(WAV[None]))
    assert [state.shape for state in states] == [state.shape for state in expected]
    heads = {key: value for key, value in teacher.state_dict().items() if key.startswith("state_heads.")}
    assert bool(heads) == (name in ("maskhubert", "distilhubert"))
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in heads.items())  # not trained
    again = ["--student", str(folder / "export"), "-p", str(tmp_path / "second"), "-o", "runner.total_steps=2"]
    second = main([*given, "--teacher", str(path), "--device", "cpu", *again])
    assert load_encoder(second / "export")[0].spec == encoder.spec


def test_it_is_converted_to_a_folder_and_to_int8(student, tmp_path, relative_differences):
    _, path, expected = student
    convert.main([str(path), str(tmp_path / "folder"), "--to", "folder"])
    found = s3prl_pruned.load(tmp_path / "folder").extract(WAV)
    assert max(relative_differences(list(found), [state[0] for state in expected])) <= TOLERANCE
    export.main([str(path), str(tmp_path / "int8"), "--int8"])
    small = s3prl_pruned.load(tmp_path / "int8").extract(WAV)
    assert 1e-7 < max(relative_differences(list(small), [state[0] for state in expected])) < 0.5


HEADED = ("maskhubert", "distilhubert")
"""The others are exported in tests/models/test_states.py."""


@pytest.mark.parametrize("name", HEADED)
def test_a_hugging_face_folder_publishes_its_heads(name, tmp_path, relative_differences):
    """The export compares all states in another process."""
    transformers = pytest.importorskip("transformers")
    state = WRITERS[name](tmp_path / "model.ckpt")
    convert.main([str(tmp_path / "model.ckpt"), str(tmp_path / "hf"), "--to", "huggingface"])
    again = read(tmp_path / "hf").encoder
    assert again.config.states == read(tmp_path / "model.ckpt").encoder.config.states
    where = {"trust_remote_code": True, "use_weighted_layer_sum": True, "num_labels": 3}
    auto = transformers.AutoModelForAudioClassification
    weighted = auto.from_pretrained(tmp_path / "hf", **where)
    expected = STATES[name](state, wavs=[WAV])
    output = weighted(WAV[None], output_hidden_states=True, labels=torch.tensor([1]))
    states = [state.detach() for state in output.hidden_states]
    assert max(relative_differences(states, expected)) <= TOLERANCE
    output.loss.backward()
    without = [name for name, p in weighted.named_parameters() if p.requires_grad and p.grad is None]
    assert without == ["speech_encoder.encoder.mask_embedding"]  # SpecAugment's, in training
    assert weighted.projector.in_features == expected[0].shape[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADED)
def test_onnx_runtime_publishes_its_heads(name, tmp_path, relative_differences):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    cfg = {**students.TINY, "encoder_layers": 1}
    state = WRITERS[name](tmp_path / "model.ckpt", cfg=cfg)
    convert.main([str(tmp_path / "model.ckpt"), str(tmp_path / "x.onnx"), "--to", "onnx"])
    given = {"waveform": WAV[None].numpy(), "lengths": np.array([len(WAV)])}
    found = onnxruntime.InferenceSession(str(tmp_path / "x.onnx")).run(None, given)
    expected = STATES[name].func(state, cfg, [WAV])
    assert max(relative_differences([torch.from_numpy(each) for each in found], expected)) <= TOLERANCE


@pytest.mark.parametrize("name", ["distilhubert", "lighthubert_small", "lighthubert_base", "lighthubert_stage1"])
def test_models_of_s3prls_hub_are_known_by_name(name, hub):
    text = Path(inspect.getfile(inspect.unwrap(getattr(hub, name)))).read_text(encoding="utf-8")
    assert f'"{_HUB[name]}"' in text


def test_it_is_timed(student, relative_differences):
    _, path, expected = student
    timed = Builder(random=False).build(parse(str(path)))
    with torch.inference_mode():
        assert max(relative_differences(timed.encode([WAV]), expected)) <= TOLERANCE
    assert checks.check_macs([timed]) == [timed.label]


def test_states_s3prl_leaves_out_the_heads(student):
    _, path, _ = student
    encoder = read(path).encoder
    with torch.no_grad():
        output = encoder.encode_raw(WAV[None])
    plain = encoder.states(output, StateRule())
    assert all(a is b for a, b in zip(plain, output.hidden_states, strict=True))
