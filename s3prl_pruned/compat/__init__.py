"""The only place with workarounds for s3prl on today's torch, torchaudio, huggingface_hub.

``apply()`` is called by our command lines and by ``s3prl_pruned.register()``, never at import. Each
workaround is one function that checks whether the real thing is missing, applies itself only then, and says why
it exists. None checks a version number; docstrings name the versions where the gap was seen. Seen with Python
3.10 and 3.11, torch 2.6 to 2.15, torchaudio 2.11.0, huggingface_hub 2.4.0, and two hosts (``compat/hosts.py``): s3prl
0.4.18 and espnet-s3prl 2026.5.14.

Two more gaps need no patch: s3prl needs ``tensorboardX`` and, for its ASR, ``pandas`` and
``editdistance`` without declaring them (our setup.cfg does), and ``python -m s3prl.run_pretrain``
finds its modules by working directory (we have our own runner, ``run_pretrain.py``).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
import types
from collections.abc import Callable
from typing import Any

from s3prl_pruned.compat.hosts import Host, host, installed_hosts

__all__ = ["WORKAROUNDS", "Host", "apply", "host", "installed_hosts"]

logger = logging.getLogger(__name__)

OTHER_TORCH = {
    OSError: ("libc10_cuda", "libtorch_cuda", "libcudart", "libcublas", "libcudnn", "aoti_torch_abi_version"),
    RuntimeError: ("compiled with different CUDA versions",),
}
"""Parts of torchaudio's error messages, by type, when it was built for another torch.

Libraries that a CPU torch lacks, a symbol that an older one lacks (seen with 2.6), or its own check of CUDA versions.
"""


def apply() -> list[str]:
    """Apply whatever is missing in this process. Idempotent.

    Returns:
        The names of the workarounds that this call applied, in order; empty the second time.

    Raises:
        UserError: if no s3prl is installed, or two are, one over the other.
    """
    host()
    applied = [name for name, workaround in WORKAROUNDS.items() if workaround()]
    if applied:
        logger.debug("s3prl workarounds applied: %s", ", ".join(applied))
    return applied


def torchaudio_extension() -> bool:
    """Make ``import torchaudio`` work beside a torch that it was not built for.

    The package index's x86-64 wheels of torchaudio 2.9 and newer link CUDA libraries, so that
    beside a CPU torch the import itself fails: ``OSError: Could not load this library`` caused by
    ``libc10_cuda.so: cannot open shared object file``; beside torch 2.15, whose wheels are of CUDA
    13.2, torchaudio 2.11 (13.0) raises ``RuntimeError``; beside torch 2.6 a symbol is undefined.
    The compiled extension only serves RNN-T losses, forced alignment and a faster lfilter; all
    else is Python. It is therefore marked as absent, but only when the import fails for
    this reason. Any other failure is raised.
    """
    if "torchaudio" in sys.modules or importlib.util.find_spec("torchaudio") is None:
        return False
    try:
        importlib.import_module("torchaudio")
        return False
    except (OSError, RuntimeError) as error:
        if not _is_of_other_torch(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]  # the failed import leaves its submodules behind
    extension = types.ModuleType("torchaudio._extension")
    vars(extension).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        fail_if_no_align=lambda function: _Gone("torchaudio's forced alignment"),
    )
    sys.modules["torchaudio._extension"] = extension
    importlib.import_module("torchaudio")
    return True


def set_audio_backend() -> bool:
    """A ``torchaudio.set_audio_backend`` that does nothing.

    Deprecated since torchaudio 2.1, removed in 2.9. s3prl calls it at import
    (``upstream/byol_s/byol_a/common.py``) and at start (``run_downstream.py``) to ask for SoX; which
    library decodes makes no difference to the samples.
    """
    torchaudio = _torchaudio()
    if torchaudio is None or hasattr(torchaudio, "set_audio_backend"):
        return False
    vars(torchaudio)["set_audio_backend"] = lambda backend: None
    return True


def sox_effects() -> bool:
    """A ``torchaudio.sox_effects`` with the effects that s3prl uses (``compat/sox.py``).

    Removed in torchaudio 2.9; s3prl's hub (``mos_prediction``), KS, QbE and SV import it.
    """
    torchaudio = _torchaudio()
    if torchaudio is None or _imports("torchaudio.sox_effects"):
        return False
    from s3prl_pruned.compat import sox

    sys.modules["torchaudio.sox_effects"] = sox
    vars(torchaudio)["sox_effects"] = sox
    return True


def huggingface_names() -> bool:
    """Placeholders for ``huggingface_hub.HfFolder`` and ``Repository`` that raise when used.

    Removed in huggingface_hub 1.0. ``s3prl/downstream/runner.py`` imports both and uses them only to
    push a finished run to the Hugging Face Hub.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        return False
    hub = importlib.import_module("huggingface_hub")
    missing = [name for name in ("HfFolder", "Repository") if not hasattr(hub, name)]
    for name in missing:
        setattr(hub, name, _Gone(f"huggingface_hub.{name}"))
    return bool(missing)


def audio_reading() -> bool:
    """``torchaudio.load`` and ``torchaudio.info`` through soundfile (``compat/audio.py``).

    From torchaudio 2.9 ``load`` needs torchcodec, whose wheels need FFmpeg's or CUDA's libraries, and
    ``info`` is removed. An older torchaudio is not changed if it has a backend that decodes.
    """
    torchaudio = _torchaudio()
    if torchaudio is None:
        return False
    from s3prl_pruned.compat import audio

    missing = []
    if not _decodes(torchaudio) and torchaudio.load is not audio.load:
        missing = ["load", "info"]
    elif not hasattr(torchaudio, "info"):
        missing = ["info"]
    for name in missing:
        setattr(torchaudio, name, getattr(audio, name))
    return bool(missing)


def checkpoint_classes() -> bool:
    """Make ``torch.load`` accept the one class that s3prl's own checkpoints hold.

    Since torch 2.6 ``torch.load`` takes ``weights_only=True`` unless told otherwise, and s3prl's
    downstream checkpoints keep their command line as an ``argparse.Namespace`` (``-e``, ``-i``, resume
    and evaluation read it). That class is allowed by name; every other one is still refused.
    """
    from torch import serialization

    if argparse.Namespace in serialization.get_safe_globals():
        return False
    serialization.add_safe_globals([argparse.Namespace])
    return True


def builtin_isinstance() -> bool:
    """Make s3prl's ``hack_isinstance()`` a no-op, so that it cannot replace ``builtins.isinstance``.

    ``s3prl/utility/helper.py`` swaps the builtin of the whole process for DDP before torch 1.8. With
    it ``isinstance(defaultdict(), dict)`` is False, which breaks code that has nothing to do with s3prl.
    """
    if not _imports("s3prl.utility.helper"):
        return False
    helper = importlib.import_module("s3prl.utility.helper")
    if getattr(helper, "hack_isinstance", _keep_isinstance) is _keep_isinstance:
        return False
    vars(helper)["hack_isinstance"] = _keep_isinstance
    return True


WORKAROUNDS: dict[str, Callable[[], bool]] = {
    "torchaudio_extension": torchaudio_extension,
    "set_audio_backend": set_audio_backend,
    "sox_effects": sox_effects,
    "huggingface_names": huggingface_names,
    "audio_reading": audio_reading,
    "checkpoint_classes": checkpoint_classes,
    "builtin_isinstance": builtin_isinstance,
}
"""In this order: the first repairs an import that the next ones need."""


class _Gone:
    """A placeholder for something that the installed version no longer has; raises when used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{self._name} is not part of the installed version.")

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # attributes that inspection reads of any object
            raise AttributeError(attribute)
        raise RuntimeError(f"{self._name} is not part of the installed version.")


def _keep_isinstance() -> None:
    """Replaces ``s3prl.utility.helper.hack_isinstance``: leaves the builtin alone."""


def _is_of_other_torch(error: BaseException | None) -> bool:
    while error is not None:
        if any(sign in str(error) for kind, signs in OTHER_TORCH.items() if isinstance(error, kind) for sign in signs):
            return True
        error = error.__cause__ or error.__context__
    return False


def _torchaudio() -> types.ModuleType | None:
    if importlib.util.find_spec("torchaudio") is None:
        return None
    return importlib.import_module("torchaudio")


def _decodes(torchaudio: types.ModuleType) -> bool:
    """Whether ``torchaudio.load`` has a library to decode with."""
    if hasattr(torchaudio, "list_audio_backends"):  # torchaudio 2.1 to 2.8
        return bool(torchaudio.list_audio_backends())
    return _imports("torchcodec.decoders")


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):  # a missing library may raise any of the three
        return False
    return True
