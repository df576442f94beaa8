"""What a command line makes of an exception: one line on stderr, and the exit code."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from s3prl_pruned.command_line import Interrupted, command_line
from s3prl_pruned.config import UserError


@pytest.mark.parametrize(
    "error, code, said",
    [
        (UserError("`x` must be 1, but is 2."), 2, "error: `x` must be 1, but is 2."),
        (Interrupted("saved."), 130, "interrupted: saved."),
        (Interrupted("saved.", exit_code=75), 75, "interrupted: saved."),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: the disk is full (No space left on device)."),
        (OSError(errno.EDQUOT, "Quota exceeded", "run/log.jsonl"), 2, "error: run/log.jsonl: the disk is full (Quota"),
        (
            PermissionError(errno.EACCES, "Permission denied", "run/a.csv"),
            2,
            "error: run/a.csv: Permission denied.",
        ),
        (OSError(errno.EROFS, "Read-only file system", "run/a.png"), 2, "error: run/a.png: Read-only file system."),
        (KeyboardInterrupt(), 130, "interrupted: by Ctrl-C."),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_an_exit_code(error, code, said, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        command_line(main)
    shown = capsys.readouterr().err
    assert stop.value.code == code and shown.startswith(said) and shown.count("\n") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EIO, "Input/output error")])
def test_any_other_error_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        command_line(main)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_schedulers_signal_ends_any_command_with_75(signum, capsys):
    before = signal.getsignal(signum)

    def main():
        os.kill(os.getpid(), signum)
        raise AssertionError("it goes on")

    with pytest.raises(SystemExit) as stop:
        command_line(main)
    assert stop.value.code == 75 and capsys.readouterr().err.startswith(f"interrupted: by {signum.name}.")
    assert signal.getsignal(signum) is before


def test_under_nohup_a_terminals_end_stops_nothing():
    code = (
        "import os, signal; from s3prl_pruned.command_line import command_line, stop_signals; "
        "command_line(lambda: (os.kill(os.getpid(), signal.SIGHUP), print(signal.SIGHUP in stop_signals())))"
    )
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **ignoring)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.parametrize("locale, shown", [("C", r"caf\xe9 \udcff"), ("C.UTF-8", r"café \udcff")])
def test_an_output_shows_names_that_it_has_no_letters_for(locale, shown):
    code = "from s3prl_pruned.command_line import command_line; command_line(lambda: print('caf\\xe9 \\udcff'))"
    plain = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=plain)
    assert (done.returncode, done.stdout.decode("utf-8").strip()) == (0, shown), done.stderr


def test_bars_of_other_libraries_are_rare_where_there_is_no_terminal():
    code = (
        "import time\n"
        "from s3prl_pruned.command_line import command_line\n"
        "def main():\n"
        "    from tqdm import tqdm\n"
        "    for _ in tqdm(range(100)): time.sleep(0.01)\n"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TQDM_")}
    states = {}
    for ending in ("command_line(main)", "main()"):
        command = [sys.executable, "-c", code + ending]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=plain)
        states[ending] = done.stderr.count("%|")
    assert states["command_line(main)"] <= 2 < 5 <= states["main()"]  # at its start and its end


def test_a_reader_that_stops_reading_gets_no_traceback():
    code = (
        "from s3prl_pruned.command_line import command_line; "
        "command_line(lambda: [print('x' * 1000) for _ in range(1000)])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"x" * 1000 + b"\n"
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""
