"""Run another program with our upstreams in s3prl's hub.

    python -m s3prl_pruned -m espnet2.bin.asr_train --config train.yaml ...
    python -m s3prl_pruned train.py ...
    torchrun --nproc_per_node=2 -m s3prl_pruned -m module ...

A program that builds upstreams by s3prl's hub knows ours only after `s3prl_pruned.register()`. This calls it, then runs
the program in the same process as `python -m module ...` or `python train.py ...` would: the same arguments,
`__main__`, exit code and exceptions. Processes that the program starts by multiprocessing know our upstreams too.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from collections.abc import Callable

from s3prl_pruned.config import UserError

USAGE = "python -m s3prl_pruned [-m MODULE | SCRIPT] [ARGUMENT ...]"


def main(arguments: list[str]) -> None:
    """Register, then run the program that the arguments name.

    Args:
        arguments: what stands after `python -m s3prl_pruned`. What stands after the program's name is the program's.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n\n{__doc__}")
        return
    try:
        run = _prepare(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    run()  # outside of the clause above: what the program raises is its own


def _prepare(arguments: list[str]) -> Callable[[], object]:
    """Register, set `sys.argv` and `sys.path` as the program expects them, and return what runs it.

    Raises:
        UserError: if the arguments name no program, or s3prl is not installed as it must be.
    """
    is_module = arguments[:1] == ["-m"]
    named = arguments[1:] if is_module else arguments
    if not named or named[0].startswith("-"):
        given = " ".join(arguments) or "nothing"
        raise UserError(
            f"python -m s3prl_pruned: a program to run must come first, but {given} was given. Type {USAGE}."
        )
    program, *rest = named
    if not is_module and not os.path.exists(program):
        raise UserError(
            f"{program}: must be an existing script, but there is none. For a module type -m before its name."
        )
    from s3prl_pruned.upstream.register import register, register_in_spawned_processes

    register()
    register_in_spawned_processes()
    sys.argv[1:] = rest  # runpy writes sys.argv[0]
    if is_module:
        _require_module(program)
        return lambda: runpy.run_module(program, run_name="__main__", alter_sys=True)
    # As Python does itself. Folders and archives are runpy's; the flag safe_path came with Python 3.11.
    if os.path.isfile(program) and not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[0] = os.path.dirname(os.path.realpath(program))
    return lambda: runpy.run_path(os.path.abspath(program), run_name="__main__")


def _require_module(name: str) -> None:
    try:
        spec = None if name.startswith(".") else importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec, name = importlib.util.find_spec(f"{name}.__main__"), f"{name}.__main__"
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module's package was found, and lacks something itself
        spec = None
    except ValueError:  # such as a name with an empty part
        spec = None
    if spec is None:
        raise UserError(
            f"-m {name}: must be a module that can be imported, but there is none. Look at its spelling and PYTHONPATH."
        )


if __name__ == "__main__":
    main(sys.argv[1:])
