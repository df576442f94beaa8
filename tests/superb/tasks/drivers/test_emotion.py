"""ER: five folds in one command, each shown; the lists equal s3prl's own."""

import json
import shutil
from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.tasks.iemocap import DIALOGUES, read_session
from tests.superb.pieces import assert_pieces_give_the_result
from tests.superb_corpora import make_iemocap, tiny

FOLDER = Path("results/fbank/er")
FOLDS = ["fold1", "fold2", "fold3", "fold4", "fold5"]


@pytest.fixture(scope="module")
def er(command, workplace):
    make_iemocap(workplace / "IEMOCAP")
    settings = tiny(train_batch_size=8, eval_batch_size=8).replace("total_steps=4", "total_steps=2")

    def call(*options, more=""):
        return command("-d", "er", "--corpus", "IEMOCAP", "-o", settings + more, *options)

    return call


@pytest.fixture(scope="module")
def printed(er):
    return er()


def test_the_mean_of_five_folds_is_reported_and_each_is_shown(printed):
    result = read_result(FOLDER / "result.json")
    assert [part.name for part in result.parts] == FOLDS
    accuracies = []
    for part in result.parts:
        predicted, truth = (
            (FOLDER / part.name / f"test_{part.name}_{kind}.txt").read_text().splitlines()
            for kind in ("predict", "truth")
        )
        session = part.name.removeprefix("fold")
        assert {line[:5] for line in truth} == {f"Ses0{session}"} and len(truth) == 10 == part.num_utterances
        accuracies.append(sum(one == other for one, other in zip(predicted, truth)) / 10)
        assert part.metrics[0].value == pytest.approx(accuracies[-1])
        assert f"{part.name} test: ACC {100 * accuracies[-1]:.2f} %" in printed
    assert result.values()["acc"].value == pytest.approx(sum(accuracies) / 5)
    assert result.rule == "mean of 5 folds" and result.num_utterances == 50 and result.checkpoint is None
    assert_pieces_give_the_result(FOLDER)


def test_a_finished_run_with_only_the_best_checkpoints_left_is_finished(printed, er):
    folder = Path("results/thin/er")
    shutil.copytree(FOLDER, folder)
    for fold in FOLDS[:2]:
        shutil.copy(folder / fold / "states-2.ckpt", folder / fold / "dev-best.ckpt")
        for path in (folder / fold).glob("states-*.ckpt"):
            path.unlink()
    assert "nothing to do" in er("-n", "thin")


def test_training_and_test_are_of_different_sessions(printed):
    for fold in FOLDS:
        log = (FOLDER / fold / "stdout.log").read_text()
        path = next(line.split(": ")[1] for line in log.splitlines() if "Training path" in line)
        sessions = {row["path"].split("/")[0] for row in json.loads(Path(path).read_text())["meta_data"]}
        assert sessions == {f"Session{i}" for i in range(1, 6)} - {f"Session{fold[-1]}"}


def test_an_interrupted_run_goes_on_with_the_folds_that_are_missing(printed, er):
    (FOLDER / "result.json").unlink()
    shutil.rmtree(FOLDER / "fold4")
    kept = {path: path.stat().st_mtime_ns for path in FOLDER.glob("fold[1235]/*") if path.name != "stdout.log"}
    again = er("-a")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "er fold4: training in" in again and "er fold3: training in" not in again
    assert [part.name for part in read_result(FOLDER / "result.json").parts] == FOLDS


def test_one_fold_can_be_run_and_is_no_official_result(er):
    er("-n", "one", more=",,config.downstream_expert.datarc.test_fold=fold2")
    result = read_result(Path("results/one/er/result.json"))
    assert (result.parts, result.rule, result.num_utterances) == (None, None, 10)
    assert "downstream_expert.datarc.test_fold" in result.protocol_note


def test_one_checkpoint_cannot_stand_for_five_trainings(printed, er):
    with pytest.raises(UserError, match="-i .*: is one checkpoint, but er has 5 trainings"):
        er("-m", "evaluate", "-i", FOLDER / "fold1" / "states-2.ckpt")
    with pytest.raises(UserError, match="test_fold: must be null .all five. or one of fold1, .* but is 'fold6'"):
        er(more=",,config.downstream_expert.datarc.test_fold=fold6")


def test_an_utterances_class_and_order_are_s3prls(tmp_path):
    root = make_iemocap(tmp_path, sessions=1)
    labels = {Path(u.path).stem: u.label for u in read_session(root, 1)}
    assert len(labels) == 10 and labels["Ses01F_impro01_F002"] == "hap"  # excited; frustrated is left out
    assert [u.path.split("/")[3] for u in read_session(root, 1)] == ["Ses01M_script02_1"] * 5 + ["Ses01F_impro01"] * 5
    assert {u.speaker for u in read_session(root, 1)} == {"Ses01F", "Ses01M"}


def test_the_order_of_dialogues_holds_each_of_iemocaps_once():
    counts = {session: len(names.split()) for session, names in DIALOGUES.items()}
    assert counts == {1: 28, 2: 30, 3: 32, 4: 30, 5: 31}  # 151 dialogues
    assert all(len(set(names.split())) == len(names.split()) for names in DIALOGUES.values())
