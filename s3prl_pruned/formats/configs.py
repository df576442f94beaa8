"""What the formats that describe an encoder in another program's words share in translating them."""

import math
from collections.abc import Mapping
from typing import Any

from s3prl_pruned.config import UserError
from s3prl_pruned.models.spec import EncoderConfig

_RULES = {"wavlm": "chunks", "hubert": "chunks"}
"""Of families whose rule is not `convolution`."""


def family_fields(family: str) -> dict[str, Any]:
    """Fields that a family has and its configuration format does not spell out."""
    wavlm = family == "wavlm"
    return {
        "family": family,
        "padding_rule": _RULES.get(family, "convolution"),
        "relative_position": wavlm,
        "gated_position": wavlm,
    }


def peculiarities(config: EncoderConfig) -> list[str]:
    """The fields by which an encoder differs from all public dense models, so that only formats of ours can say it."""
    plain = EncoderConfig()
    names = ("channel_scale", "projection_norm", "equal_projection", "states", "front_end", "positions", "key_bias")
    return [name for name in (*names, "time_reduction") if getattr(config, name) != getattr(plain, name)]


def check_fixed(cfg: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    """Refuse what this encoder is not.

    Args:
        cfg: another program's configuration.
        fixed: its keys whose other values mean another architecture, with the value that is ours and the default there.
        where: the name of the file in messages.

    Raises:
        UserError: a key has another value.
    """
    for key, value in fixed.items():
        found = cfg.get(key, value)
        both_numbers = isinstance(value, float) and isinstance(found, (int, float))
        same = math.isclose(found, value) if both_numbers else found == value
        if not same and not (found is None and key in ("layer_type", "crop_seq_to_multiple")):
            raise UserError(f"{where}: `{key}` must be {value!r} for this encoder, but is {found!r}.")
