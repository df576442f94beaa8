"""Measured times in the table and picture of the score command."""

import json

import pytest

from s3prl_pruned.commands.score import main
from s3prl_pruned.config import UserError
from tests.commands.scored_results import WANG, hand, write


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
