"""Features of one utterance at a time do not depend on its batch; cached on disk, they are read back unchanged."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from torch import nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError, apply_overrides, load_yaml
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.running import features_room, run
from s3prl_pruned.superb.running.features import ChosenLayers, SingleUtterances, extract_singly
from s3prl_pruned.superb.running.make_run import SETTINGS
from s3prl_pruned.superb.tasks import settings
from s3prl_pruned.superb.tasks.drivers import DRIVERS, driver_of
from tests.superb_corpora import make_fluent_commands, make_speech_commands, tiny
from tests.superb_mini import make_corpora
from tests.superb_mini import settings as settings_of_two_steps

LENGTHS = (16000, 9000, 12345)


class Normalising(nn.Module):
    """An upstream whose first layer normalises over time, as the Base models' does: padding changes its features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.calls = nn.Conv1d(1, 4, 400, 320), nn.GroupNorm(4, 4), 0

    def get_downsample_rates(self, key):
        return 320

    def forward(self, wavs):
        self.calls += 1
        padded = nn.utils.rnn.pad_sequence(wavs, batch_first=True)  # (B, S)
        state = self.norm(self.conv(padded.unsqueeze(1))).transpose(1, 2)  # (B, T, D)
        return {"hidden_states": [state, 2 * state], "last_hidden_state": 2 * state}


@pytest.fixture
def wavs():
    torch.manual_seed(1)
    return [torch.randn(length) for length in LENGTHS]


def s3prl_runner(upstream, **how):
    compat.apply()
    from s3prl.upstream.interfaces import Featurizer

    featurizer = Featurizer(upstream, upstream_device="cpu", **how)
    if hasattr(featurizer, "weights"):
        featurizer.weights.data = torch.tensor([0.3, -0.7])
    return SimpleNamespace(upstream=SimpleNamespace(model=upstream), featurizer=SimpleNamespace(model=featurizer))


def extract(runner, wavs):
    with torch.no_grad():
        return runner.featurizer.model(wavs, runner.upstream.model(wavs))


@pytest.mark.parametrize(
    "how", [{}, {"normalize": True}, {"layer_selection": 1}, {"feature_selection": "last_hidden_state"}]
)
def test_an_utterances_features_do_not_depend_on_its_batch(wavs, tmp_path, how):
    runner = s3prl_runner(Normalising(), **how)
    alone = [extract(runner, [wav])[0] for wav in wavs]
    padded = extract(runner, wavs)
    selection = how.get("feature_selection", "hidden_states")
    extract_singly(runner, selection=selection, folder=tmp_path)
    for _ in ("extracted", "read from disk"):
        found = extract(runner, wavs)
        assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, alone, strict=True))
    assert torch.allclose(padded[0], alone[0], atol=1e-6)  # the longest has no padding
    assert not torch.allclose(padded[1][: len(alone[1])], alone[1], atol=1e-3)  # the shortest has


def test_cached_features_are_not_extracted_again_and_are_found_by_their_samples(wavs, tmp_path):
    upstream = Normalising()
    single = SingleUtterances(upstream, selection="hidden_states", folder=tmp_path)
    first = single(wavs)
    assert upstream.calls == 3 and len(list(tmp_path.iterdir())) == 3
    again = single(wavs[::-1])[::-1]
    assert upstream.calls == 3
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one["hidden_states"], other["hidden_states"], strict=True))
    wavs[0][0] += 1e-6
    single(wavs)
    assert upstream.calls == 4


def test_a_damaged_file_is_named(wavs, tmp_path):
    single = SingleUtterances(Normalising(), selection="hidden_states", folder=tmp_path)
    single(wavs[:1])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{path.name}: is no file of cached features"):
        single(wavs[:1])


def test_features_that_cannot_be_written_are_one_clear_error(wavs, tmp_path):
    single = SingleUtterances(Normalising(), selection="hidden_states", folder=tmp_path / "gone")
    with pytest.raises(UserError, match="features cannot be saved .*Make room, or leave --cache-features out"):
        single(wavs[:1])


def test_a_run_with_cached_features_learns_the_same_as_one_that_extracts_singly(command, workplace):
    make_fluent_commands(workplace / "fsc")
    options = ["-d", "ic", "--corpus", "fsc", "-o", tiny(train_batch_size=3, eval_batch_size=3)]
    states, results = {}, {}
    for name, more in (("single", ["--single-utterance"]), ("kept", ["--cache-features"]), ("padded", [])):
        printed = command(*options, "-n", name, *more)
        states[name] = torch.load(f"results/{name}/ic/states-4.ckpt", weights_only=False)["Downstream"]
        results[name] = read_result(Path(f"results/{name}/ic/result.json"))
        assert ("Features: cached in" in printed) == (name == "kept")
    for key, value in states["single"].items():
        torch.testing.assert_close(states["kept"][key], value, rtol=0, atol=1e-5, msg=key)
    assert results["single"].config_sha256 == results["kept"].config_sha256 != results["padded"].config_sha256
    for name, result in results.items():
        assert ("--single-utterance (features without padding)" in result.protocol_note) == (name != "padded")
    files = list((workplace / "cache" / "s3prl_pruned" / "features").glob("*/*.safetensors"))
    assert len(files) == 6 + 3 + 5  # every utterance of the corpus once
    stamps = {path: path.stat().st_mtime_ns for path in files}
    command(*options, "-n", "again", "--cache-features", "--seed", "7")
    assert {path: path.stat().st_mtime_ns for path in files} == stamps


def test_half_precision_takes_half_the_room_and_rounds_once(wavs, tmp_path):
    sizes = {}
    for half in (False, True):
        folder = tmp_path / str(half)
        folder.mkdir()
        single = SingleUtterances(Normalising(), selection="hidden_states", folder=folder, half=half)
        first, again = single(wavs), single(wavs)
        for one, other in zip(first, again, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one["hidden_states"], other["hidden_states"], strict=True))
        states = first[0]["hidden_states"][0]
        assert states.dtype == torch.float32 and torch.equal(states, states.half().float()) == half
        sizes[half] = sum(path.stat().st_size for path in folder.iterdir())
    values = sum(2 * 4 * ((length - 400) // 320 + 1) for length in LENGTHS)
    assert sizes[False] - sizes[True] == pytest.approx(2 * values, abs=8 * len(LENGTHS))  # two bytes less per number


def test_only_one_layer_is_read_from_the_cache(wavs, tmp_path):
    everything = SingleUtterances(Normalising(), selection="hidden_states", folder=tmp_path)(wavs)
    second = SingleUtterances(Normalising(), selection="hidden_states", folder=tmp_path, layer=1)(wavs)
    for one, other in zip(everything, second, strict=True):
        assert torch.equal(one["hidden_states"][1], other["hidden_states"][1])
        assert other["hidden_states"][0].numel() == 0 and len(other["hidden_states"]) == 2


def test_features_without_room_are_refused_before_the_first_is_written(command, workplace, monkeypatch):
    """FBANK has 240 values of 4 bytes in each of 100 frames per second, for 14 utterances of 0.3 s."""
    needed = []
    disk_usage = shutil.disk_usage

    def nearly_full(folder):
        return disk_usage(folder)._replace(free=2**30 + 100_000)

    monkeypatch.setattr(features_room.shutil, "disk_usage", nearly_full)
    monkeypatch.setattr(features_room, "in_words", lambda size: needed.append(size) or f"{size:.0f} bytes")
    options = ["-d", "ic", "--corpus", "fsc", "-o", tiny(train_batch_size=3, eval_batch_size=3), "--cache-features"]
    make_fluent_commands(workplace / "fsc")
    run.main(["--drop-features"])
    with pytest.raises(UserError, match=r"need about \d+ bytes, of which 0 bytes are there, but only 100000 bytes"):
        command(*options, "-n", "full")
    assert needed[1] == pytest.approx(1.05 * (6 + 3 + 5) * 0.3 * 240 * 100 * 4, rel=0.01)
    assert not list((workplace / "cache" / "s3prl_pruned" / "features").glob("*/*.safetensors"))


@pytest.mark.parametrize("task", ["pr", pytest.param("sf", marks=pytest.mark.slow)])
def test_tasks_whose_items_name_files_cache_features_too(command, workplace, monkeypatch, task):
    """s3prl's `ctc` reads waveforms when it collates them; its items of `train` are whole batches."""
    corpus = make_corpora(workplace / task, task)[task]
    needed = []
    monkeypatch.setattr(features_room, "in_words", lambda size: needed.append(size) or f"{size:.0f} bytes")
    run.main(["--drop-features"])
    command(
        "-d",
        task,
        "--corpus",
        corpus,
        "-o",
        settings_of_two_steps(corpus__batch_size=2, corpus__num_workers=0),
        "--cache-features",
    )
    assert read_result(Path("results/fbank") / task / "result.json").num_utterances > 0
    kept = list((workplace / "cache" / "s3prl_pruned" / "features").glob("*/*.safetensors"))
    audio = sum(soundfile.info(path).duration for path in corpus.rglob("*.*") if path.suffix in (".flac", ".wav"))
    assert 0 < needed[0] < 1.06 * audio * 240 * 100 * 4  # for training, whose splits are a part of the corpus
    assert sum(needed) > 0.9 * sum(path.stat().st_size for path in kept) > 0  # plus the evaluation


def test_cached_features_of_this_corpus_reduce_the_needed_room_and_others_do_not(command, workplace, monkeypatch):
    disk_usage = shutil.disk_usage
    options = ["-d", "ic", "-o", tiny(train_batch_size=3, eval_batch_size=3), "--cache-features"]
    make_fluent_commands(workplace / "one", seed=4)
    make_fluent_commands(workplace / "other", seed=5)
    command(*options, "--corpus", "other", "-n", "other")
    monkeypatch.setattr(
        features_room.shutil, "disk_usage", lambda folder: disk_usage(folder)._replace(free=2**30 + 100_000)
    )
    with pytest.raises(UserError, match="of which 0 MB are there"):
        command(*options, "--corpus", "one", "-n", "no_room")
    command(*options, "--corpus", "other", "-n", "room")


def test_cached_features_are_removed_by_a_command(command, workplace):
    make_fluent_commands(workplace / "fsc")
    options = ["-d", "ic", "--corpus", "fsc", "-o", tiny(train_batch_size=3, eval_batch_size=3)]
    command(*options, "-n", "kept", "--cache-features")
    command(*options, "-n", "half", "--cache-half")
    kept = workplace / "cache" / "s3prl_pruned" / "features"
    assert len(list(kept.iterdir())) == 2
    assert "of cached features removed (" in command("--drop-features", "--cache-half")
    assert len(list(kept.iterdir())) == 1
    run.main(["--drop-features"])  # for all upstreams
    assert not kept.exists()


def test_only_the_chosen_layers_are_weighed_and_cached(wavs):
    upstream = Normalising()
    found = ChosenLayers(upstream, selection="hidden_states", layers=(1,))(wavs)
    assert torch.equal(found["hidden_states"][0], upstream(wavs)["hidden_states"][1])
    assert len(found["hidden_states"]) == 1


def test_chosen_layers_are_named_in_the_result(workplace):
    make_fluent_commands(workplace / "fsc")
    options = ["-u", "wavlm_embedded", "-d", "ic", "--corpus", "fsc", "--device", "cpu", "--cache-features"]
    settings_ = tiny(train_batch_size=3, eval_batch_size=3)
    run.main([*options, "-n", "layers", "-o", settings_, "--layers", "0,3,6"])
    states = torch.load("results/layers/ic/states-4.ckpt", weights_only=False)
    assert states["Featurizer"]["weights"].shape == (3,)
    assert (
        "--layers (some of the upstream's layers)" in read_result(Path("results/layers/ic/result.json")).protocol_note
    )
    with pytest.raises(UserError, match="--layers 7: must be from 0 to 6"):
        run.main([*options, "-n", "others", "-o", settings_, "--layers", "0,7"])
    with pytest.raises(UserError, match="--layers: is for a weighted sum over a frozen upstream"):
        run.main([*options, "-n", "others", "-o", settings_, "--layers", "0", "-l", "1"])


def test_tasks_that_change_waveforms_at_random_refuse_to_cache_features_and_say_why(command, workplace):
    make_speech_commands(workplace)
    with pytest.raises(
        UserError, match="--cache-features: ks cuts its seconds of silence from the noise at random, so that"
    ):
        command("-d", "ks", "--corpus", ".", "--cache-features")
    configs = {name: load_yaml(SETTINGS / f"{name}.yaml") for name in DRIVERS}
    random = {name: driver_of(TASKS[name]).random_waveforms(config) for name, config in configs.items()}
    assert {name for name, why in random.items() if why} == {"ks", "sid", "sv"}


@pytest.mark.parametrize("name", ["sid", "sv"])
def test_features_of_speakers_utterances_can_be_cached_without_cropping(name):
    config = apply_overrides(
        load_yaml(SETTINGS / f"{name}.yaml"), ["config.downstream_expert.datarc.max_timestep=null"]
    )
    assert driver_of(TASKS[name]).random_waveforms(config) is None


def test_a_trained_upstream_has_no_features_to_cache(command):
    for option in ("--cache-features", "--single-utterance"):
        with pytest.raises(UserError, match="are for a frozen upstream. Leave -f out"):
            command("-d", "ic", "--corpus", "fsc", "-f", option)


def test_runs_made_before_this_option_keep_their_hash():
    old = SimpleNamespace(seed=1, downstream="asr")
    assert settings.settings_sha256(old, {}) == settings.settings_sha256(
        SimpleNamespace(**vars(old), single_utterance=False), {}
    )
