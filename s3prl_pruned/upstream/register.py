"""Register our upstreams with s3prl: done by our command lines, or once by the user, but never at import."""

import functools
from multiprocessing import spawn
from typing import Any

from s3prl_pruned.models.shape import FAMILIES

NAMES = (
    *(f"{family}_pruned{kind}" for family in FAMILIES for kind in ("", "_local", "_url")),
    "wavlm_embedded",
    "wavlm_random",
)


def register() -> None:
    """Add our hub entries to `s3prl.hub`, after making s3prl importable with current torch (`compat.apply`).

    After that, `s3prl.nn.S3PRLUpstream("wavlm_pruned")` and s3prl's runners know them. Calling it twice is harmless.

    Raises:
        UserError: s3prl is not installed, or two versions of it are installed over each other.
    """
    from s3prl_pruned import compat

    compat.apply()
    import s3prl.hub

    from s3prl_pruned.upstream import hubconf

    for name in NAMES:
        setattr(s3prl.hub, name, getattr(hubconf, name))


def register_in_spawned_processes() -> None:
    """Call `register()` first in every process that this one starts with multiprocessing's `spawn` or `forkserver`.

    Such a process starts as a new interpreter, without our entries and workarounds. ESPnet uses such processes to train
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
    """Calls `register()` when it is unpickled.

    A new process reads its preparation data before everything else, and ignores keys that it does not know.
    """

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _begin_in_spawned_process, ()


def _begin_in_spawned_process() -> None:
    register()
    register_in_spawned_processes()
