"""Common parts of formats that describe an encoder by another program's configuration."""

import math
from collections.abc import Mapping
from typing import Any

from s3prl_pruned.config import UserError
from s3prl_pruned.models.shape import EncoderConfig

_RULES = {"wavlm": "chunks", "hubert": "chunks"}
"""Rules for families whose rule is not `convolution`."""


def family_fields(family: str) -> dict[str, Any]:
    """Fields of a family that are implied by its configuration format."""
    wavlm = family == "wavlm"
    return {
        "family": family,
        "padding_rule": _RULES.get(family, "convolution"),
        "relative_position": wavlm,
        "gated_position": wavlm,
    }


def peculiarities(config: EncoderConfig) -> list[str]:
    """Fields in which an encoder differs from all public dense models, so that only our own formats can express it."""
    plain = EncoderConfig()
    names = (
        *("channel_scale", "projection_norm", "equal_projection", "states", "front_end", "positions", "key_bias"),
        "time_reduction",
    )
    return [name for name in names if getattr(config, name) != getattr(plain, name)]


def check_fixed(cfg: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    """Refuse configurations of other architectures.

    Args:
        cfg: another program's configuration.
        fixed: keys for which other values mean another architecture, with our value and the default of that program.
        where: name of the file in messages.

    Raises:
        UserError: a key has another value.
    """
    for key, value in fixed.items():
        found = cfg.get(key, value)
        both_numbers = isinstance(value, float) and isinstance(found, (int, float))
        same = math.isclose(found, value) if both_numbers else found == value
        if not same and not (found is None and key in ("layer_type", "crop_seq_to_multiple")):
            raise UserError(f"{where}: `{key}` must be {value!r} for this encoder, but is {found!r}.")
