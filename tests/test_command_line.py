"""What a command line makes of an exception: one line on stderr, and the exit code."""

import errno
import os
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
