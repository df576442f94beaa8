"""Files of a task's head beside an exported encoder: weights in safetensors, and settings in JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError

Head = TypeVar("Head", bound=nn.Module)


def names_of(name: str) -> tuple[str, str]:
    """Names of the files of the head `name`: weights and settings."""
    return f"{name}.safetensors", f"{name}.json"


def written_head(name: str, weights: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, bytes]:
    """Content of the files of a head, by file name.

    Args:
        name: of the head, such as `speaker_head`.
        weights: its state dict.
        settings: plain data, from which `read_head` makes the head.
    """
    data = safetensors.torch.save({key: tensor.contiguous() for key, tensor in weights.items()})
    return dict(zip(names_of(name), (data, (json.dumps(settings) + "\n").encode()), strict=True))


def read_head(folder: Path, name: str, make: Callable[[Any], Head], *, what: str, objective: str) -> tuple[Head, Any]:
    """A head with its weights, on the CPU and in evaluation mode, and its settings.

    Args:
        folder: an export.
        name: of the head.
        make: makes the head from the settings, which may be damaged.
        what: the head in words, for the message.
        objective: task of the run that writes such heads, for the message.

    Raises:
        UserError: there is no such head, or it is damaged; or as `make`.
    """
    weights, settings = names_of(name)
    try:
        data = json.loads((folder / settings).read_text(encoding="utf-8"))
        head = make(data)
        head.load_state_dict(safetensors.torch.load_file(folder / weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{folder}: holds no matching {what} ({error}). -u <family>_pruned_{objective} writes {weights} and "
            f"{settings} beside the encoder; copy the folder again."
        ) from error
    return head.eval(), data
