"""Features of a folder: every format holds what `extract` gives, an interrupted call goes on, nothing is mixed."""

import json

import h5py
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import s3prl_pruned
from s3prl_pruned.commands import extract
from s3prl_pruned.config import UserError
from s3prl_pruned.features.chunks import Chunks
from s3prl_pruned.features.folder import ABOUT, FeatureFiles, extract_folder
from s3prl_pruned.formats import registry
from s3prl_pruned.models.accelerate.int8 import quantize_int8
from s3prl_pruned.models.dummies import random_encoder, tiny_base, tiny_whisper

READ = {
    "npy": np.load,
    "safetensors": lambda path: load_file(path)["states"].numpy(),
    "h5": lambda path: h5py.File(path)["states"][()],
}


@pytest.fixture(name="export")
def _export(tmp_path):
    registry.write(tmp_path / "export", "folder", random_encoder(tiny_base(), seed=1))
    return tmp_path / "export"


@pytest.fixture(name="audio")
def _audio(tmp_path):
    folder = tmp_path / "audio"
    for name in ("a.wav", "deep/er/b.flac", "deep/c d.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, 0.1 * torch.randn(2000).numpy(), 16_000)
    return folder


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", sorted(READ))
@pytest.mark.parametrize("layer", [None, 1])
def test_files_hold_what_extract_gives(export, audio, tmp_path, kind, layer, half):
    encoder = s3prl_pruned.load(export)
    assert extract_folder(encoder, audio, tmp_path / "out", FeatureFiles(layer=layer, format=kind, half=half)) == {}
    for name in ("a.wav", "deep/er/b.flac", "deep/c d.wav"):
        found = READ[kind]((tmp_path / "out" / name).with_suffix(f".{kind}"))
        expected = encoder.extract(audio / name, layer=layer).numpy()
        assert found.dtype == (np.float16 if half else np.float32)
        np.testing.assert_array_equal(found, expected.astype(found.dtype))


def test_a_call_goes_on_where_it_was_interrupted(export, audio, tmp_path, monkeypatch):
    encoder, output = s3prl_pruned.load(export), tmp_path / "out"
    given = type(encoder).extract

    def interrupted(self, path, **options):
        if path.name == "b.flac":
            raise KeyboardInterrupt
        return given(self, path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(encoder), "extract", interrupted)
        extract_folder(encoder, audio, output, FeatureFiles())
    done = {path: path.stat().st_mtime_ns for path in output.rglob("*.npy")}
    assert 0 < len(done) < 3
    extract_folder(encoder, audio, output, FeatureFiles())
    assert len(list(output.rglob("*.npy"))) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())


def test_other_features_are_not_mixed_in(export, audio, tmp_path):
    encoder, output = s3prl_pruned.load(export), tmp_path / "out"
    extract_folder(encoder, audio, output, FeatureFiles(layer=1))
    other = s3prl_pruned.load("random")
    for asked in (
        (encoder, FeatureFiles(layer=2)),
        (encoder, FeatureFiles(layer=1, half=True)),
        (other, FeatureFiles()),
    ):
        with pytest.raises(UserError, match="holds other features"):
            extract_folder(asked[0], audio, output, asked[1])
    assert json.loads((output / ABOUT).read_text())["layer"] == 1


def test_a_damaged_file_is_named_and_the_others_are_written(export, audio, tmp_path, capsys):
    (audio / "deep" / "bad.wav").write_bytes(b"RIFF....")
    with pytest.raises(SystemExit) as ended:
        extract.main([str(export), str(audio), "--output", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert "bad.wav" in capsys.readouterr().err
    assert len(list((tmp_path / "out").rglob("*.npy"))) == 3


def test_half_precision_is_computed_and_not_mixed_with_fp32(export, audio, tmp_path):
    call = [str(export), str(audio), "--output", str(tmp_path / "out"), "--layer", "1"]
    extract.main([*call, "--dtype", "bf16"])
    found = np.load(tmp_path / "out/a.npy")
    exact = s3prl_pruned.load(export).extract(audio / "a.wav", layer=1).numpy()
    expected = s3prl_pruned.load(export).to(torch.bfloat16).extract(audio / "a.wav", layer=1).float().numpy()
    assert found.dtype == np.float32 and np.array_equal(found, expected) and not np.array_equal(found, exact)
    with pytest.raises(UserError, match=r"bfloat16.*float32.*are requested"):
        extract.main(call)


def test_chunks_are_passed_on_and_recorded(export, audio, tmp_path):
    call = [str(export), str(audio), "--output", str(tmp_path / "out"), "--layer", "1"]
    extract.main([*call, "--chunk-seconds", "0.1", "--context-seconds", "0.02"])
    expected = s3prl_pruned.load(export).extract(audio / "a.wav", layer=1, chunks=Chunks(0.1, 0.02)).numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "out/a.npy"), expected)
    with pytest.raises(UserError, match="'chunks'.*are requested"):
        extract.main(call)


def test_chunks_of_a_model_with_windows_of_its_own_are_refused_before_anything_is_written(audio, tmp_path):
    registry.write(tmp_path / "whisper", "folder", random_encoder(tiny_whisper(), seed=1))
    with pytest.raises(UserError, match="must be left out for a whisper encoder"):
        extract.main([str(tmp_path / "whisper"), str(audio), "--output", str(tmp_path / "out"), "--chunk-seconds", "1"])
    assert not (tmp_path / "out").exists()


def test_an_int8_export_keeps_its_precision(export, audio, tmp_path):
    registry.write(tmp_path / "int8", "folder", quantize_int8(random_encoder(tiny_base(), seed=1)))
    with pytest.raises(UserError, match="int8 export"):
        extract.main([str(tmp_path / "int8"), str(audio), "--output", str(tmp_path / "out"), "--dtype", "bf16"])


@pytest.mark.parametrize("wrong", ["no folder", "no audio", "twins", "itself", "no layer"])
def test_wrong_calls_are_one_clear_error(export, audio, tmp_path, wrong):
    folder, output, said = audio, tmp_path / "out", {"itself": "folder of the audio itself"}.get(wrong, wrong)
    if wrong == "no folder":
        folder, said = tmp_path / "nowhere", "must be a folder"
    elif wrong == "no audio":
        folder, said = tmp_path / "empty", "no audio"
        folder.mkdir()
    elif wrong == "twins":
        soundfile.write(audio / "a.flac", np.zeros(2000), 16_000)
        said = "have the same name as"
    elif wrong == "itself":
        output = folder
    layer = ["--layer", "99"] if wrong == "no layer" else []
    said = "`layer` must be from 0" if layer else said
    with pytest.raises(UserError, match=said):
        extract.main([str(export), str(folder), "--output", str(output), *layer])
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob(ABOUT))
