"""tools/timing.py as typed: the last line is the document, wrong input is one line and exit status 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from s3prl_pruned.commands import timing
from s3prl_pruned.config import UserError
from tests.tiny_benchmark import tiny_benchmark

REPO = Path(__file__).resolve().parents[2]


def typed(*arguments):
    return subprocess.run([sys.executable, "tools/timing.py", *arguments], capture_output=True, text=True, cwd=REPO)


def call(*arguments):
    timing.main(list(arguments))


def test_the_last_line_is_one_json_document_and_a_table_is_made_of_it(tmp_path, capsys):
    names = ["--baseline", "s3prl:wavlm_embedded", "--models", "ours:wavlm_embedded", "--random"]
    done = typed(
        *names,
        "--lengths",
        "0.5,2x0.3",
        "--repeats",
        "2",
        "--threads",
        "1",
        "--dtype",
        "fp32",
        "--output",
        str(tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    data = json.loads(lines[-1])
    assert [(row["name"], row["length_s"], row["batch"]) for row in data["results"]] == [
        (f"{library}:wavlm_embedded", *length) for length in ((0.5, 1), (0.3, 2)) for library in ("s3prl", "ours")
    ]
    assert any(
        line.startswith("ours:wavlm_embedded against s3prl:wavlm_embedded: hidden states differ by") for line in lines
    )
    assert "Traceback" not in done.stderr
    call("--table", str(tmp_path / "out" / "timing.json"))
    table = capsys.readouterr().out
    assert table == (tmp_path / "out" / "timing.md").read_text()
    call("--table", str(tmp_path / "out" / "timing.json"), "--output", str(tmp_path / "again"))
    assert (tmp_path / "again" / "timing.csv").read_text() == (tmp_path / "out" / "timing.csv").read_text()


def test_a_wrong_name_is_one_line_and_exit_status_2():
    done = typed("--models", "ours:dens", "--random", "--lengths", "1")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("building")]
    assert line.startswith("error: 'ours:dens': must be one of") and line.endswith("Did you mean dense?")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "no model is named"),
        (("--models", "ours:dense", "--lengths", "1,x"), "`lengths` must be seconds"),
        (("--models", "ours:dense", "--lengths", "1,ax5"), "`lengths` must be seconds"),
        (("--models", "ours:dense", "--mixed", "4"), "`mixed` must be two lengths"),
        (("--models", "ours:dense", "--lengths", "0.01"), "at least one frame"),
        (("--models", "ours:dense", "--lengths", "1", "--dtype", "fp64"), "`dtype` must be one of"),
        (("--table", "nowhere.json"), "nowhere.json: is not complete JSON"),
        (("--paper-table2", "--lengths", "1"), "`--paper-table2` encodes a corpus"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        call(*arguments)


def test_a_result_is_not_overwritten_and_this_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "timing.json").write_text("{}")
    with pytest.raises(UserError, match="timing.json: exists already"):
        call("--models", "ours:dense", "--random", "--output", str(tmp_path))


def test_the_papers_table_is_of_a_corpus_and_five_runs(monkeypatch, capsys):
    from s3prl_pruned.timing import benchmark

    seen, found = [], tiny_benchmark()
    monkeypatch.setattr(benchmark, "run", lambda options, progress: seen.append(options) or found)
    call("--paper-table2", "--limit", "2")
    (options,) = seen
    assert options.models == ["ours:dense", "ours:even", "ours:conc"] and options.baseline == "s3prl:wavlm_base"
    assert options.random and options.use_corpus and options.repeats == 5
    *table, _, document = capsys.readouterr().out.splitlines()
    assert table[0].startswith("The paper's Table 2 on this device") and "WavLM Base" in "".join(table)
    assert json.loads(document)["results"]


def test_peers_are_timed_beside_the_users_models_at_1_and_5_s(monkeypatch, capsys):
    from s3prl_pruned.timing import benchmark

    seen, found = [], tiny_benchmark()
    monkeypatch.setattr(benchmark, "run", lambda options, progress: seen.append(options) or dict(found))
    call("--peers", "--models", "mine")
    (options,) = seen
    assert options.baseline == "ours:dense" and options.random and not options.use_corpus
    assert options.models[-1] == "mine" and {"peer:distilhubert", "peer:diarizen_base_s80"} <= set(options.models)
    assert options.lengths == [(1.0, 1), (5.0, 1)]
    *table, document = capsys.readouterr().out.splitlines()
    assert "RTF" in table[2] and any(line.startswith("- ARMHuBERT is not timed: every other") for line in table)
    assert {one["name"] for one in json.loads(document)["not_timed"]} >= {"ARMHuBERT", "DPHuBERT", "STaRHuBERT"}
    call("--peers", "--lengths", "2", "--baseline", "s3prl:wavlm_base")
    assert seen[1].lengths == [(2.0, 1)] and seen[1].baseline == "s3prl:wavlm_base"


def test_the_table_of_a_peers_document_is_made_again(tmp_path, capsys):
    path = tmp_path / "timing.json"
    path.write_text(json.dumps(tiny_benchmark() | {"not_timed": [{"name": "ARMHuBERT", "reason": "a reason"}]}))
    call("--table", str(path))
    table = capsys.readouterr().out
    assert "- ARMHuBERT is not timed: a reason." in table and "RTF, 0.5 s" in table
    call("--table", str(path), "--output", str(tmp_path / "out"))
    assert (tmp_path / "out" / "timing.md").read_text() == table


def test_two_tables_at_once_are_refused(capsys):
    with pytest.raises(SystemExit) as end:
        call("--peers", "--paper-table2")
    assert end.value.code == 2 and "not allowed with argument" in capsys.readouterr().err


def test_the_exit_status_says_that_a_model_was_left_out(monkeypatch):
    from s3prl_pruned.timing.models import Builder

    build = Builder.build

    def broken(self, name):
        return build(self, name) if "compiled" not in name.variants else 1 / 0

    monkeypatch.setattr(Builder, "build", broken)
    names = "ours:wavlm_embedded,ours:wavlm_embedded+compiled"
    with pytest.raises(SystemExit) as end:
        call("--models", names, "--random", "--lengths", "0.3", "--repeats", "1")
    assert end.value.code == 1
