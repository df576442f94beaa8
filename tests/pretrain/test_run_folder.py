"""The folder of a run: used by one process at a time, on any disk, and readable once it is finished."""

import json
import os

import pytest

from s3prl_pruned.commands import pretrain
from s3prl_pruned.config import UserError
from s3prl_pruned.folder_lock import locked
from s3prl_pruned.pretrain.logging import read_log


def test_a_run_killed_before_it_wrote_run_json_starts_again(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.tmp").write_text("{")
    run = recipe.train(tmp_path / "run", "-a")
    assert (run / "export").is_dir() and json.loads((run / "run.json").read_text())["recipe"] == "tiny"


def test_a_folder_of_something_else_is_still_refused(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(UserError, match="is not a run of run_pretrain.py"):
        recipe.train(tmp_path / "run", "-a")


@pytest.mark.parametrize("options", [(), ("-a",), ("--force",)])
def test_a_folder_in_use_is_refused_and_nothing_is_written(recipe, tmp_path, options):
    run = tmp_path / "run"
    with locked(run):
        (run / "log.jsonl").write_text("")
        with pytest.raises(UserError, match="run: another process is using this folder"):
            recipe.train(run, *options)
        assert sorted(path.name for path in run.iterdir()) == [".lock", "log.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("options", [(), ("-a",)])
def test_a_finished_run_in_a_read_only_folder_is_read(recipe, tmp_path, monkeypatch, capsys, options):
    run = recipe.train(tmp_path / "run")
    before = stamps(run)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    pretrain.main(recipe.arguments(run, *options))
    assert "this run is finished already" in capsys.readouterr().out
    assert stamps(run) == before


def test_a_full_disk_in_the_log_is_an_oserror_and_the_checkpoints_stay(recipe, tmp_path, monkeypatch):
    """`command_line` turns it into a one-line message."""
    import s3prl_pruned.pretrain.logging as log

    real = open

    def full(path, mode="r", *args, **kwargs):
        if str(path).endswith("log.jsonl") and mode == "a" and len(read_log(tmp_path / "run")) == 2:
            return real("/dev/full", mode, *args, **kwargs)
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(log, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        recipe.train(tmp_path / "run")
    monkeypatch.undo()
    recipe.train(tmp_path / "run", "-a")
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 3]
