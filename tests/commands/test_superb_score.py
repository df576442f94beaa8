"""The score command on folders of results."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from s3prl_pruned.commands.score import main
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.results.result import RESULT_FILE, Checkpoint, Result, Upstream, write_result
from s3prl_pruned.superb.score.score import superb_score

WANG = {
    "pr": [9.09], "asr": [10.61], "ks": [96.57], "qbe": [7.40], "sid": [74.56], "sv": [6.17], "sd": [6.11],
    "ic": [98.08], "sf": [87.14, 27.13], "er": [63.61],
}  # fmt: skip


def write(root, task, *, name="wavlm_pruned", **changes):
    """A result of the proposed model of Wang et al. 2023, with its published numbers."""
    metrics = [
        Value(name=metric.name, value=number, unit="percent") for metric, number in zip(TASKS[task].metrics, WANG[task])
    ]
    result = Result(
        task=task, split=TASKS[task].test_split, num_utterances=1, metrics=metrics, printed_by_s3prl=[],
        protocol="official", upstream=Upstream(name=name, sha256="ab" * 32),
    )  # fmt: skip
    folder = root / name / task
    folder.mkdir(parents=True)
    write_result(folder / RESULT_FILE, dataclasses.replace(result, **changes))


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


def shortened(root, name, percent):
    metrics = [Value(name=rate, value=value, unit="percent") for rate, value in zip(("wer", "cer"), percent)]
    write(root, "asr", name=name, metrics=metrics, protocol="shortened", upstream=Upstream(name=name))


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


HAND = """
- model: by hand
  params_millions: 30
  asr: {wer: {value: 10, unit: percent}}
  ks: {acc: {value: 0.965, unit: fraction}}
"""


def hand(tmp_path, text=HAND):
    path = tmp_path / "hand.yaml"
    path.write_text(text)
    return path


def test_published_models_stand_side_by_side_with_ours_and_are_marked(tmp_path, capsys):
    for task in WANG:
        write(tmp_path, task)
    main([str(tmp_path), "--published", str(hand(tmp_path))])
    lines = capsys.readouterr().out.splitlines()
    (ours,) = (line for line in lines if line.startswith("wavlm_pruned "))
    (theirs,) = (line for line in lines if line.startswith("Wang 2023, proposed (p) "))
    assert ours.split()[1:-1] == ["-", *theirs.split()[5:-6]]  # the same numbers: the metrics, and 769.6 863.6
    assert ours.split()[-3:] == ["769.6", "863.6", "-"] and theirs.endswith("863.6  Wang et al. 2023, Table 1")
    (given,) = (line for line in lines if line.startswith("by hand (g) "))
    assert given.split()[3:8] == ["30.00", "-", "-", "-", "10.00"] and given.split()[-3:] == ["-", "-", "-"]
    assert "by hand: no score, missing pr qbe sid sv sd ic sf er" in lines
    assert any(line.startswith("Wang 2023, w/o FAHP: printed with 721.79") for line in lines)
    assert not (tmp_path / "superb_score.json").exists()  # to the screen only


def test_settings_that_are_not_official_are_marked_at_the_number(tmp_path, capsys):
    write(tmp_path, "asr", protocol="shortened")
    write(tmp_path, "ks")
    folder = tmp_path / "wavlm_pruned" / "ic"
    folder.mkdir()
    (folder / "log.log").write_text("dev at step 5: 0.5\nNew best on dev at step 5: 0.5\ntest at step 5: 0.25\n")
    for name in ("table", "markdown"):
        main([str(tmp_path), "--format", name])
        shown = capsys.readouterr().out
        star = "*" if name == "table" else r"\*"
        assert f"10.61{star} " in shown and "96.57 " in shown and "25.00? " in shown
        assert "asr: shortened protocol, not comparable with SUPERB's numbers" in shown


def test_a_score_is_marked_where_any_of_its_tasks_is(tmp_path, capsys):
    for task in WANG:
        write(tmp_path, task, protocol="mini" if task == "er" else "official")
        write(tmp_path, task, name="other")
    main([str(tmp_path), "--format", "table"])
    other, ours = (
        line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("wavlm_pruned ", "other "))
    )
    assert ours[-2:] == ["769.6*", "863.6*"] and other[-2:] == ["769.6", "863.6"]


def test_markdown_is_a_table_of_equal_rows(tmp_path, capsys):
    write(tmp_path, "asr", name="a|b")
    main([str(tmp_path), "--published", "--format", "markdown"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[1].split() == ["|", "---", *["|", "---:"] * 15, "|", "---", "|"]
    assert len(rows) == 2 + 1 + 32 and rows[2].startswith(r"| a\|b | - | - | - | - | 10.61 |")
    assert {row.replace(r"\|", "").count("|") for row in rows} == {18}


def test_csv_and_json_go_to_the_screen_whole(tmp_path, capsys):
    write(
        tmp_path, "asr", protocol="shortened", upstream=Upstream(name="x", sha256="ab" * 32, num_parameters=26_570_000)
    )
    main([str(tmp_path), "--published", "--format", "csv"])
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(lines) == 33 and [line["kind"] for line in lines].count("published") == 32
    (dphubert,) = (line for line in lines if line["upstream"] == "DPHuBERT")
    assert dphubert["source"] == "Peng et al. 2023" and float(dphubert["macs"]) == 654.1e9
    assert dphubert["macs_counted"] == "0" and dphubert["seconds"] == dphubert["printed_macs_per_second"] == ""
    assert (
        lines[0]["asr_wer"] == "10.61" and lines[0]["params_millions"] == "26.57" and lines[0]["not_official"] == "asr"
    )
    assert lines[-1]["not_official"] == ""
    main([str(tmp_path), "--published", "--format", "json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["params_millions"] == 26.57 and rows[0]["kind"] == "measured"
    (proposed,) = (row for row in rows if row["name"] == "Wang 2023, proposed")
    assert proposed["scores"]["paper"]["score"] == pytest.approx(769.62, abs=0.01) and proposed["kind"] == "published"
    assert proposed["source"] == "Wang et al. 2023, Table 1" and proposed["costs"] == {}
    (diarizen,) = (row for row in rows if row["name"] == "DiariZen Base+, 90 %")
    assert diarizen["params_millions"] == 9.4 and diarizen["costs"] == {"printed_macs_per_second": 0.6e9}
    assert diarizen["metrics"] == {} and diarizen["scores"]["paper"]["score"] is None


def test_a_table_that_was_written_as_json_is_the_same_table_when_it_is_read_again(tmp_path, capsys):
    upstream = Upstream(name="x", sha256="ab" * 32, num_parameters=26_570_000, teacher_note="tiny")
    for task in WANG:
        write(tmp_path / "results", task, upstream=upstream)
    write(tmp_path / "results", "asr", name="half", protocol="quick")
    folder = [str(tmp_path / "results"), "--published"]
    for form in ("markdown", "csv", "json"):
        main([*folder, "--format", "json"])
        (tmp_path / "saved.json").write_text(capsys.readouterr().out)
        main([*folder, "--format", form])
        first = capsys.readouterr().out
        main([str(tmp_path / "saved.json"), "--format", form])
        assert capsys.readouterr().out == first and "half" in first


def timing_file(path, *names, length=5.0, **changes):
    """A document as tools/timing.py writes it, with what the score command reads."""
    rows = [
        {
            "name": name, "workload": f"{length:g} s", "length_s": length, "batch": 1, "tf32": False, "noisy": False,
            "seconds": 0.1 * (i + 1), "leaderboard_macs": 5e11 * (i + 1),
            "weights": f"sha256 {'ab' * 6}" if "/" in name else "random", **changes,
        }
        for i, name in enumerate(names)
    ]  # fmt: skip
    document = {"baseline": names[0], "device": "cpu", "threads": 1, "dtype": "float32", "versions": {}}
    path.write_text(json.dumps({**document, "machine": "a machine", "date": "2026-01-02T03", "results": rows}))
    return str(path)


def test_measured_times_stand_beside_the_scores_and_in_the_picture(tmp_path, capsys):
    for task in WANG:
        write(tmp_path / "results", task)
    times = timing_file(tmp_path / "t.json", "ours:dense", "peer:distilhubert", "somewhere/export")
    picture = tmp_path / "out.png"
    main([str(tmp_path / "results"), "--published", "--timing", times, "--figure", str(picture)])
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    cells = {line.split("  ")[0]: line.split() for line in lines}
    assert cells["WavLM Base (p)"][3:7] == ["94.70", "1670.0", "-", "0.0200"]  # 0.1 s for 5 s: the timing's ours:dense
    assert cells["DistilHuBERT (p)"][2:6] == ["23.49", "785.9", "c", "-"] and "HuBERT Base (p)" in cells
    assert cells["DistilHuBERT (p)"][6] == "0.0400"
    assert cells["wavlm_pruned"][1:6] == ["-", "1500.0", "c", "-", "0.0600"]  # by the hash of its weights
    assert cells["DPHuBERT (p)"][3:6] == ["654.1", "-", "-"]  # of which nobody has the structure without its file
    assert "time: a machine, 1 thread, float32, 2026-01-02" in shown.err
    assert "missing in some panels: wavlm_pruned: no number of parameters" in lines
    assert picture.stat().st_size > 10_000


def test_times_of_one_folder_alone_are_in_the_table_too(tmp_path, capsys):
    write(tmp_path / "results", "asr")
    main([str(tmp_path / "results"), "--timing", timing_file(tmp_path / "t.json", "my/export")])
    header, row, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:6] == ["model", "params", "M", "G", "MACs", "RTF"] and row.split()[:5] == [
        "wavlm_pruned", "-", "500.0", "c", "0.0200"
    ]  # fmt: skip


def test_a_timing_that_is_not_there_is_named_with_the_command_that_writes_one(tmp_path):
    with pytest.raises(UserError, match="nowhere.json: no such file. Write one: tools/timing.py --peers"):
        main(["--published", "--timing", str(tmp_path / "nowhere.json")])


def test_a_timing_that_does_not_serve_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="x.json: must be the JSON document of tools/timing.py, but lacks"):
        main(["--published", "--timing", str(tmp_path / "x.json")])
    times = timing_file(tmp_path / "t.json", "ours:dense", length=1.0)
    with pytest.raises(UserError, match="t.json: must have times of 5 s of audio, .* Measure them: .* --lengths 5"):
        main(["--published", "--timing", times])
    damaged = timing_file(tmp_path / "d.json", "ours:dense", seconds="soon")
    with pytest.raises(UserError, match="d.json: must be the JSON document of tools/timing.py, but is damaged"):
        main(["--published", "--timing", damaged])


def test_models_without_a_row_and_noisy_times_are_said(tmp_path, capsys):
    times = timing_file(tmp_path / "t.json", "ours:dense", noisy=True)
    main(["--published", str(hand(tmp_path)), "--timing", times])
    shown = capsys.readouterr()
    assert "the timing has no row of: by hand. Add them to its --models" in shown.err
    assert "TOO NOISY a machine when these were timed: WavLM Base" in shown.err and "0.0200!" in shown.out


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
