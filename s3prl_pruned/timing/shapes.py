"""Named structures of pruned encoders, for timing without a trained model.

Both keep about 28 % of WavLM Base's parameters, as Wang et al. 2023 do (26.57 M), and are the two extremes of pruning:
all layers thinned equally, or whole sublayers removed.
"""

import json
from pathlib import Path

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.models.families import wavlm_base
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec


def even(config: EncoderConfig) -> CompactSpec:
    """All layers alike, with about 1/5 of every dimension.

    In WavLM Base: 12 heads of 13 query/key and 13 value/output dimensions, FFN 614 (26,463,784 parameters).
    """
    dims = config.head_dim // 5 + 1
    layer = LayerSpec(
        attention=True, heads=_heads(config.num_heads, dims), feed_forward=True, ffn=tuple(range(config.ffn_dim // 5))
    )
    return CompactSpec(layers=(layer,) * config.num_layers)


def conc(config: EncoderConfig) -> CompactSpec:
    """Concentrated in the upper layers, as pruning with the straight-through estimator results in.

    In WavLM Base: layers 0-2 empty, 3-5 only an FFN of 128, 6-11 six whole heads and an FFN of 1040 (26,638,516
    parameters).
    """
    quarter, half = config.num_layers // 4, config.num_layers // 2
    empty = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())
    thin = LayerSpec(attention=False, heads=(), feed_forward=True, ffn=tuple(range(config.ffn_dim // 24)))
    wide = LayerSpec(
        attention=True,
        heads=_heads(config.num_heads // 2, config.head_dim),
        feed_forward=True,
        ffn=tuple(range(config.ffn_dim * 65 // 192)),
    )
    return CompactSpec(layers=(empty,) * quarter + (thin,) * (half - quarter) + (wide,) * (config.num_layers - half))


def _heads(count: int, dims: int) -> tuple[HeadSpec, ...]:
    return tuple(HeadSpec(index=i, qk=tuple(range(dims)), vo=tuple(range(dims))) for i in range(count))


STRUCTURES = {"dense": CompactSpec.dense, "even": even, "conc": conc}
SOURCES = dict.fromkeys(("even", "conc"), "no published structure: of Wang et al. 2023's size, which print no shape")
"""Sources of the structures that are no public model."""


def read_structure(path: Path) -> tuple[EncoderConfig, CompactSpec]:
    """Read a structure from JSON: a CompactSpec (of WavLM Base), or an export's `config.json` (`encoder` and `spec`).

    Raises:
        UserError: if the file is unreadable or neither of the two, or its spec does not fit its encoder.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: is no JSON file ({error}). Give a CompactSpec, such as an export's `spec`."
        ) from error
    if not isinstance(data, dict) or not ("layers" in data or {"encoder", "spec"} <= data.keys()):
        raise UserError(
            f"{path}: must hold `layers` (a CompactSpec), or `encoder` and `spec` (an export's config.json)."
        )
    whole = "layers" not in data
    config = from_dict(EncoderConfig, data["encoder"], f"{path}: encoder") if whole else wavlm_base()
    spec = from_dict(CompactSpec, data["spec"] if whole else data, str(path))
    config.validate()
    spec.check(config)
    return config, spec
