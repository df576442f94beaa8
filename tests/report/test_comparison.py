"""The command that compares two rows of the table from the files of their runs."""

import dataclasses
import json

import pytest

from s3prl_pruned.commands.score import main
from s3prl_pruned.config import UserError
from s3prl_pruned.report.significance import mapsswe
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.result import RUN_FILE, Result, TriedRate, Upstream, write_result

REFERENCES = {f"u{i}": "A B C D E F G H" for i in range(60)}
NEAR = {key: text.replace("B", "X") if i % 3 == 0 else text for i, (key, text) in enumerate(REFERENCES.items())}
FAR = {key: text.replace("B", "X").replace("F", "Y") for key, text in REFERENCES.items()}


def write(folder, task, split, metrics, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    values = [Value(name=name, value=value, unit="percent") for name, value in metrics.items()]
    result = Result(
        task=task, split=split, num_utterances=1, metrics=values, printed_by_s3prl=[], protocol="official",
        upstream=Upstream(name="x"),
    )  # fmt: skip
    write_result(folder / "result.json", dataclasses.replace(result, **changes))


def recognised(root, name, hypotheses, wer, references=REFERENCES, **changes):
    folder = root / name / "asr"
    write(folder, "asr", "test-clean", {"wer": wer}, **changes)
    for kind, texts in (("hyp", hypotheses), ("ref", references)):
        (folder / f"test-clean-noLM-{kind}.ark").write_text("".join(f"{k} {text}\n" for k, text in texts.items()))
    return folder


def classified(root, name, right, order=1):
    """Whether each of ten utterances is right, in s3prl's two files."""
    folder = root / name / "ks"
    write(folder, "ks", "test", {"acc": 100 * sum(right) / len(right)})
    lines = list(enumerate(right))[::order]
    (folder / "test_predict.txt").write_text("".join(f"u{i} {'yes' if ok else 'no'}\n" for i, ok in lines))
    (folder / "test_truth.txt").write_text("".join(f"u{i} yes\n" for i, _ in lines))


HEAD = "task and metric, percent"


def rows(shown):
    """The table's lines by task and metric."""
    lines = [[cell for cell in line.split("  ") if cell] for line in shown.splitlines()]
    return {cells[0]: [cell.strip() for cell in cells[1:]] for cells in lines if len(cells) > 4 and cells[0] != HEAD}


def test_word_errors_are_compared_by_matched_pairs_and_accuracies_by_mcnemar(tmp_path, capsys):
    recognised(tmp_path, "a", NEAR, 100 * 20 / 480)
    recognised(tmp_path, "b", FAR, 100 * 120 / 480)
    classified(tmp_path, "a", [True] * 8 + [False] * 2)
    classified(tmp_path, "b", [True] + [False] * 7 + [False] * 2, order=-1)  # listed in another order
    main([str(tmp_path), "--compare", "a", "b"])
    shown = rows(capsys.readouterr().out)
    expected = mapsswe(REFERENCES, NEAR, FAR)
    first, second, difference, between, test, p_value = shown["asr wer"]
    assert (first, second, difference) == ("4.17", "25.00", "-20.83")
    assert test == f"MAPSSWE, {expected.segments} segments" and float(p_value) == pytest.approx(
        expected.p_value, abs=1e-4
    )
    low, high = (float(end) for end in between.split(" to "))
    # 60 utterances, a third of which have 1 error less than the others: sd 12.5 * sqrt(2/9) points, / sqrt(60)
    assert -20.83 - 2.2 < low < -20.83 < high < -20.83 + 2.2
    # 7 utterances that only `a` has right, none the other way: 2 / 2^7
    assert shown["ks acc"][4:] == ["McNemar, 7 to 0", "0.0156"]


def test_a_row_does_not_differ_from_itself(tmp_path, capsys):
    for name in ("a", "b"):
        recognised(tmp_path, name, NEAR, 100 * 20 / 480)
        classified(tmp_path, name, [True, False] * 5)
    main([str(tmp_path), "--compare", "a", "b"])
    for cells in rows(capsys.readouterr().out).values():
        assert cells[2:4] == ["+0.00", "+0.00 to +0.00"] and cells[5] == "1.0000"


def test_diarization_is_compared_by_the_bootstrap_over_recordings(tmp_path, capsys):
    for name, missed in (("a", 1.0), ("b", 2.0)):
        folder = tmp_path / name / "sd"
        seconds = {"total": 10.0, "missed": missed, "false_alarm": 0.0, "confused": 0.5}
        write(folder, "sd", "test", {"der": 10 * (missed + 0.5)})
        (folder / "scoring").mkdir()
        (folder / "scoring" / "der.json").write_text(json.dumps({"recordings": {f"r{i}": seconds for i in range(40)}}))
    main([str(tmp_path), "--compare", "a", "b"])
    shown = rows(capsys.readouterr().out)["sd der"]
    assert shown == ["15.00", "25.00", "-10.00", "-10.00 to -10.00", "bootstrap of 40 recordings", "0.0010"]
    (tmp_path / "a" / "sd" / "scoring" / "der.json").write_text("{}")
    with pytest.raises(UserError, match="holds no errors per recording, since an earlier version wrote it"):
        main([str(tmp_path), "--compare", "a", "b"])


TRIED = [TriedRate(learning_rate=0.1, folder="../lr_search/asr/lr0.1", chosen=True)]


def test_the_whole_run_after_a_search_is_read_from_its_own_folder(tmp_path, capsys):
    run = recognised(tmp_path, "a", NEAR, 100 * 20 / 480, tried_rates=TRIED)
    (run / RUN_FILE).write_text("{}")
    (tmp_path / "a" / "lr_search" / "asr" / "lr0.1").mkdir(parents=True)  # a short training, never evaluated
    recognised(tmp_path, "b", NEAR, 100 * 20 / 480)
    main([str(tmp_path), "--compare", "a", "b"])
    assert rows(capsys.readouterr().out)["asr wer"][5] == "1.0000"


def test_the_chosen_run_of_a_search_of_earlier_versions_is_read(tmp_path, capsys):
    target = recognised(tmp_path, "a", FAR, 100 * 20 / 480, tried_rates=TRIED)
    chosen = recognised(tmp_path, "elsewhere", NEAR, 100 * 20 / 480)
    (target.parent / "lr_search" / "asr").mkdir(parents=True)
    chosen.rename(target.parent / "lr_search" / "asr" / "lr0.1")
    recognised(tmp_path, "b", NEAR, 100 * 20 / 480)
    main([str(tmp_path), "--compare", "a", "b"])
    assert rows(capsys.readouterr().out)["asr wer"][5] == "1.0000"


def test_files_of_another_evaluation_or_another_test_set_are_refused(tmp_path):
    recognised(tmp_path, "a", FAR, 100 * 20 / 480)  # the result is of NEAR
    recognised(tmp_path, "b", NEAR, 100 * 20 / 480)
    with pytest.raises(UserError, match="its result says wer 4.1667 %, but the files beside it give 25.0000 %"):
        main([str(tmp_path), "--compare", "a", "b"])
    less = dict(list(NEAR.items())[:59])
    recognised(tmp_path, "a", less, 100 * 20 / 472, references={key: REFERENCES[key] for key in less})
    with pytest.raises(UserError, match="must be of one test set, but 1 utterances are in one of them only .u59."):
        main([str(tmp_path), "--compare", "a", "b"])
    other = {key: text.replace("H", "I") for key, text in REFERENCES.items()}
    recognised(tmp_path, "a", {key: text.replace("H", "I") for key, text in NEAR.items()}, 100 * 20 / 480, other)
    with pytest.raises(UserError, match="must be of one test set, but their references differ"):
        main([str(tmp_path), "--compare", "a", "b"])


def test_unknown_rows_and_rows_without_a_common_task_are_refused(tmp_path):
    recognised(tmp_path, "a", NEAR, 100 * 20 / 480)
    classified(tmp_path, "b", [True, False] * 5)
    with pytest.raises(UserError, match="must be two rows with runs in a folder \\(a, b\\), but one is 'c'"):
        main([str(tmp_path), "--compare", "a", "c"])
    with pytest.raises(UserError, match="a and b have no task in common"):
        main([str(tmp_path), "--compare", "a", "b"])


def test_intervals_are_below_the_table_and_missing_ones_are_explained(tmp_path, capsys):
    classified(tmp_path, "a", [True, False] * 5)
    write(tmp_path / "a" / "asr", "asr", "test-clean", {"wer": 10.0})
    main([str(tmp_path), "--intervals"])
    shown = capsys.readouterr().out
    (line,) = (line.split() for line in shown.splitlines() if line.startswith("a  ") and "ks acc" in line)
    assert line[:4] == ["a", "ks", "acc", "50.00"] and line[-4:] == ["bootstrap", "of", "10", "utterances"]
    # ten coin tosses: 2.5 % of the draws have 2 or fewer right, 2.5 % have 8 or more (binomial, 5.5 % beyond)
    assert (float(line[4]), float(line[6])) == (20, 80)
    assert "left out: a asr: " in shown and "test-clean-noLM-hyp.ark: cannot be read" in shown
