"""A DPHuBERT checkpoint can be used wherever a model is named, with the commands as typed, in the tiny setting."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch

import s3prl_pruned
from s3prl_pruned.commands import convert, export, extract, timing, tradeoff
from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.sparsity.counts import parameters
from tests.dphubert_checkpoints import Authors, checkpoint
from tests.tiny_run import TinyRecipe, tiny_wavlm

WAV = 0.3 * torch.randn(8000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return TinyRecipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def content():
    """A model with the tiny teacher's dense shape: the same kernels in the CNN, and a part of all sizes."""
    convs = [(n, *rest) for n, (_, *rest) in zip((5, 7, 6, 4, 7, 3, 6), tiny_wavlm().conv_layers, strict=True)]
    return checkpoint(extractor_conv_layer_config=convs, encoder_ff_interm_features=[11, 5, 18])


@pytest.fixture(scope="module")
def path(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("peer") / "pruned_wavlm_base.pth"
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def expected(content):
    """Published states of its authors' model."""
    return Authors(content).states([WAV])


def close(states, expected, relative_differences):
    return max(relative_differences([state.double() for state in states], expected)) <= 2e-5


def test_upstream_load_and_extraction(path, expected, relative_differences, tmp_path):
    s3prl_pruned.register()
    import s3prl.hub

    upstream = s3prl.hub.wavlm_pruned_local(ckpt=str(path), model_config=None, refresh=False).eval()
    with torch.no_grad():
        assert close(upstream([WAV])["hidden_states"], expected, relative_differences)
    encoder = s3prl_pruned.load(path)
    assert close(list(encoder.extract(WAV)[:, None]), expected, relative_differences)
    info = encoder.info()
    assert info["provenance"]["method"] == "converted from DPHuBERT's format" and info["states"] == 4
    assert info["parameters"] == sum(parameters(encoder.encoder.config, encoder.encoder.spec).values())
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", WAV.numpy(), 16_000, subtype="FLOAT")
    extract.main([str(path), str(tmp_path / "audio"), "--output", str(tmp_path / "features")])
    written = torch.from_numpy(np.load(tmp_path / "features" / "a.npy"))
    assert close(list(written[:, None]), expected, relative_differences)
    with pytest.raises(UserError, match="holds a wavlm encoder, but a hubert is required"):
        s3prl.hub.hubert_pruned_local(ckpt=str(path))


def test_it_is_converted_to_our_folder_and_refused_by_dense_formats(path, expected, relative_differences, tmp_path):
    for number, tool in enumerate((convert, export)):
        target = tmp_path / str(number)
        tool.main([str(path), str(target), "--to", "folder"])
        loaded = registry.read(target)
        with torch.no_grad():
            states = loaded.encoder.states(loaded.encoder.encode_raw(WAV[None]))
        assert close(states, expected, relative_differences)
        assert loaded.provenance["source"]["name"] == path.name
    for fmt in ("microsoft", "s3prl", "fairseq", "torchaudio"):
        with pytest.raises(UserError, match="holds dense encoders only, but this one is pruned"):
            convert.main([str(path), str(tmp_path / "x"), "--to", fmt])


def test_exported_for_transformers(path, expected, relative_differences, tmp_path):
    """The export compares its states in another process; here they are compared with the authors' model."""
    transformers = pytest.importorskip("transformers")
    export.main([str(path), str(tmp_path / "hf"), "--to", "huggingface"])
    model = transformers.AutoModel.from_pretrained(tmp_path / "hf", trust_remote_code=True).eval()
    with torch.no_grad():
        output = model(WAV[None], output_hidden_states=True)
    assert close(output.hidden_states, expected, relative_differences)


def test_exported_as_onnx(relative_differences, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    content = checkpoint(heads=[[1, 2]], encoder_ff_interm_features=[4])  # torch's exporter takes seconds per layer
    path, expected = tmp_path / "x.pth", Authors(content).states([WAV])
    torch.save(content, path)
    export.main([str(path), str(tmp_path / "x.onnx"), "--to", "onnx"])
    given = {"waveform": WAV[None].numpy(), "lengths": np.array([len(WAV)])}
    found = onnxruntime.InferenceSession(str(tmp_path / "x.onnx")).run(None, given)
    assert close([torch.from_numpy(state) for state in found], expected, relative_differences)


def test_exported_in_int8(path, expected, relative_differences, tmp_path):
    export.main([str(path), str(tmp_path / "int8"), "--int8"])
    found = s3prl_pruned.load(tmp_path / "int8").extract(WAV)
    assert 1e-6 < max(relative_differences(list(found[:, None].double()), expected)) < 0.3


def test_it_is_timed_together_with_its_export_and_has_the_same_states(path, tmp_path, capsys):
    registry.write(tmp_path / "ours", "folder", registry.read(path).encoder)
    names = ["--baseline", str(path), "--models", f"{tmp_path / 'ours'},{path}+lowmem"]
    options = ["--lengths", "0.3", "--repeats", "2", "--threads", "1", "--dtype", "fp32"]
    timing.main([*names, *options, "--output", str(tmp_path / "timing")])
    data = json.loads((tmp_path / "timing" / "timing.json").read_text())
    assert len(data["results"]) == 3 and not data["lost"]
    assert data["results"][0]["params"] == registry.read(path).encoder.num_parameters()


def test_in_the_tradeoff(path, tmp_path):
    export.main([str(path), str(tmp_path / "models" / "a")])
    options = ["--output", str(tmp_path / "report"), "--repeats", "0"]
    tradeoff.main([str(tmp_path / "models"), "--model", str(path), *options])
    entries = json.loads((tmp_path / "report" / "tradeoff.json").read_text())["entries"]
    assert [entry["method"] for entry in entries] == ["dense", *["converted from DPHuBERT's format"] * 2]
    assert entries[2]["sha256"] == registry.read(path).sha256 and entries[2]["name"] == path.name
    assert entries[1]["parameters"] == entries[2]["parameters"]
    assert entries[1]["parameters"] == registry.read(path).encoder.num_parameters() < entries[0]["parameters"]


def finite_log(run, steps):
    log = read_log(run)
    assert [line["step"] for line in log] == list(range(1, steps + 1))
    assert all(math.isfinite(line["distill"]) for line in log)
    return log


def test_a_second_stage_starts_from_it_and_keeps_its_structure(path, recipe, tmp_path):
    run = recipe.train(tmp_path / "run", "--student", str(path))
    finite_log(run, 3)
    loaded = registry.read(path, dense=tiny_wavlm()).encoder
    after, provenance = load_encoder(run / "export")
    assert after.spec == loaded.spec and after.config.channel_scale and after.config.states == loaded.config.states
    assert provenance["first_stage"]["method"] == "converted from DPHuBERT's format"
    trained = {name for name, value in after.state_dict().items() if not torch.equal(value, loaded.state_dict()[name])}
    assert "feature_projection.channel_scale" in trained and "layers.0.attention.q_proj.weight" in trained


def test_pruned_further_with_itself_as_teacher(path, recipe, tmp_path):
    run = recipe.train(tmp_path / "run", "--teacher", str(path), "-o", "gates.kinds=[mha,qk,vo,ffn,int,conv]")
    finite_log(run, 3)
    before, (after, provenance) = registry.read(path).encoder, load_encoder(run / "export")
    assert after.num_parameters() < before.num_parameters() and after.config.states == before.config.states
    assert len(after.feature_projection.channel_scale) == len(after.spec.channels[-1])
    assert provenance["teacher"]["name"] == str(path)
