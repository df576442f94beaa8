"""`python -m s3prl_pruned` runs another program as Python runs it, with our upstreams in s3prl's hub."""

import os
import pickle
import subprocess
import sys
from multiprocessing import spawn
from pathlib import Path

import pytest

import s3prl_pruned
from s3prl_pruned.__main__ import main
from s3prl_pruned.upstream.register import register_in_spawned_processes

REPO = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
US = ("-m", "s3prl_pruned")

PROGRAM = """
import logging, os, sys
print(__name__, __package__ or None, __spec__ and __spec__.name, __file__)
print(os.path.abspath(sys.argv[0]), sys.argv[1:], sys.path[0])
print(logging.getLogger().handlers, vars(sys.modules["__main__"]) is globals())
hub = sys.modules.get("s3prl.hub")
print("known" if hasattr(hub, "wavlm_pruned_local") else "not known", file=sys.stderr)
if sys.argv[1] == "raise":
    raise RuntimeError("the program's own")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    """What `main` changes in this process is put back."""
    monkeypatch.setattr(spawn, "get_preparation_data", spawn.get_preparation_data)
    monkeypatch.setattr(sys, "argv", ["__main__.py"])
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a program as module, package and script."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "package" / "inner").mkdir(parents=True)
    for path in ("package/__init__.py", "package/inner/__init__.py"):
        (folder / path).write_text("")
    for path in ("program.py", "package/__main__.py", "package/inner/part.py"):
        (folder / path).write_text(PROGRAM)
    return folder


def python(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=280
    )


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (("-m", "program", "0", "-m", "other", "--help"), 0),
        (("-m", "package", "7"), 7),
        (("-m", "package.inner.part", "raise"), 1),
        (("package/inner/part.py", "3", "a b"), 3),
    ],
    ids=["module", "package", "exception", "script"],
)
def test_a_program_runs_as_python_runs_it_and_knows_our_upstreams(folder, program, code):
    plain, ours = python(folder, *program), python(folder, *US, *program)
    assert (plain.returncode, ours.returncode) == (code, code)
    assert plain.stdout and ours.stdout == plain.stdout
    assert "not known" in plain.stderr and "not known" not in ours.stderr and "known" in ours.stderr
    if code == 1:
        assert ours.stderr.endswith("RuntimeError: the program's own\n")


SPAWNING = """
import multiprocessing
import s3prl.hub  # without our workarounds this import fails beside a torchaudio of today

def know():
    print("known" if hasattr(s3prl.hub, "wavlm_pruned_local") else "not known", flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=know)
    process.start()
    process.join()
    raise SystemExit(process.exitcode)
"""


def test_a_process_that_the_program_spawns_knows_our_upstreams(tmp_path):
    """ESPnet trains on several GPUs of a machine by `spawn`."""
    (tmp_path / "spawning.py").write_text(SPAWNING)
    result = python(tmp_path, *US, "-m", "spawning")
    assert (result.returncode, result.stdout) == (0, "known\n"), result.stderr


def test_what_a_spawned_process_is_told_makes_it_tell_its_own_processes(monkeypatch):
    s3prl_pruned.register()
    import s3prl.hub

    monkeypatch.setattr(spawn, "get_preparation_data", lambda name: {"name": name})
    register_in_spawned_processes()
    register_in_spawned_processes()
    told = pickle.dumps(spawn.get_preparation_data("child"))
    monkeypatch.setattr(spawn, "get_preparation_data", lambda name: {"name": name})  # as in a new process
    monkeypatch.delattr(s3prl.hub, "wavlm_pruned_local")
    assert pickle.loads(told)["name"] == "child"
    assert hasattr(s3prl.hub, "wavlm_pruned_local")
    assert spawn.get_preparation_data("grandchild").keys() == {"name", "s3prl_pruned"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a program to run must come first, but nothing was given"),
        (["-m"], "a program to run must come first, but -m was given"),
        (["-x", "program"], "a program to run must come first, but -x program was given"),
        (["absent.py"], "absent.py: must be an existing script, but there is none. For a module type -m"),
        (["-m", "absent"], "-m absent: must be a module that can be imported"),
        (["-m", "json.absent.part"], "-m json.absent.part: must be a module that can be imported"),
        (["-m", "s3prl.nn"], "-m s3prl.nn.__main__: must be a module that can be imported"),
        (["-m", ".relative"], "-m .relative: must be a module that can be imported"),
        (["-m", "two..points"], "-m two..points: must be a module that can be imported"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_module_that_lacks_something_itself_is_not_called_absent(monkeypatch, tmp_path):
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "__init__.py").write_text("import what_it_lacks")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_it_lacks"):
        main(["-m", "lacking.part"])


def test_help_says_how_it_is_typed(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    assert "usage: python -m s3prl_pruned [-m MODULE | SCRIPT]" in printed and "espnet2.bin.asr_train" in printed
