"""s3prl's own run directories of every task, written by s3prl's own code (s3prl_runs.py), with noted exceptions."""

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.collect import UNKNOWN_PROTOCOL, finished_runs
from s3prl_pruned.superb.results.s3prl_runs.found import References
from tests.superb.metrics.test_der import sd_run
from tests.superb.metrics.test_mtwv import write_stdlist, write_truth
from tests.superb.s3prl_runs import classify, evaluate_again, log_records, recognise, started, transcribe, verify

ACCURACY_TASKS = {"ks": "speech_commands", "sid": "voxceleb1", "ic": "fluent_commands"}


def read(root, **references):
    """The only result below a folder; None if it is unfinished."""
    rows, unfinished = finished_runs(root, References(**references))
    assert len(rows) + (not rows) == 1 and (rows or unfinished)
    for results in rows.values():
        (result,) = results
        assert result.protocol == UNKNOWN_PROTOCOL and "s3prl's own run directory" in result.protocol_note
        return result
    return None


def values(result):
    return {value.name: (pytest.approx(value.value, abs=1e-6), value.unit) for value in result.metrics}


@pytest.mark.parametrize("task", ACCURACY_TASKS)
def test_accuracy_is_the_test_value_at_the_step_of_the_last_best_on_dev(tmp_path, task):
    folder = tmp_path / "hubert" / task
    classify(ACCURACY_TASKS[task], folder, [(10, 0.4, 0.2), (20, 0.8, 0.6), (30, 0.6, 1.0)])
    result = read(tmp_path)
    assert values(result) == {"acc": (0.6, "fraction")} and result.num_utterances == 5
    assert "test at step 20, the last best on dev" in result.protocol_note


@pytest.mark.parametrize("task", ACCURACY_TASKS)
def test_an_evaluation_afterwards_is_logged_as_of_step_0_and_does_not_replace_it(tmp_path, task):
    downstream, folder = ACCURACY_TASKS[task], tmp_path / "hubert" / task
    classify(downstream, folder, [(10, 0.8, 0.6), (20, 0.6, 1.0)])
    evaluate_again(downstream, folder, 1.0, checkpoint="states-20.ckpt")
    assert values(read(tmp_path)) == {"acc": (0.6, "fraction")}
    # For dev-best.ckpt it must be the same number, else the folder holds two runs.
    evaluate_again(downstream, folder, 0.2)
    with pytest.raises(
        UserError, match="dev-best.ckpt, of step 10, has a test accuracy of 0.6.* but of 0.2.* Two runs"
    ):
        read(tmp_path)


def test_a_training_that_was_not_evaluated_on_test_needs_an_evaluation_of_its_best_checkpoint(tmp_path, caplog):
    folder = classify("speech_commands", tmp_path / "hubert" / "ks", [(10, 0.8)])
    assert read(tmp_path) is None and "no test accuracy of step 10, the best on dev" in caplog.text
    evaluate_again("speech_commands", folder, 0.4, checkpoint="states-10.ckpt")
    assert read(tmp_path) is None
    evaluate_again("speech_commands", folder, 0.6)
    assert values(read(tmp_path)) == {"acc": (0.6, "fraction")}


def test_a_damaged_accuracy_is_refused(tmp_path):
    folder = classify("speech_commands", tmp_path / "hubert" / "ks", [(10, 0.8, 0.6)])
    log = folder / "log.log"
    text = log.read_text()
    for number, message in (
        ("nan", "acc must be a finite number"),
        ("60.0", "between 0 and 100 percent, but is 60 fraction"),
    ):
        log.write_text(text.replace("test at step 10: 0.6", f"test at step 10: {number}"))
        with pytest.raises(UserError, match=message):
            read(tmp_path)


@pytest.mark.parametrize("layout", ["er/fold{}", "Exp_fold{}"])
def test_emotion_is_the_mean_of_five_folds(tmp_path, layout, caplog):
    accuracies = (0.2, 0.4, 0.6, 0.8, 0.8)
    for fold, accuracy in enumerate(accuracies, start=1):
        assert fold == 1 or read(tmp_path) is None
        classify("emotion", tmp_path / "hubert" / layout.format(fold), [(10, 0.4, accuracy)], fold=f"fold{fold}")
    assert "the mean is of 5 folds, but here are fold1, fold2, fold3, fold4 only" in caplog.text
    result = read(tmp_path)
    assert values(result) == {"acc": (0.56, "fraction")} and result.num_utterances == 25
    assert "fold1 0.2000 fold2 0.4000 fold3 0.6000 fold4 0.8000 fold5 0.8000" in result.protocol_note
    assert list(finished_runs(tmp_path)[0]) == ["hubert" if "er/" in layout else "Exp"]


def test_a_fold_given_twice_is_refused(tmp_path):
    for name in ("fold1", "fold2"):
        classify("emotion", tmp_path / "hubert" / "er" / name, [(10, 0.4, 0.4)], fold="fold1")
    with pytest.raises(UserError, match="fold2: a second run of fold1"):
        read(tmp_path)


def test_asr_is_computed_from_the_words_in_percent(tmp_path):
    folder = recognise(tmp_path / "hubert" / "asr", ["ONE", "TWO TWO"], ["ONE", "TWO"])
    assert "test-clean wer: 50.0" in (folder / "out.txt").read_text()
    result = read(tmp_path)
    assert values(result)["wer"] == (50, "percent") and result.num_utterances == 2
    (folder / "out.txt").write_text("test-clean wer: 0.5\n")  # never read as a fraction
    with pytest.raises(UserError, match="s3prl printed wer 0.5, but test-clean-noLM-hyp.ark gives 50"):
        read(tmp_path)
    for path in folder.glob("*.ark"):
        path.unlink()
    assert values(read(tmp_path)) == {"wer": (0.5, "percent")}


def test_phones_are_computed_as_a_fraction_that_may_exceed_1(tmp_path):
    folder = transcribe(tmp_path / "hubert" / "pr", ["A B C D", "A"], ["C", "A"], ["per"], capture="stdout.log")
    assert "test per: 1.5" in (folder / "stdout.log").read_text()
    result = read(tmp_path)
    assert values(result) == {"per": (1.5, "fraction")} and result.num_utterances == 2
    for path in folder.glob("*.ark"):
        path.unlink()
    assert values(read(tmp_path)) == {"per": (1.5, "fraction")}  # as printed; not 1.5 percent
    (folder / "other.log").write_text("test per: 0.5\n")
    with pytest.raises(
        UserError, match="the captured logs contradict each other on `test per: ` .other.log 0.5, stdout.log 1.5"
    ):
        read(tmp_path)


def test_slots_are_fractions_whatever_their_neighbours_are(tmp_path, caplog):
    names = ["slot_type_f1", "slot_value_cer", "slot_value_wer", "slot_edit_f1_full", "slot_edit_f1_part", "wer", "cer"]
    hypotheses, references = ["B-city ROMA E-city", "B-city OSLO E-city"], ["B-city ROME E-city", "B-city OSLO E-city"]
    folder = transcribe(tmp_path / "hubert" / "sf", hypotheses, references, names)
    assert "test slot_edit_f1_full: 50.0" in (folder / "out.txt").read_text()  # x 100, and not counted
    expected = {"slot_type_f1": (1, "fraction"), "slot_value_cer": (0.125, "fraction")}
    assert values(read(tmp_path)) == expected
    for path in folder.glob("*.ark"):
        path.unlink()
    assert values(read(tmp_path)) == expected
    (folder / "out.txt").write_text("test slot_type_f1: 1.0\nvalid slot_value_cer: 0.1\n")
    assert read(tmp_path) is None and "evaluate it on test" in caplog.text


def test_phones_and_slots_are_both_s3prls_ctc_and_told_apart_by_the_corpus(tmp_path):
    for name, corpus in (("A", "libriphone"), ("B", "snips")):
        folder = transcribe(tmp_path / name, ["B-city OSLO E-city"], ["B-city OSLO E-city"], ["wer"])
        started(folder, downstream="ctc", upstream="hubert", config={"downstream_expert": {"corpus": {"name": corpus}}})
    rows, _ = finished_runs(tmp_path)
    assert {name: results[0].task for name, results in rows.items()} == {"A": "pr", "B": "sf"}
    (tmp_path / "x").mkdir()
    (tmp_path / "A").rename(tmp_path / "x" / "sf")
    with pytest.raises(UserError, match="is a run of task pr, but its folder says sf"):
        finished_runs(tmp_path)


def test_verification_is_the_lowest_over_checkpoints_and_its_empty_truth_is_not_read(tmp_path):
    eer = pytest.importorskip("s3prl.downstream.sv_voxceleb1.utils", reason="s3prl's needs scikit-learn").EER
    folder = tmp_path / "hubert" / "sv"
    labels = [1, 1, 0, 0]
    for step, scores in ((20000, [0.9, 0.2, 0.6, 0.1]), (40000, [0.9, 0.7, 0.6, 0.1]), (60000, [0.1, 0.2, 0.6, 0.7])):
        verify(folder / f"states-{step}", scores, labels, eer)
        (folder / f"states-{step}.ckpt").touch()
        assert (folder / f"states-{step}" / "test_truth.txt").read_text() == ""
    result = read(tmp_path)
    assert values(result) == {"eer": (0, "fraction")} and result.num_utterances == 4
    assert "lowest of 3 evaluated checkpoints, states-40000" in result.protocol_note
    # The benchmark's script collects the lines in report.txt; its folders may be gone.
    lines = [
        f"{path}:{line}" for path in folder.glob("*/log.txt") for line in path.read_text().splitlines(keepends=True)
    ]
    (folder / "report.txt").write_text("".join(lines))
    for path in folder.glob("states-*/*"):
        path.unlink()
    assert "lowest of 3 evaluated checkpoints, states-40000" in read(tmp_path).protocol_note


def test_verification_that_was_only_captured_or_never_evaluated(tmp_path, caplog):
    eer = pytest.importorskip("s3prl.downstream.sv_voxceleb1.utils", reason="s3prl's needs scikit-learn").EER
    folder = tmp_path / "hubert" / "sv"
    folder.mkdir(parents=True)
    (folder / "states-20000.ckpt").touch()
    assert read(tmp_path) is None and "no checkpoint was evaluated" in caplog.text
    verify(folder, [0.1, 0.2, 0.6, 0.7], [1, 1, 0, 0], eer, capture="20000.log")
    verify(folder, [0.9, 0.2, 0.6, 0.1], [1, 1, 0, 0], eer, capture="40000.log")
    assert values(read(tmp_path)) == {"eer": (0.5, "fraction")}


DSCORE = """\
File              DER    JER    B3-Precision    B3-Recall    B3-F1    GKT(ref, sys)    G\
KT(sys, ref)    H(ref|sys)    H(sys|ref)    MI    NMI
--------------  -----  -----  --------------  -----------  -------  ---------------  ---\
------------  ------------  ------------  ----  -----
r                {0:.2f}   4.00            0.97         0.97     0.97             0.95  \
           0.95          0.12          0.12  1.27   0.92
*** OVERALL ***   {0:.2f}   4.00            0.97         0.97     0.97             0.95 \
            0.95          0.12          0.12  1.27   0.92
"""
"""dscore's table. Written by hand after its source, not by dscore."""


def test_diarization_is_dscores_lowest_not_what_s3prl_prints(tmp_path, caplog):
    folder = tmp_path / "hubert" / "sd"
    log_records("diarization", folder, "test", {"acc": [0.9], "der": [0.04]}, capture="out.txt")
    (folder / "best-states-dev.ckpt").touch()
    assert "acc 0.89999" in (folder / "out.txt").read_text()
    assert read(tmp_path) is None and "s3prl prints another DER" in caplog.text
    (folder / "scoring").mkdir()
    for setting, rate in (("th0.4_med1", 7.25), ("th0.5_med11", 6.5), ("th0.6_med11", 6.75)):
        (folder / "scoring" / f"result_{setting}").write_text(DSCORE.format(rate))
    result = read(tmp_path)
    assert values(result) == {"der": (6.5, "percent")} and "lowest of 3 settings, th0.5_med11" in result.protocol_note


def test_diarization_without_dscore_is_scored_from_the_predictions(tmp_path, caplog):
    folder = sd_run(tmp_path / "hubert" / "sd", {"r": [[0.9, 0.1]] * 100})
    (tmp_path / "rttm").write_text("SPEAKER r 1 0.0 2.5 <NA> <NA> a <NA> <NA>\n")
    assert read(tmp_path) is None and "give the test set's rttm" in caplog.text
    result = read(tmp_path, diarization=tmp_path / "rttm")
    assert values(result) == {"der": (20, "percent")} and result.num_utterances == 1
    started(folder, downstream="diarization", config={"downstream_expert": {"loaderrc": {"test_dir": str(tmp_path)}}})
    assert values(read(tmp_path)) == {"der": (20, "percent")}


SCORE_OUT = """\
Loading stdlist file: x/benchmark.stdlist.xml ... Done
Scores: 6 (2 model x 3 test)  given: 3  default(-10.0): 3  minScore: -1.0  maxScore: 2.5

Main Results:

actTWV: -0.25  maxTWV: {}  Threshold: 2.0188
actCnxe: 3.1934202  minCnxe: 0.9719019

Model-dependent calibration Results:

Upper-bound TWV (model-dependent offset)  -  actTWV: 0.5  maxTWV: 0.5  Threshold: 0.0
"""
"""The output of QUESST's scorer, with other numbers."""


@pytest.mark.parametrize("layout", ["qbe/{}_{}", "Exp_{}_{}"])
def test_search_takes_the_layer_that_is_best_on_dev(tmp_path, layout, caplog):
    for (layer, split), score in {(0, "dev"): 0.04, (0, "test"): 0.09, (12, "dev"): 0.05, (12, "test"): 0.03}.items():
        folder = tmp_path / "hubert" / layout.format(layer, split)
        write_stdlist(folder / "benchmark.stdlist.xml", {"q1": {"u1": 2.5}})
        assert read(tmp_path) is None  # s3prl writes scores of trials, and no metric
        (folder / "score.out").write_text(SCORE_OUT.format(score))
    assert "give quesst14Database" in caplog.text
    result = read(tmp_path)
    assert values(result) == {"mtwv": (0.03, "fraction")}
    assert "layer 12, the best of 2 on dev (MTWV 0.0500)" in result.protocol_note
    folder.rename(tmp_path / "elsewhere")
    assert (
        read(tmp_path / "hubert") is None and "layer 12 is the best on dev, but test was not run on it" in caplog.text
    )


def test_search_is_scored_here_where_the_ground_truth_is(tmp_path):
    root = tmp_path / "quesst14Database"
    write_truth(root / "scoring" / "groundtruth_quesst14_dev", [("q1", "u1")])
    write_truth(root / "scoring" / "groundtruth_quesst14_eval", [("q1", "u2"), ("q2", "u1")])
    for split in ("dev", "test"):
        folder = tmp_path / "results" / "hubert" / "qbe" / split
        write_stdlist(folder / "benchmark.stdlist.xml", {"q1": {"u1": 2.5, "u2": 3.5}})
        started(folder, downstream="quesst14_dtw", upstream_layer_selection=5, evaluate_split=split)
    result = read(tmp_path / "results", quesst14=root)
    assert values(result) == {"mtwv": (0.5, "fraction")} and "layer 5, the best of 1" in result.protocol_note
    assert read(tmp_path / "results") is None
    started(folder.parent / "dev", "2025", config={"downstream_expert": {"datarc": {"dataset_root": str(root)}}})
    started(folder, "2025", config={"downstream_expert": {"datarc": {"dataset_root": str(root)}}})
    for split in ("dev", "test"):
        started(
            folder.parent / split,
            "2026",
            downstream="quesst14_dtw",
            upstream_layer_selection=5,
            evaluate_split=split,
            config={"downstream_expert": {"datarc": {"dataset_root": str(root)}}},
        )
    assert values(read(tmp_path / "results")) == {"mtwv": (0.5, "fraction")}
