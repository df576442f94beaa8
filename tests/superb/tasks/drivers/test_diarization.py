"""SD from the command line to the result: the benchmark's DER from s3prl's predictions."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.running import run
from tests.superb.pieces import assert_pieces_give_the_result
from tests.superb_mini import make_corpora, settings

FOLDER = Path("results/fbank/sd")
SETTINGS = settings(
    loaderrc__num_workers=0, loaderrc__train_batchsize=2, modelrc__hidden_size=4, datarc__chunk_size=200
)


@pytest.fixture(scope="module")
def corpus(workplace):
    return make_corpora(workplace, "sd")["sd"]


@pytest.fixture(scope="module")
def sd(command, corpus):
    def call(*options, more=""):
        return command("-d", "sd", "--corpus", corpus, "-o", SETTINGS + more, *options)

    return call


@pytest.fixture(scope="module")
def printed(sd):
    return sd("-m", "train") + sd("-m", "evaluate")


def frame_error_rate(threshold):
    """DER counted in frames of 10 ms, without a median filter: close to the exact one, which is over time."""
    wrong = spoken = 0
    for path in (FOLDER / "scoring" / "predictions").glob("*.h5"):
        with h5py.File(path) as file:
            active = file["T_hat"][:] > threshold
        speakers, truth = {}, np.zeros((len(active) + 200, 2), dtype=bool)
        for line in Path("mini/Libri2Mix/data/test/rttm").read_text().splitlines():
            _, name, _, begin, duration, *rest = line.split()
            if name == path.stem:
                column = speakers.setdefault(rest[2], len(speakers))
                truth[round(100 * float(begin)) : round(100 * (float(begin) + float(duration))), column] = True
        active = np.pad(active, ((0, 200), (0, 0)))
        # Per frame: the larger number of speakers minus the correct ones, under the better of the two assignments.
        errors = [
            (np.maximum(truth.sum(1), active.sum(1)) - (truth & active[:, order]).sum(1)).sum()
            for order in ([0, 1], [1, 0])
        ]
        wrong, spoken = wrong + min(errors), spoken + truth.sum()
    return wrong / spoken


def test_the_rate_is_the_benchmarks_and_not_the_one_that_s3prl_prints(printed):
    result = read_result(FOLDER / "result.json")
    tried = json.loads((FOLDER / "scoring" / "der.json").read_text())
    rates = {(one["threshold"], one["median"]): one["der"] for one in tried["seconds_tried"]}
    assert (
        len(rates) == 10
        and result.values()["der"].value == min(rates.values()) == rates[tried["threshold"], tried["median"]]
    )
    assert result.values()["der"].unit == "fraction"
    assert_pieces_give_the_result(FOLDER, "recordings")
    for threshold in (0.3, 0.5, 0.7):
        assert rates[threshold, 1] == pytest.approx(frame_error_rate(threshold), abs=0.02)
    assert result.rule == (
        f"lowest DER of 10: threshold {tried['threshold']:g}, median filter of {tried['median']} frames"
    )
    assert result.rule in printed
    assert [value.name for value in result.printed_by_s3prl] == ["frame_acc", "frame_der"]


def test_every_recording_is_scored_at_the_checkpoint_of_the_highest_frame_accuracy_on_dev(printed, corpus):
    result = read_result(FOLDER / "result.json")
    assert result.num_utterances == len((corpus / "test" / "wav.scp").read_text().splitlines())
    on_dev = [float(line.split()[3]) for line in printed.splitlines() if line.startswith("mode dev acc")]
    assert len(on_dev) == 2 and max(on_dev) > 0
    assert (result.checkpoint.file, result.checkpoint.step) == ("best-states-dev.ckpt", 1 + on_dev.index(max(on_dev)))
    assert result.checkpoint.dev.value == pytest.approx(max(on_dev))


def test_a_run_goes_on_from_its_checkpoint_though_s3prl_notes_its_frame_shift_in_the_settings(printed, sd):
    states = torch.load(FOLDER / "states-2.ckpt", weights_only=True)
    assert states["Config"]["downstream_expert"]["datarc"]["frame_shift"] is None
    assert (FOLDER / "frame_shift").read_text() == "160\n"
    run.main(["-m", "evaluate", "-e", str(FOLDER), "--device", "cpu", "--force"])
    assert read_result(FOLDER / "result.json").checkpoint.rule == "named by -e"
    assert "nothing to do" in sd("-a")


def test_what_has_no_predictions_is_refused(sd):
    with pytest.raises(UserError, match="-t dev: s3prl saves predictions of sd's split test only"):
        sd("-t", "dev")
    with pytest.raises(UserError, match="save_predictions: must be true"):
        sd("-n", "other", more=",,config.downstream_expert.scorerc.save_predictions=false")
