"""Each workaround: does it serve its purpose, and does it leave a working installation alone?"""

import argparse
import builtins
import configparser
import importlib.metadata
import math
import re
import shutil
import subprocess
import sys
import textwrap
import time
import types
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from s3prl_pruned import compat
from s3prl_pruned.compat import audio, sox
from s3prl_pruned.compat.hosts import DISTRIBUTIONS
from s3prl_pruned.config import UserError

REPO = Path(__file__).parents[1]
SV_CHAIN = [  # s3prl/downstream/sv_voxceleb1/dataset.py
    ["channels", "1"],
    ["rate", "16000"],
    ["gain", "-3.0"],
    ["silence", "1", "0.1", "0.1%", "-1", "0.1", "0.1%"],
]


def python(code: str, *, path: Path | None = None) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter, with ``path`` before everything else on ``sys.path``."""
    prefix = f"import sys; sys.path[:0] = {[str(path)] if path else []} + [{str(REPO)!r}]\n"
    return subprocess.run([sys.executable, "-c", prefix + textwrap.dedent(code)], capture_output=True, text=True)


def fake_torchaudio(folder: Path, *, failure: str, error: str = "OSError") -> Path:
    """A package ``torchaudio`` whose extension, or its own check of it, fails with the message ``failure``."""
    (folder / "torchaudio" / "_extension").mkdir(parents=True)
    (folder / "torchaudio" / "__init__.py").write_text("from . import _extension\nloaded = True\n")
    (folder / "torchaudio" / "_extension" / "__init__.py").write_text(
        textwrap.dedent(
            f"""
            failure = {failure!r}
            if {error == "RuntimeError"}:
                raise RuntimeError(failure)
            if failure:
                try:
                    raise OSError(failure)
                except OSError as error:
                    raise OSError("Could not load this library") from error
            """
        )
    )
    return folder


def test_import_of_compat_changes_nothing():
    result = python(
        """
        import s3prl_pruned.compat
        assert not {"torch", "torchaudio", "s3prl", "huggingface_hub"} & set(sys.modules)
        """
    )
    assert result.returncode == 0, result.stderr


OTHER_CUDA = (
    "Detected that PyTorch and TorchAudio were compiled with different CUDA versions. PyTorch has CUDA version 13.2 ..."
)


@pytest.mark.parametrize(
    "failure, error",
    [
        ("libc10_cuda.so: cannot open shared object file", "OSError"),
        (OTHER_CUDA, "RuntimeError"),
        ("_torchaudio.abi3.so: undefined symbol: aoti_torch_abi_version", "OSError"),
    ],
    ids=["cpu", "cuda", "older"],
)
def test_torchaudio_for_another_torch_is_imported_without_its_extension(failure, error, tmp_path):
    folder = fake_torchaudio(tmp_path, failure=failure, error=error)
    result = python(
        """
        try:  # a first attempt by somebody else leaves submodules behind
            import torchaudio
        except (OSError, RuntimeError):
            pass
        from s3prl_pruned import compat
        assert compat.torchaudio_extension() is True
        import torchaudio
        assert torchaudio.loaded and not torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE
        assert compat.torchaudio_extension() is False
        """,
        path=folder,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "failure, error",
    [("libfoo.so: undefined symbol: bar", "OSError"), ("libcudnn failed", "RuntimeError"), ("", "OSError")],
)
def test_torchaudio_that_works_or_fails_otherwise_is_left_alone(tmp_path, failure, error):
    folder = fake_torchaudio(tmp_path, failure=failure, error=error)
    result = python(
        """
        from s3prl_pruned import compat
        assert compat.torchaudio_extension() is False
        import torchaudio._extension
        assert torchaudio._extension.failure == ""
        """,
        path=folder,
    )
    if failure:
        assert (
            result.returncode == 1
            and {"OSError": "Could not load this library", "RuntimeError": "RuntimeError: libcudnn failed"}[error]
            in result.stderr
        )
    else:
        assert result.returncode == 0, result.stderr


def test_apply_makes_s3prl_hub_and_runner_importable_and_is_idempotent():
    compat.apply()
    assert compat.apply() == []
    import s3prl.downstream.asr.expert
    import s3prl.downstream.runner
    import s3prl.hub

    assert callable(s3prl.hub.fbank)


def test_what_a_torchaudio_has_is_not_replaced(monkeypatch):
    compat.apply()
    theirs = types.SimpleNamespace(
        set_audio_backend=lambda backend: "theirs",
        list_audio_backends=lambda: ["soundfile"],
        load=lambda path: "theirs",
        info=lambda path: "theirs",
    )
    monkeypatch.setattr(compat, "_torchaudio", lambda: theirs)
    monkeypatch.setitem(sys.modules, "torchaudio.sox_effects", types.ModuleType("theirs"))
    assert not compat.set_audio_backend()
    assert not compat.audio_reading()
    assert not compat.sox_effects()
    assert theirs.load("x") == theirs.info("x") == theirs.set_audio_backend("sox_io") == "theirs"

    theirs.list_audio_backends = list  # installed, but nothing to decode with
    assert compat.audio_reading()
    assert theirs.load is audio.load and theirs.info is audio.info
    assert not compat.audio_reading()


def test_missing_set_audio_backend_becomes_a_no_op(monkeypatch):
    torchaudio = types.SimpleNamespace()
    monkeypatch.setattr(compat, "_torchaudio", lambda: torchaudio)
    assert compat.set_audio_backend()
    assert torchaudio.set_audio_backend("sox_io") is None
    assert not compat.set_audio_backend()


def test_missing_huggingface_names_raise_only_when_used(monkeypatch):
    hub = types.ModuleType("huggingface_hub")
    hub.Repository = dict  # present: must stay
    hub.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert compat.huggingface_names()
    assert hub.Repository is dict
    from huggingface_hub import HfFolder

    assert not hasattr(HfFolder, "__wrapped__")  # what inspection asks for
    with pytest.raises(RuntimeError, match="huggingface_hub.HfFolder is not part of"):
        HfFolder.get_token()
    with pytest.raises(RuntimeError, match="huggingface_hub.HfFolder is not part of"):
        HfFolder()
    assert not compat.huggingface_names()


class Foreign:
    """A class that no s3prl checkpoint holds."""


def test_only_the_class_of_s3prl_checkpoints_is_allowed_when_loading(tmp_path):
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        checkpoint = {  # what s3prl/downstream/runner.py saves
            "Optimizer": torch.optim.Adam([torch.zeros(2, requires_grad=True)]).state_dict(),
            "Step": 3,
            "Epoch": 0,
            "Args": argparse.Namespace(upstream="fbank", seed=1337),
            "Config": {"runner": {"total_steps": 3}},
            "Downstream": OrderedDict(best_score=torch.ones(1)),
        }
        torch.save(checkpoint, tmp_path / "states-3.ckpt")
        torch.save({"Args": Foreign()}, tmp_path / "foreign.ckpt")
        with pytest.raises(Exception, match="argparse.Namespace"):
            torch.load(tmp_path / "states-3.ckpt", map_location="cpu")

        assert compat.checkpoint_classes()
        assert torch.load(tmp_path / "states-3.ckpt", map_location="cpu")["Args"].seed == 1337
        with pytest.raises(Exception, match="Foreign"):
            torch.load(tmp_path / "foreign.ckpt", map_location="cpu")
        assert not compat.checkpoint_classes()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_builtin_isinstance_survives_s3prls_hack():
    compat.apply()
    from s3prl.utility import helper

    genuine = builtins.isinstance
    helper.hack_isinstance()
    assert builtins.isinstance is genuine
    assert isinstance(defaultdict(), dict)  # s3prl's replacement says False


def test_a_host_without_that_hack_is_left_alone(monkeypatch):
    compat.apply()
    from s3prl.utility import helper

    monkeypatch.delattr(helper, "hack_isinstance")
    assert not compat.builtin_isinstance()
    assert not hasattr(helper, "hack_isinstance")


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [(".flac", "PCM_16", 1e-4), (".ogg", "OPUS", 0.05), (".ogg", "VORBIS", 0.05)],
)
def test_audio_is_read_as_float32_channels_first(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"tone{suffix}"
    time = np.arange(16000) / 16000
    tone = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), np.zeros(16000)], axis=1)
    soundfile.write(path, tone, 16000, subtype=subtype)

    wav, rate = audio.load(str(path))
    assert (wav.dtype, tuple(wav.shape), rate) == (torch.float32, (2, 16000), 16000)
    # The median: a lossy coder takes a few frames to lock on to the tone.
    assert np.median(np.abs(wav.numpy().T - tone), axis=0).max() < tolerance
    found = audio.info(path)
    assert (found.num_frames, found.sample_rate, found.num_channels) == (16000, 16000, 2)

    part, _ = audio.load(path, frame_offset=100, num_frames=50, channels_first=False)
    assert torch.equal(part.T, wav[:, 100:150])


def test_audio_that_cannot_be_decoded_names_the_file(tmp_path):
    (tmp_path / "noise.flac").write_bytes(b"not audio")
    for read in (audio.load, audio.info):
        with pytest.raises(UserError, match=r"noise\.flac: cannot be decoded"):
            read(tmp_path / "noise.flac")
        with pytest.raises(UserError, match=r"absent\.flac: cannot be decoded"):
            read(tmp_path / "absent.flac")
    with pytest.raises(UserError, match="normalize must be True"):
        audio.load(tmp_path / "noise.flac", normalize=False)


def test_channels_and_gain_follow_their_formulas():
    stereo = torch.tensor([[0.5, 0.25, -2.0], [0.1, 0.75, -2.0]])
    mono, rate = sox.apply_effects_tensor(stereo, 8000, [["channels", "1"], ["gain", "-3.0"]])
    expected = torch.tensor([[0.3, 0.5, -1.0]]) * 10 ** (-3 / 20)  # -2.0 is clipped when read
    assert rate == 8000 and torch.allclose(mono, expected)
    loud, _ = sox.apply_effects_tensor(mono, 8000, [["gain", "20"]])
    assert loud.min() == -1.0


def test_rate_keeps_what_is_below_the_new_nyquist_and_drops_what_is_above():
    def tone(frequency, rate):  # one second; phases in float64
        return torch.sin(2 * torch.pi * frequency * torch.arange(rate, dtype=torch.float64) / rate).float()

    mixture = 0.5 * (tone(1000, 44100) + tone(12000, 44100))
    wav, rate = sox.apply_effects_tensor(mixture.unsqueeze(0), 44100, [["rate", "16000"]])
    assert rate == 16000 and wav.shape == (1, 16000)
    inner = slice(200, -200)  # away from the edges
    assert (2 * wav[0] - tone(1000, 16000))[inner].abs().max() < 1e-3


def test_silence_drops_pauses_and_short_bursts_and_keeps_short_pauses():
    def loud(seconds):  # |x| = 0.5, so that the very first sample is above the threshold
        return torch.full((round(16000 * seconds),), 0.5)

    def quiet(seconds):
        return torch.full((round(16000 * seconds),), 1e-5)

    parts = [quiet(0.5), loud(0.5), quiet(0.3), loud(0.05), quiet(0.3), loud(0.4), quiet(0.1), loud(0.2), quiet(0.05)]
    wav, _ = sox.apply_effects_tensor(torch.cat(parts).unsqueeze(0), 16000, [SV_CHAIN[-1]])
    # The RMS of the last 320 samples stays above the threshold for 319 samples after a sound, so
    # that the pause of 0.1 s (1600 samples) holds 1281 below it: too few to be dropped.
    tail = 319
    expected = torch.cat([loud(0.5), quiet(0.3)[:tail], loud(0.4), quiet(0.1), loud(0.2), quiet(0.05)])
    assert torch.equal(wav[0], expected)

    nothing, _ = sox.apply_effects_tensor(quiet(1.0).unsqueeze(0), 16000, [SV_CHAIN[-1]])
    assert nothing.shape == (1, 0)


def first_stretch(passes: list[bool], begin: int, length: int) -> int | None:
    return next((i for i in range(begin, len(passes) - length + 1) if all(passes[i : i + length])), None)


def silence_by_the_manual(samples: list[float], window: int, start: tuple, stop: tuple) -> list[float]:
    """SoX's effect `silence`, sample by sample; `start` and `stop` are (samples, RMS)."""
    kept, position = [], 0
    while position < len(samples):
        heard = samples[position:]
        rms = [math.sqrt(sum(x * x for x in heard[max(i + 1 - window, 0) : i + 1]) / window) for i in range(len(heard))]
        loud, quiet = [value > start[1] for value in rms], [value <= stop[1] for value in rms]
        sound = first_stretch(loud, 0, start[0])
        if sound is None:
            break
        pause = first_stretch(quiet, sound + start[0], stop[0])
        kept += heard[sound:pause]
        if pause is None:
            break
        position += pause + stop[0]
    return kept


@pytest.mark.parametrize("start, stop", [(10, 10), (3, 25), (60, 4)])  # shorter and longer than the window's 20
def test_silence_is_what_the_manual_says_sample_by_sample(start, stop):
    rng = np.random.default_rng(start)
    for _ in range(20):
        levels = rng.choice([0.0, 9e-4, 1.2e-3, 0.3], size=12)
        parts = [level * rng.choice([-1.0, 1.0], size=rng.integers(1, 60)) for level in levels]
        wav = torch.tensor(np.concatenate(parts), dtype=torch.float32)
        effect = ["silence", "1", str(start), "0.1%", "-1", str(stop), "0.1%"]
        found, _ = sox.apply_effects_tensor(wav.unsqueeze(0), 1000, [effect])
        expected = silence_by_the_manual(wav.double().tolist(), 20, (start, 0.001), (stop, 0.001))
        assert found[0].tolist() == pytest.approx(expected, abs=0) and len(expected) == found.shape[1]


def test_silence_takes_a_time_in_proportion_to_the_length():
    """200 s with 400 pauses: a sum begun anew after each pause took 16 s of a core here, one for all 0.3 s."""
    rng = np.random.default_rng(0)
    spoken = np.concatenate([np.concatenate([0.3 * rng.choice([-1.0, 1.0], 4000), np.zeros(4000)]) for _ in range(400)])
    began = time.process_time()
    found, _ = sox.apply_effects_tensor(torch.tensor(spoken, dtype=torch.float32).unsqueeze(0), 16000, [SV_CHAIN[-1]])
    assert time.process_time() - began < 4
    assert found.shape == (1, 400 * 4319)  # with what the window of 320 samples hears after each sound


@pytest.mark.skipif(shutil.which("sox") is None, reason="the program sox is not installed")
def test_the_chain_of_sv_equals_sox_sample_by_sample(tmp_path):
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(12):  # synthetic: tones near the threshold between bursts of noise
        length = int(rng.uniform(0.01, 0.5) * 16000)
        parts.append(rng.choice([0.3, 0.01, 0.0012, 0.003]) * np.sin(0.1 * np.arange(length)))
        parts.append(rng.standard_normal(int(rng.uniform(0.01, 0.4) * 16000)) * rng.choice([0, 3e-4, 9e-4]))
    soundfile.write(tmp_path / "in.wav", np.concatenate(parts), 16000, subtype="FLOAT")
    effects = [word for effect in SV_CHAIN for word in effect]
    command = ["sox", "-D", "in.wav", "-e", "float", "-b", "32", "out.wav", *effects]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    ours, _ = sox.apply_effects_file(tmp_path / "in.wav", SV_CHAIN)
    theirs, _ = audio.load(tmp_path / "out.wav")
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (["norm"], "SoX effect 'norm': not supported here. Supported are channels, gain, rate, silence"),
        (["channels", "2"], "only the form `channels 1`"),
        (["rate", "-v", "16000"], "only the form `rate HZ"),
        (["gain", "-n"], "only the form `gain DB`"),
        (["silence", "1", "0.1", "0.1%"], "only the form `silence 1 SECONDS"),
        (["silence", "1", "0.1", "-60d", "-1", "0.1", "-60d"], "only the form `silence 1 SECONDS"),
    ],
)
def test_an_effect_that_would_be_skipped_is_an_error(effect, message):
    with pytest.raises(UserError, match=message):
        sox.apply_effects_tensor(torch.zeros(1, 100), 16000, [effect])


def declared(lines):
    """Names of distributions in requirements, in small letters."""
    return {re.match(r"[\w-]+", line)[0].lower() for line in lines if line and not line.startswith("#")}


def test_what_the_host_needs_and_does_not_declare_is_declared_by_us():
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg")
    ours = declared(parser["options"]["install_requires"].split("\n"))
    theirs = declared(line for line in importlib.metadata.requires(compat.host().name) if "extra ==" not in line)
    undeclared = {"tensorboardx", "pandas", "editdistance"}
    assert undeclared <= ours and not undeclared & theirs


def test_a_host_is_asked_for_by_an_extra_and_never_by_the_package_itself():
    """Else pip lays one host's files over the other's."""
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg")
    extras = {name: declared(lines.split("\n")) for name, lines in parser["options.extras_require"].items()}
    for name, extra in DISTRIBUTIONS.items():
        assert extras.pop(extra) == {name, "scikit-learn"}  # which `s3prl.metric` imports, and neither host's list has
    assert not set(DISTRIBUTIONS) & declared(parser["options"]["install_requires"].split("\n")).union(*extras.values())
    assert set(DISTRIBUTIONS) <= declared((REPO / "constraints.txt").read_text().split("\n"))
