"""SV from the command line to the result.

Every saved checkpoint is tested, pauses are removed, and nothing is written to site-packages.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from s3prl_pruned import compat
from s3prl_pruned.compat import experts
from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.eer import equal_error_rate
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.collect import finished_runs
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.tasks.drivers import sv_voxceleb1
from tests.superb.pieces import assert_pieces_give_the_result
from tests.superb_mini import make_corpora, settings

FOLDER = Path("results/fbank/sv")
PAUSED = "id10001/session00/00001.wav"
SETTINGS = settings(
    datarc__train_batch_size=2, datarc__num_workers=0, modelrc__input_dim=4, modelrc__module_config__XVector__agg_dim=4
)


@pytest.fixture(scope="module")
def corpus(workplace):
    """One training file is longer than 2 s only with its pause."""
    folder = make_corpora(workplace, "sv")["sv"]
    noise = 0.1 * np.random.default_rng(0).standard_normal(11200)
    soundfile.write(
        folder / "dev/wav" / PAUSED, np.concatenate([noise, np.zeros(32000), noise]), 16000, subtype="PCM_16"
    )
    return folder


@pytest.fixture(scope="module")
def sv(command, corpus):
    def call(*options, more=""):
        return command("-d", "sv", "--corpus", corpus, "-o", SETTINGS + more, *options)

    return call


@pytest.fixture(scope="module")
def printed(sv):
    return sv()


def rate_of(folder, corpus):
    """The EER from s3prl's file and VoxCeleb1's list, pair by pair."""
    trials = [line.split() for line in (corpus / "veri_test.txt").read_text().splitlines()]
    lines = [line.split() for line in (folder / "test_predict.txt").read_text().splitlines()]
    for (_, *files), (pair, _) in zip(trials, lines, strict=True):
        assert pair == "_".join(file.removesuffix(".wav").replace("/", "-") for file in files)
    return equal_error_rate([int(label) for label, *_ in trials], [float(score) for _, score in lines])


def test_the_lowest_rate_of_all_saved_checkpoints_is_reported_and_each_is_shown(printed, corpus):
    result = read_result(FOLDER / "result.json")
    assert [part.name for part in result.parts] == ["states-1", "states-2"]
    rates = [rate_of(FOLDER / part.name, corpus) for part in result.parts]
    for part, rate in zip(result.parts, rates, strict=True):
        assert part.metrics[0].value == pytest.approx(rate) and part.metrics[0].unit == "fraction"
        assert part.printed_by_s3prl[0].value == pytest.approx(rate, abs=1e-6)
        assert f"sv {part.name} test: EER {100 * rate:.2f} %" in printed
    assert result.values()["eer"].value == pytest.approx(min(rates))
    assert result.checkpoint.file == f"states-{1 + rates.index(min(rates))}.ckpt"
    assert result.rule == result.checkpoint.rule == "lowest EER of 2 saved checkpoints"
    assert_pieces_give_the_result(FOLDER, "speakers")
    assert result.num_utterances == len((corpus / "veri_test.txt").read_text().splitlines())


def test_the_lowest_is_chosen_though_it_is_not_the_last(printed):
    driver = sv_voxceleb1.SpeakerVerification(None)
    parts = read_result(FOLDER / "result.json").parts
    for values, lowest in (((0.25, 0.5), "states-1"), ((0.25, 0.125), "states-2")):
        found = [
            replace(part, metrics=[Value(name="eer", value=value, unit="fraction")])
            for part, value in zip(parts, values, strict=True)
        ]
        combined = driver.combine(found)
        assert (combined.chosen.name, combined.metrics[0].value) == (lowest, min(values))


def test_a_finished_run_with_only_an_early_checkpoint_left_is_finished(printed, sv):
    folder = Path("results/thin/sv")
    shutil.copytree(FOLDER, folder)
    (folder / "states-2.ckpt").unlink()
    assert "nothing to do" in sv("-n", "thin")
    assert finished_runs(folder) == ({"thin": [read_result(folder / "result.json")]}, [])


def test_an_interrupted_run_tests_the_checkpoints_that_are_missing_only(printed, sv):
    before = read_result(FOLDER / "result.json")
    (FOLDER / "result.json").unlink()
    (FOLDER / "states-2" / "evaluation-test.json").unlink()
    kept = (FOLDER / "states-1" / "test_predict.txt").stat().st_mtime_ns
    again = sv("-a")
    assert (
        again.count("sv-voxceleb1/test-EER") == 1
        and (FOLDER / "states-1" / "test_predict.txt").stat().st_mtime_ns == kept
    )
    assert read_result(FOLDER / "result.json").metrics == before.metrics


def test_one_checkpoint_is_tested_alone_by_name_without_the_training_sets_lengths(printed, sv, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sv("-m", "evaluate", "-i", FOLDER / "states-1.ckpt", "--force")
    result = read_result(FOLDER / "result.json")
    assert (result.parts, result.checkpoint.file, result.checkpoint.rule) == (None, "states-1.ckpt", "named by -i")
    assert list(tmp_path.rglob("test_lengths.json")) and not list(tmp_path.rglob("train_lengths.json"))


def test_more_or_fewer_checkpoints_than_the_settings_save_are_refused(printed, sv):
    shutil.copytree(FOLDER, "results/fbank/more/sv")
    folder, more = Path("results/fbank/more/sv"), ("-n", "fbank/more", "-m", "evaluate", "--force")
    (folder / "states-2.ckpt").rename(folder / "states-3.ckpt")
    with pytest.raises(UserError, match="checkpoints of every 1 steps, .* but holds states-3.ckpt"):
        sv(*more)
    (folder / "states-3.ckpt").rename(folder / "states-2.ckpt")
    (folder / "states-1.ckpt").unlink()
    with pytest.raises(UserError, match="checkpoints of every 1 steps, .* but lacks states-1.ckpt"):
        sv(*more)


def test_a_run_with_another_saving_interval_is_another_run(printed, sv):
    with pytest.raises(UserError, match="holds a run that differs in settings"):
        sv(more=",,config.runner.save_step=2")


def test_a_run_begun_before_the_interval_was_part_of_the_settings_resumes(printed, sv):
    path = FOLDER / "run.json"
    now = path.read_text()
    begun = json.loads(now)
    path.write_text(json.dumps(begun | {"config_sha256": begun.pop("former_sha256")}))
    assert "nothing to do" in sv()
    path.write_text(now)


def test_training_uses_files_that_are_long_enough_without_pauses(printed, corpus):
    (path,) = Path("cache").rglob("train_lengths.json")
    lengths = json.loads(path.read_text())
    compat.apply()
    dataset = experts.import_expert("sv_voxceleb1").SpeakerVerifi_train
    (file,) = Path("cache").rglob("all/.wav_lengths/Voxceleb1_length.pt")
    experts.keep_sv_voxceleb1_lengths_in(file.resolve())
    made = dataset({"min_sec": 32000}, ["Voxceleb1"], [corpus / "dev" / "wav"], None, max_timestep=None)
    trained = [str(Path(name).relative_to(corpus / "dev" / "wav")) for name in made.dataset]
    assert set(lengths) - set(trained) == {PAUSED} and 22400 <= lengths[PAUSED] < 32000
    assert [len(made[index][0]) for index in range(3)] == [lengths[name] for name in trained[:3]]
    assert made.speaker_num == len({name.split("/")[0] for name in lengths})


def test_a_pause_shortens_a_file(tmp_path):
    noise = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "a.wav", torch.cat([noise, torch.zeros(32000), noise]).numpy(), 16000)
    length = sv_voxceleb1._lengths(tmp_path, ["a.wav"], tmp_path / "lengths.json")["a.wav"]
    assert 32000 <= length <= 32000 + 3200  # the first 0.1 s of a pause are kept


def test_nothing_is_written_beside_s3prls_code(printed):
    compat.apply()
    import s3prl

    assert not list((Path(s3prl.__file__).parent / "downstream" / "sv_voxceleb1").glob(".wav_lengths/*"))


def test_the_mask_is_on_the_features_device():
    """Not on a GPU, although s3prl calls ``.cuda()``; outside of its forward pass ``.cuda()`` is unchanged."""
    compat.apply()
    expert = experts.import_expert("sv_voxceleb1").DownstreamExpert
    experts.let_sv_voxceleb1_follow_its_device()
    patched = expert.forward
    experts.let_sv_voxceleb1_follow_its_device()
    assert expert.forward is patched
    seen, cuda = [], torch.Tensor.cuda

    def extractor(features, mask):
        seen.append(mask.device.type)
        return features.mean(dim=1)

    model = type("Model", (), {"inference": staticmethod(extractor)})
    stub = type("Stub", (), {"modelrc": {"module": "XVector"}, "connector": torch.nn.Identity(), "model": model})
    records = {}
    expert.forward(stub, "test", [torch.ones(20, 3)], ["a"], records=records)
    assert seen == ["cpu"] and records["a"].shape == (3,) and torch.Tensor.cuda is cuda


def test_a_run_that_could_not_test_all_it_saves_is_refused(sv):
    with pytest.raises(UserError, match="max_keep: must be at least the 2 checkpoints that will be saved, .* but is 1"):
        sv("-n", "few", more=",,config.runner.max_keep=1")
    with pytest.raises(UserError, match=r"eval_dataloaders: must be \[\], since"):
        sv("-n", "few", more=",,config.runner.eval_dataloaders=[dev]")
    with pytest.raises(UserError, match="-t dev: sv has the split test only"):
        sv("-t", "dev")
