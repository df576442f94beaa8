"""Torch files of other programs, read without running any of their code.

fairseq's checkpoints hold more than tensors: configuration as `argparse.Namespace` or omegaconf nodes, dictionaries,
meters. `torch.load(weights_only=True)` refuses these, and a plain `torch.load` would run any code that a file names.
Here an allow-list creates tensors and containers. Known classes of configuration become empty shells that keep their
data and run nothing. Anything else is refused, with its name.
"""

import collections
import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.tensor_files import check_readable


class _Foreign(Exception):
    """A class that no checkpoint of a speech encoder needs."""


class _Function:
    """Wraps a function of torch so that a file can only call it: pickles can set attributes of functions."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_call", function)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Foreign(f"a change of torch's function ({name})")

    def __setstate__(self, state: Any) -> None:
        raise _Foreign("a change of torch's function")


# Classes that are created. torch adds its storages itself, from its own closed list (`torch.storage.StorageType`).
_REAL = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): bytearray,
    ("torch._utils", "_rebuild_tensor_v2"): _Function(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Function(torch._utils._rebuild_parameter),
    ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
    ("torch", "Size"): torch.Size,
    **{("torch", name): getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64", "int64")},
}
# Modules of configuration and bookkeeping, whose objects are read as shells.
_SHELLS = (
    *("argparse", "omegaconf", "fairseq", "examples", "typing", "enum", "numpy", "_codecs", "pathlib", "datetime"),
    *("lightning", "pytorch_lightning", "lightning_fabric"),  # hyper-parameters
    "optimizers",  # former name of s3prl's schedules, which its runner saved with the model
)
# Types in omegaconf's metadata; `long` and `unicode` are names of two of them in older pickles.
_SHELL_BUILTINS = (
    "dict",
    "list",
    "tuple",
    "str",
    "unicode",
    "bytes",
    "int",
    "long",
    "float",
    "bool",
    "object",
    "Ellipsis",
)
_MORE_SHELLS = {("collections", "defaultdict"), ("_operator", "getitem")}  # the second is for `List[int]` in metadata


class _Shell:
    """Replaces an object of another program: keeps its arguments and state, and runs nothing."""

    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Shell":
        shell = super().__new__(cls)
        shell.args, shell.state, shell.items = args, None, {}
        return shell

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[_hashable(key)] = value

    def append(self, value: Any) -> None:
        self.items[len(self.items)] = value

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.append(value)


def _hashable(key: Any) -> str | int:
    return key if isinstance(key, (str, int)) else repr(type(key))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # its name in older pickles
        if (module, name) in _REAL:
            return _REAL[module, name]
        known = module.split(".")[0] in _SHELLS or (module == "builtins" and name in _SHELL_BUILTINS)
        if known or (module, name) in _MORE_SHELLS:
            return type(name, (_Shell,), {"__module__": module})
        raise _Foreign(f"{module}.{name}")


_MODULES = b"torch.nn.modules"
_BEGINNING = 4 << 20  # bytes that are searched


def _holds_modules(path: Path, *, is_zip: bool) -> bool:
    """Whether a pickle names modules of torch, found by searching its bytes."""
    if not is_zip:
        with open(path, "rb") as file:
            return _MODULES in file.read(_BEGINNING)
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return any(_MODULES in archive.open(name).read(_BEGINNING) for name in pickles)


def read_torch_file(path: str | Path) -> dict:
    """Read a torch file of any origin onto the CPU; tensors are mapped from the file, not copied.

    Returns:
        The dict in the file; `plain` converts parts that are configuration to dicts and lists.

    Raises:
        UserError: the file is missing, may not be read, is truncated, is not a torch file or not a dict, or names a
            class that is neither tensor nor known configuration (no code of it has run).
    """
    path = Path(path)
    check_readable(path)
    is_zip = False
    module = SimpleNamespace(
        Unpickler=_Unpickler, load=lambda file, **kw: _Unpickler(file, **kw).load(), __name__="restricted"
    )
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
            raise UserError(f"{path}: is a TorchScript program, not a checkpoint. Save the model's state dict instead.")
        # Safe although weights_only is off: every class goes through _Unpickler.find_class.
        state = torch.load(path, map_location="cpu", pickle_module=module, weights_only=False, mmap=is_zip)
    except _Foreign as error:
        if _holds_modules(path, is_zip=is_zip):
            raise UserError(
                f"{path}: is a whole model, pickled as an object of the program that made it (it asks for {error}), as "
                "users of Torch-Pruning do. Reading it would run that program, so it is refused, and nothing "
                "of it was run. Ask its authors for the state dict and the shape, or for a folder that Hugging Face's "
                "save_pretrained wrote."
            ) from error
        raise UserError(
            f"{path}: asks for {error}, which no checkpoint of a speech encoder needs. Nothing of the file was run. "
            "Do not trust it; if it is your own, save only its state dict and configuration."
        ) from error
    except UserError:
        raise
    except Exception as error:  # a damaged archive or pickle can raise nearly anything
        raise UserError(
            f"{path}: is truncated, or is no torch checkpoint ({path.stat().st_size} bytes). Copy or download it again."
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: must hold a dict, but holds a {type(state).__name__}.")
    return state


def plain(value: Any) -> Any:
    """Configuration as plain data: namespaces and omegaconf nodes become dicts, lists, numbers and strings.

    Raises:
        UserError: it contains itself.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise UserError("a configuration in the file contains itself: it is damaged. Copy it again.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key) if isinstance(key, _Shell) else key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if not isinstance(value, _Shell):
        return value
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:  # (instance dict, slots), as written by copyreg
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, dict):
        if type(value).__module__.startswith("omegaconf"):
            return _plain(state["_content"] if "_content" in state else state.get("_val"))
        return _plain(state)
    if value.items:
        return {key: _plain(item) for key, item in value.items.items()}
    return _plain(value.args[0]) if len(value.args) == 1 else None  # a member of an enum is stored as its value
