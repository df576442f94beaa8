"""The score command on folders of results."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from s3prl_pruned.commands.score import main
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.result import RESULT_FILE, Checkpoint, Upstream
from s3prl_pruned.superb.score.score import superb_score
from tests.commands.scored_results import WANG, shortened, write


def test_all_ten_tasks_give_the_papers_score(tmp_path, capsys):
    for task in WANG:
        write(tmp_path, task)
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert ["score", "769.62", "863.60"] in [line.split() for line in shown.splitlines()]  # paper, leaderboard
    assert "missing" not in shown and "!" not in shown

    (row,) = json.loads((tmp_path / "superb_score.json").read_text())["rows"]
    assert row["scores"]["paper"]["score"] == pytest.approx(769.62, abs=0.01)
    assert row["metrics"]["asr"]["wer"]["percent"] == 10.61 and row["sha256"] == "ab" * 32
    (line,) = csv.DictReader((tmp_path / "superb_score.csv").open())
    assert line["score_paper"] == "769.62" and line["sf_slot_type_f1"] == "87.14" and line["asr_cer"] == ""


def test_a_partial_score_is_never_shown_as_the_score(tmp_path, capsys):
    for task in list(WANG)[:9]:
        write(tmp_path, task)
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    (line,) = (line.strip() for line in shown.splitlines() if "no score" in line)
    assert line.startswith("partial, 9 of 10 tasks: mean") and line.endswith("no score, missing er")
    assert not any(line.split()[:1] == ["score"] for line in shown.splitlines())
    (row,) = json.loads((tmp_path / "superb_score.json").read_text())["rows"]
    assert row["scores"]["paper"]["score"] is None and row["scores"]["paper"]["missing"] == ["er"]
    (line,) = csv.DictReader((tmp_path / "superb_score.csv").open())
    assert line["score_paper"] == line["score_leaderboard"] == "" and line["missing"] == "er"


def test_teacher_note_and_protocol_are_said_beside_the_numbers(tmp_path, capsys):
    upstream = Upstream(name="wavlm_pruned", sha256="ab" * 32, teacher_note="random teacher")
    write(tmp_path, "asr", upstream=upstream, protocol="shortened")
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "! random teacher" in shown and "! asr: shortened protocol, not comparable with SUPERB's numbers" in shown
    (row,) = json.loads((tmp_path / "superb_score.json").read_text())["rows"]
    assert row["notes"][0] == "random teacher" and row["protocols"] == {"asr": "shortened"}
    (line,) = csv.DictReader((tmp_path / "superb_score.csv").open())
    assert "random teacher" in line["notes"]


def test_scales_that_lack_different_tasks_are_told_apart(tmp_path, capsys):
    for task in WANG:
        metrics = [Value(name="slot_type_f1", value=87.14, unit="percent")] if task == "sf" else None
        write(tmp_path, task, **({"metrics": metrics} if metrics else {}))
    main([str(tmp_path)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["score", "769.62", "-"] in lines
    (partial,) = (line for line in lines if line[:1] == ["partial,"])
    assert partial[6] == "-" and partial[-2:] == ["missing", "sf"]


def test_what_holds_of_every_row_is_said_once(tmp_path, capsys):
    for name in ("fbank", "wavlm_pruned"):
        note = "random teacher" if name == "wavlm_pruned" else None
        write(tmp_path, "asr", name=name, protocol="shortened", upstream=Upstream(name=name, teacher_note=note))
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "shortened" in line] == [
        "! every row: asr: shortened protocol, not comparable with SUPERB's numbers"
    ]
    assert lines[lines.index("wavlm_pruned  (no model hash)") + 1] == "  ! random teacher"


@pytest.mark.parametrize("other", ["cd" * 32, None])
def test_a_row_of_two_models_is_refused_and_listed(tmp_path, other):
    write(tmp_path, "asr")
    write(tmp_path, "ks", upstream=Upstream(name="wavlm_pruned", sha256=other))
    listed = f"asr: {'ab' * 32}; ks: {other or 'no weights'}"
    with pytest.raises(UserError, match=f"wavlm_pruned: one row must be one model, .* of 2 .{listed}"):
        main([str(tmp_path)])
    assert not (tmp_path / "superb_score.json").exists()


def test_two_upstreams_without_weights_and_two_ways_to_take_features_are_no_row(tmp_path):
    write(tmp_path / "a", "asr", upstream=Upstream(name="fbank"))
    write(tmp_path / "a", "ks", upstream=Upstream(name="mfcc"))
    with pytest.raises(UserError, match=r"of 2 .asr: no weights .fbank.; ks: no weights .mfcc.\)"):
        main([str(tmp_path / "a")])
    write(tmp_path / "b", "asr", upstream=Upstream(name="fbank", settings=[]))
    write(tmp_path / "b", "ks", upstream=Upstream(name="fbank", settings=["-g ab12"]))
    with pytest.raises(UserError, match="of 2 .asr: no weights .fbank.; ks: no weights .fbank., -g ab12"):
        main([str(tmp_path / "b")])
    write(tmp_path / "c", "asr", upstream=Upstream(name="fbank", settings=[]))
    write(tmp_path / "c", "ks", upstream=Upstream(name="fbank"))  # written before: nothing is known
    main([str(tmp_path / "c")])


def test_one_models_upstreams_of_two_names_are_said(tmp_path, capsys):
    write(tmp_path, "asr", upstream=Upstream(name="wavlm_pruned", sha256="ab" * 32))
    write(tmp_path, "ks", upstream=Upstream(name="wavlm_pruned_local", sha256="ab" * 32))
    main([str(tmp_path)])
    assert "several upstreams" not in capsys.readouterr().out
    write(tmp_path, "er", upstream=Upstream(name="hubert_local", sha256="ab" * 32))
    main([str(tmp_path)])
    assert "! of the same weights, but by several upstreams: wavlm_pruned, hubert" in capsys.readouterr().out


def test_a_checkpoint_picked_by_hand_is_marked_at_its_number_and_at_the_score(tmp_path, capsys):
    named = Checkpoint(file="states-2.ckpt", step=2, rule="named by -i", by_hand=True)
    for task in WANG:
        write(tmp_path, task, **({"checkpoint": named, "protocol": "custom"} if task == "asr" else {}))
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "! asr: of a checkpoint picked by hand, not by the benchmark's rule" in shown
    (line,) = (line for line in shown.splitlines() if line.strip().startswith("asr wer"))
    assert line.endswith("picked by hand")
    main([str(tmp_path), "--format", "table"])
    shown = capsys.readouterr().out
    assert "10.61*# " in shown and "769.6#*" in shown and "# a checkpoint picked by hand" in shown
    main([str(tmp_path), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["by_hand"] == ["asr"]
    (line,) = csv.DictReader((tmp_path / "superb_score.csv").open())
    assert line["by_hand"] == line["not_official"] == "asr"


def test_an_error_rate_with_a_wrong_unit_is_said_and_not_counted(tmp_path, capsys):
    for task in WANG:
        wrong = [Value(name="wer", value=10.61, unit="fraction")]
        write(tmp_path, task, **({"metrics": wrong} if task == "asr" else {}))
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "! asr: wer is 1061 % (10.61 fraction), above 300 %, so it is not counted: is its unit right?" in shown
    assert "no score, missing asr" in shown and "-4551" not in shown
    (row,) = json.loads((tmp_path / "superb_score.json").read_text())["rows"]
    assert row["scores"]["paper"]["partial_mean"] > 0 and row["metrics"]["asr"]["wer"]["paper"] is None
    path = tmp_path / "hand.yaml"
    path.write_text("- {model: x, asr: {wer: {value: 10.61, unit: fraction}}}\n")
    with pytest.raises(UserError, match="wer is 1061 % .10.61 fraction., above 300 %. Put its unit right"):
        main([str(path)])


def test_where_nothing_is_official_the_columns_stand_side_by_side_with_the_mini_score_and_no_score(tmp_path, capsys):
    for name, percent in (("fbank", (90, 36)), ("wavlm_embedded", (50, 18)), ("wavlm_pruned", (70, 24))):
        shortened(tmp_path, name, percent)
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    shown = shown.replace(str(tmp_path), "")  # its name may hold "-3"
    lines = [line.split() for line in shown.splitlines()]
    assert ["task", "and", "metric,", "percent", "fbank", "wavlm_embedded", "wavlm_pruned"] in lines
    assert ["asr", "wer", "90.00", "50.00", "70.00"] in lines and ["asr", "cer", "36.00", "18.00", "24.00"] in lines
    assert ["wavlm_pruned", "500", "500"] in lines  # 1000 * (90 - 70) / (90 - 50)
    assert "there is no SUPERB score" in shown and "partial" not in shown and "-3" not in shown
    rows = json.loads((tmp_path / "superb_score.json").read_text())["rows"]
    scores = [row["scores"][scale] for row in rows for scale in ("paper", "leaderboard")]
    assert all(score["score"] is None and score["partial_mean"] is None for score in scores)
    main([str(tmp_path), "--format", "table"])
    assert "every row: no score: none of its tasks is official" in capsys.readouterr().out


def test_no_mini_score_is_shown_without_its_ends_or_between_protocols(tmp_path, capsys):
    shortened(tmp_path, "fbank", (90, 36))
    main([str(tmp_path)])
    assert "mini-score" not in capsys.readouterr().out
    shortened(tmp_path, "wavlm_embedded", (50, 18))
    write(tmp_path, "asr", protocol="quick")
    main([str(tmp_path)])
    assert "mini-score" not in capsys.readouterr().out


def test_ten_tasks_of_which_none_is_official_have_no_score(tmp_path, capsys):
    for task in WANG:
        write(tmp_path, task, protocol="custom")
        write(tmp_path, task, name="other")
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert shown.count("769.62") == 1 and "no score: none of its tasks is official" in shown


def test_each_upstream_has_its_own_row(tmp_path, capsys):
    write(tmp_path, "asr")
    write(tmp_path, "asr", name="fbank", upstream=Upstream(name="fbank"))
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "fbank  (no model hash)" in shown and "wavlm_pruned  (SHA-256 abababab" in shown
    names = [row["name"] for row in json.loads((tmp_path / "superb_score.json").read_text())["rows"]]
    assert names == ["fbank", "wavlm_pruned"]


def test_an_s3prl_directory_is_scored_from_its_hypotheses(tmp_path, capsys):
    folder = tmp_path / "hubert" / "asr"
    folder.mkdir(parents=True)
    (folder / "test-clean-noLM-hyp.ark").write_text("a ONE\nb TWO\n")
    (folder / "test-clean-noLM-ref.ark").write_text("a ONE\nb TWO TWO\n")
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert ["asr", "wer", "33.33"] in [line.split()[:3] for line in shown.splitlines()]
    assert "computed from s3prl's own run directory" in shown
    (row,) = json.loads((tmp_path / "superb_score.json").read_text())["rows"]
    expected = superb_score({"asr": {"wer": Value(name="wer", value=100 / 3, unit="percent")}}, "paper")
    assert row["scores"]["paper"]["partial_mean"] == pytest.approx(expected.partial)


def test_table_1_shows_printed_against_recomputed(capsys):
    main(["--table1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 8
    disagreeing = [line for line in lines if "does not agree" in line]
    assert len(disagreeing) == 1 and "w/o FAHP" in disagreeing[0]
    assert "721.79" in disagreeing[0] and "707.11" in disagreeing[0]


def test_nothing_to_do_says_what_to_give(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2 and "name a folder of results" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rows"', '"row"', "saved.json: must be a table that superb_score.py wrote as JSON, but is not .KeyError"),
        ('"percent": 10.61', '"percent": -1', "metrics: wer must be at least 0 percent, but is -1"),
        ('"percent": 10.61', '"percent": NaN', "value: must be a finite number"),
        (
            '"kind": "measured"',
            '"kind": "believed"',
            "kind must be one of measured, published, given, but is 'believed'",
        ),
        ('"asr"', '"ars"', "no such SUPERB task. Did you mean `asr`"),
    ],
)
def test_a_damaged_table_is_one_clear_error(tmp_path, capsys, old, new, message):
    write(tmp_path / "results", "asr")
    main([str(tmp_path / "results"), "--format", "json"])
    (tmp_path / "saved.json").write_text(capsys.readouterr().out.replace(old, new))
    with pytest.raises(UserError, match=message):
        main([str(tmp_path / "saved.json")])


def test_several_folders_stand_in_one_table_but_a_name_only_once(tmp_path, capsys):
    write(tmp_path / "first", "asr")
    write(tmp_path / "second", "asr", name="other")
    main([str(tmp_path / "first"), str(tmp_path / "second")])
    shown = capsys.readouterr().out
    assert "wavlm_pruned" in shown and "other" in shown
    write(tmp_path / "second", "asr")
    with pytest.raises(UserError, match="second: contains row wavlm_pruned, which .*first contains too. Rename one"):
        main([str(tmp_path / "first"), str(tmp_path / "second")])


def test_a_reference_scores_what_s3prl_left_unscored(tmp_path, capsys):
    from tests.superb.metrics.test_der import sd_run

    sd_run(tmp_path / "hubert" / "sd", {"r": [[0.9, 0.1]] * 100})
    (tmp_path / "rttm").write_text("SPEAKER r 1 0.0 2.5 <NA> <NA> a <NA> <NA>\n")
    main([str(tmp_path), "--rttm", str(tmp_path / "rttm")])
    assert ["sd", "der", "20.00"] in [line.split()[:3] for line in capsys.readouterr().out.splitlines()]


def test_bad_results_are_one_clear_error_and_the_command_ends_with_2(tmp_path):
    write(tmp_path, "asr")
    path = tmp_path / "wavlm_pruned" / "asr" / RESULT_FILE
    good = path.read_text()
    for text, message in (
        (good[:200], "is not complete JSON"),
        (good.replace('"percent"', '"permille"'), "must be one of percent, fraction"),
        (good.replace("10.61", "NaN"), "must be a finite number"),
        (good.replace('"asr"', '"ars"'), "Did you mean `asr`"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            main([str(tmp_path)])
    tool = Path(__file__).parents[2] / "tools" / "superb_score.py"
    done = subprocess.run([sys.executable, tool, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "superb_score.json").exists()
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "Did you mean `asr`" in done.stderr
