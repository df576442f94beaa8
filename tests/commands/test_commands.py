"""`s3prl-pruned`: its list, its helps, which are the scripts', and what completes it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from s3prl_pruned import own_commands
from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands import __main__ as console
from s3prl_pruned.config import UserError
from s3prl_pruned.own_commands import COMMANDS, as_typed, call, typed

REPO = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = sorted(set(COMMANDS) - {"pretrain", "downstream"})


@pytest.fixture
def by_console(monkeypatch):
    """As where the user called `s3prl-pruned`."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/s3prl-pruned", *sys.argv[1:]])


def shown(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        console.main(list(argv))
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def parser_of(name):
    return importlib.import_module(f"s3prl_pruned.commands.{name}").make_parser()


def test_help_lists_every_command_in_a_line(capsys):
    code, out, _ = shown(capsys, "-h")
    assert code == 0
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert all([name, command.summary] in lines for name, command in COMMANDS.items())


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    code, _, error = shown(capsys, "tming", "--models", "x")
    assert code == 2 and "there is no command 'tming'. Did you mean `timing`?" in error
    assert shown(capsys, "zzz")[0] == 2
    code, _, error = shown(capsys)
    assert code == 2 and "a command is missing" in error


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_of_its_script(name, monkeypatch, capsys):
    script = COMMANDS[name].script
    assert f"from s3prl_pruned.commands.{name} import main" in (REPO / script).read_text()
    of_script = parser_of(name)
    assert of_script.format_usage().startswith(f"usage: {Path(script).name} ")
    monkeypatch.setattr(sys, "argv", ["s3prl-pruned", name])
    of_console = parser_of(name)
    text = of_console.format_help()
    assert text.startswith(f"usage: s3prl-pruned {name} ") and script not in text
    assert [vars(action) | {"container": 0} for action in of_console._actions] == [
        vars(action) | {"container": 0} for action in of_script._actions
    ]
    code, out, _ = shown(capsys, name, "-h")
    assert code == 0 and out == text


def test_helps_do_not_import_torch():
    program = (
        "import importlib, sys\n"
        "from s3prl_pruned.commands import __main__ as console\n"
        "for arguments in ['-h'], *([name, '-h'] for name in sys.argv[1:]):\n"
        "    try: console.main(arguments)\n"
        "    except SystemExit: pass\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *WITHOUT_TORCH], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr


def test_commands_are_called_and_named_as_the_user_calls_them(monkeypatch):
    text = "Make one (python run_pretrain.py -u x), or see tools/timing.py; not /my/tools/timing.py."
    assert call("score") == (sys.executable, "tools/superb_score.py")
    assert typed("pretrain", "-u", "a b") == "python run_pretrain.py -u 'a b'" and as_typed(text) == text
    monkeypatch.setattr(sys, "argv", ["s3prl-pruned"])
    assert call("score") == (sys.executable, "-m", "s3prl_pruned.commands", "score")
    assert typed("pretrain", "-u", "a b") == "s3prl-pruned pretrain -u 'a b'"
    shown = "Make one (s3prl-pruned pretrain -u x), or see s3prl-pruned timing; not /my/tools/timing.py."
    assert as_typed(text) == shown


def test_without_a_clone_commands_are_those_of_the_installation(monkeypatch, tmp_path):
    monkeypatch.setattr(own_commands, "PACKAGE", tmp_path / "s3prl_pruned")
    assert typed("suite") == "s3prl-pruned suite"


def test_an_error_names_what_the_user_can_type(by_console, capsys):
    def fail():
        raise UserError("no export. Make one: python run_pretrain.py -u wavlm_pruned_distill")

    with pytest.raises(SystemExit) as ended:
        command_line(fail)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no export. Make one: s3prl-pruned pretrain -u wavlm_pruned_distill\n"


def test_another_folder_than_the_clones_will_do(by_console, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    console.main(["sweep", "--recipe", "rows_s50=0.5", "--dry-run", "--tasks", "asr"])
    planned = capsys.readouterr().out
    assert "-m s3prl_pruned.commands pretrain -u wavlm_pruned_distill --recipe rows_s50" in planned
    assert "-m s3prl_pruned.commands downstream -u wavlm_pruned_local" in planned
    code, out, _ = shown(capsys, "suite", "-u", "fbank", "--tasks", "asr", "--scheduler", "shell")
    assert code == 0 and "Start them by: bash superb_jobs/run_all.sh" in out
    assert "-m s3prl_pruned.commands downstream -u fbank" in (tmp_path / "superb_jobs/001-fbank_asr.sh").read_text()


@pytest.mark.parametrize(
    "typed_so_far, offered",
    [
        ("sc", ["score"]),
        ("score --fo", ["--format"]),
        ("score --format m", ["markdown"]),
        ("pretrain --rec", ["--recipe"]),
        ("timing --output fol", ["folder"]),
    ],
)
def test_bash_completes_commands_options_and_paths(completion, typed_so_far, offered, tmp_path):
    (tmp_path / "folder").mkdir()
    words = ["s3prl-pruned", *typed_so_far.split()]
    program = (
        f"source {completion}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_shtab_s3prl_pruned; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == offered, done.stderr


@pytest.fixture(scope="module")
def completion(tmp_path_factory):
    """The script for bash."""
    path = tmp_path_factory.mktemp("completion") / "s3prl-pruned"
    command = [sys.executable, "-m", "s3prl_pruned.commands", "--completion", "bash"]
    path.write_text(subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPO).stdout)
    return path


def test_without_shtab_it_is_said_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(UserError, match=r"pip install s3prl_pruned\[completion\]"):
        console.main(["--completion", "bash"])
