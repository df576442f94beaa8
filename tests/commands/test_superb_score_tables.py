"""The score command: published rows beside ours, marks, and its table as Markdown, CSV and JSON."""

import csv
import json

import pytest

from s3prl_pruned.commands.score import main
from s3prl_pruned.superb.results.result import Upstream
from tests.commands.scored_results import WANG, hand, write


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
