"""Make s3prl know our upstreams. Called by our command lines, or once by the user; never at import."""

import functools
from multiprocessing import spawn
from typing import Any

from s3prl_pruned.models.spec import FAMILIES

NAMES = (
    *(f"{family}_pruned{kind}" for family in FAMILIES for kind in ("", "_local", "_url")),
    "wavlm_embedded",
    "wavlm_random",
)


def register() -> None:
    """Add our hub entries to `s3prl.hub`, after making s3prl importable on today's torch (`compat.apply`).

    Then `s3prl.nn.S3PRLUpstream("wavlm_pruned")` and s3prl's own runners know them. Calling it twice is harmless.

    Raises:
        UserError: if no s3prl is installed, or two of them over one another.
    """
    from s3prl_pruned import compat

    compat.apply()
    import s3prl.hub

    from s3prl_pruned.upstream import hubconf

    for name in NAMES:
        setattr(s3prl.hub, name, getattr(hubconf, name))


def register_in_spawned_processes() -> None:
    """Let every process that this one starts by multiprocessing's `spawn` or `forkserver` call `register()` first.

    Such a process begins as a new interpreter, in which neither our entries nor the workarounds are. ESPnet trains so
    on several GPUs of one machine.
    """
    theirs = spawn.get_preparation_data
    if hasattr(theirs, "__wrapped__"):
        return

    @functools.wraps(theirs)
    def get_preparation_data(name: str) -> dict[str, Any]:
        return {"s3prl_pruned": _Registration(), **theirs(name)}

    spawn.get_preparation_data = get_preparation_data


class _Registration:
    """Registers where it is unpickled.

    A new process reads its preparation data before all else, and passes over keys that it does not know.
    """

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _begin_in_spawned_process, ()


def _begin_in_spawned_process() -> None:
    register()
    register_in_spawned_processes()
