"""Names of the encoder's weights in a checkpoint format: one table per format, used in both directions.

`{i}` is the number of a Transformer layer, `{c}` of a layer of the feature extractor, `{p}` of one of data2vec's
stacked positional convolutions. An unknown or missing key stops loading, and is named. Prefixes that other modules put
before the encoder's names (`module.`, `model.wav2vec2.`) are found in the file (`unwrapped`), not listed here.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.configs import peculiarities
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec

logger = logging.getLogger(__name__)

FIRST_KERNEL = "feature_extractor.layers.0.conv.weight"
"""One of our names with an ending that no other part of a model has."""
OLD_WEIGHT_NORM = ("weight_g", "weight_v")
NEW_WEIGHT_NORM = ("parametrizations.weight.original0", "parametrizations.weight.original1")
State = dict[str, Tensor]
Foreign = dict[str, Any]
"""A state dict from a file, whose values are not checked to be tensors yet."""
_OF_TORCH = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts that torch.compile, FSDP and activation checkpointing insert into names of modules, at any place."""
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|teacher)(_model)?([._]|$)")
"""Names of copies of a model that are moving averages of it."""


@dataclass(frozen=True)
class KeyTable:
    """Names of one format."""

    name: str
    """Name of the format in messages."""
    parts: Mapping[str, str | None]
    """Prefixes of our keys -> of the format's keys, ending in "." if more follows; None if it has no such key."""
    weight_norm: tuple[str, str]
    """The format's names for magnitude and direction of weight normalisation; the other pair of names is read too."""
    heads: tuple[str, ...]
    """Names of pre-training heads in public checkpoints; they are left out."""
    task_heads: tuple[str, ...] = ()
    """Names of heads of fine-tuned models beside the encoder's keys; they are left out with a warning."""
    spell: Callable[[str, EncoderConfig], str] = lambda prefix, config: prefix
    """Changes the format's prefix of a key, for configurations that are exceptions."""
    split: Callable[[Foreign], Foreign] = lambda state: state
    """Splits tensors that the format fuses."""
    fuse: Callable[[State], State] = lambda state: state
    """Fuses them again."""

    def keys(self, config: EncoderConfig, spec: CompactSpec | None = None) -> dict[str, str]:
        """The format's key -> our key, for every parameter of an encoder of this configuration that the format holds.

        Args:
            config: the dense shape.
            spec: the kept structure; None for a dense encoder.

        Raises:
            UserError: the format has no key for a part of this architecture.
        """
        with torch.device("meta"):
            ours = list(SpeechEncoder(config, spec).state_dict())  # in this order, so that files are reproducible
        table: dict[str, str] = {}
        left_out: set[str] = set()
        for mine, theirs in self.parts.items():
            for index in _indices(mine, config):
                prefix = mine.format(**index)
                for key in ours:
                    if key != prefix and not (prefix.endswith(".") and key.startswith(prefix)):
                        continue
                    if theirs is None:
                        left_out.add(key)
                    else:
                        rest = dict(zip(NEW_WEIGHT_NORM, self.weight_norm, strict=True))
                        end = key[len(prefix) :]
                        table[self.spell(theirs.format(**index), config) + rest.get(end, end)] = key
        left_out |= {key for key in ours if key.startswith("state_heads.")} - set(table.values())
        if nameless := left_out - {"mask_embedding"}:  # which is used in pre-training only
            raise UserError(
                f"the {self.name} format has no name for {min(nameless)!r}: it cannot hold this {config.family} "
                "encoder."
            )
        assert set(table.values()) | left_out == set(ours), set(ours) - set(table.values())
        return table

    def to_ours(
        self,
        state: Mapping[Any, Any],
        config: EncoderConfig,
        where: str,
        *,
        spec: CompactSpec | None = None,
        mask_embedding: bool = True,
    ) -> State:
        """Rename the keys of a state dict of this format; values only change in the shape of the gate's scale.

        Args:
            state: with the format's keys, in fp32 or lower precision.
            config: its declared configuration.
            where: name of the file in messages.
            spec: the kept structure; None for a dense encoder.
            mask_embedding: False if the checkpoint declares that it has none. It is then set to zeros, as if it were
                missing (only masked pre-training uses it).

        Raises:
            UserError: a key is unknown, missing or of another shape; the message names it.
        """
        table = self.keys(config, spec)
        one = next(theirs for theirs, mine in table.items() if mine == FIRST_KERNEL)
        found = self._normalise_names(unwrapped(state, one, where, self.heads), where)
        if left_out := {k.split(".")[0] for k in found.keys() - table.keys() if k.startswith(self.task_heads)}:
            say_left_out(left_out, where)
        heads = (*self.heads, *self.task_heads)
        found = {k: v for k, v in found.items() if k in table or not k.startswith(heads)}
        with torch.device("meta"):
            expected = SpeechEncoder(config, spec).state_dict()
        ours: State = {}
        its_mask = next((theirs for theirs, mine in table.items() if mine == "mask_embedding"), None)
        if its_mask not in found or not mask_embedding:
            table = {theirs: mine for theirs, mine in table.items() if theirs != its_mask}
            ours["mask_embedding"] = torch.zeros(config.embed_dim)
        unknown, missing = sorted(found.keys() - table.keys()), sorted(table.keys() - found.keys())
        if unknown or missing:
            raise UserError(
                f"{where}: not a {config.family} checkpoint in the {self.name} format with these dimensions: "
                f"unknown keys {unknown[:3]} ({len(unknown)} in all), missing keys {missing[:3]} ({len(missing)} in "
                "all)."
            )
        for theirs, mine in table.items():
            value = found[theirs]
            if not isinstance(value, Tensor):
                raise UserError(f"{where}: `{theirs}` must be a tensor, but is a {type(value).__name__}.")
            value = value.flatten() if mine.endswith("gate.scale") else value
            if value.shape != expected[mine].shape:
                raise UserError(
                    f"{where}: `{theirs}` must have shape {tuple(expected[mine].shape)}, but has {tuple(value.shape)}."
                )
            ours[mine] = value
        return ours

    def to_theirs(self, state: State, config: EncoderConfig) -> State:
        """Convert our dense state dict to the keys and shapes of the format.

        Raises:
            UserError: the format has no key for a part of this architecture, or cannot express it.
        """
        if unsaid := peculiarities(config):
            raise UserError(
                f"the {self.name} format cannot hold this encoder's {', '.join(f'`{name}`' for name in unsaid)}. "
                "Write a folder (this project's, or Hugging Face's with its code) or ONNX."
            )
        theirs = {key: state[mine] for key, mine in self.keys(config).items()}
        return self.fuse({k: v.view(1, -1, 1, 1) if _is_gate_scale(k) else v for k, v in theirs.items()})

    def _normalise_names(self, state: Foreign, where: str) -> Foreign:
        """Rename weight normalisation to the format's names, and split fused tensors."""
        pairs = {
            *zip(OLD_WEIGHT_NORM, self.weight_norm, strict=True),
            *zip(NEW_WEIGHT_NORM, self.weight_norm, strict=True),
        }
        renamed: Foreign = {}
        for key, value in state.items():
            for found, wanted in pairs:
                if "pos_conv" in key and key.endswith(f".{found}"):
                    key = key[: -len(found)] + wanted
            if key in renamed:
                raise UserError(f"{where}: holds `{key}` twice, under an old and a new name. Keep one.")
            renamed[key] = value
        return self.split(renamed)


def unwrapped(state: Mapping[Any, Any], one: str, where: str, silent: tuple[str, ...] = ()) -> Foreign:
    """The encoder's part of a state dict, without prefixes of surrounding modules.

    Args:
        state: state dict of an encoder, or of a model that contains one.
        one: an unmistakable name of the encoder; its prefix in `state` is removed from all keys, and keys with another
            prefix do not belong to the encoder.
        where: name of the file in messages.
        silent: prefixes of keys that are left out without a warning.

    Raises:
        UserError: a key is not a str, or there are two encoders and none is called a moving average.
    """
    for key in state:
        if not isinstance(key, str):
            raise UserError(f"{where}: has the key {key!r}, but names of weights must be strings.")
    plain = {_OF_TORCH.sub("", key): value for key, value in state.items()}
    found = sorted(key[: -len(one)] for key in plain if f".{key}".endswith(f".{one}"))
    prefixes = [prefix for prefix in found if not _AVERAGE.search(prefix)] or found
    if len(prefixes) > 1:
        raise UserError(f"{where}: holds several encoders, under {prefixes[:4]}. Save only one of them.")
    prefix = prefixes[0] if prefixes else ""
    others = {key for key in plain if not key.startswith(prefix)}
    others |= {key for key in plain for other in found if other != prefix and key.startswith(other)}
    if left_out := {key.split(".")[0] for key in others if not key.startswith(silent)}:
        say_left_out(left_out, where)
    return {key[len(prefix) :]: value for key, value in plain.items() if key not in others}


def say_left_out(names: set[str], where: str) -> None:
    """Warn that only the encoder of a model is read.

    Args:
        names: other parts of the model.
        where: name of the file.
    """
    logger.warning("%s: only the encoder is read; left out: %s.", where, ", ".join(sorted(names)))


def weights_of(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """State dict in a torch file: the file itself, or an entry of a checkpoint of Lightning or another trainer."""
    for name in ("state_dict", "model_state_dict"):
        if isinstance(content.get(name), Mapping):
            return content[name]
    return content


def _indices(template: str, config: EncoderConfig) -> list[dict[str, int]]:
    for letter, count in (("c", len(config.conv_layers)), ("i", config.num_layers), ("p", config.pos_conv_depth)):
        if f"{{{letter}}}" in template:
            return [{letter: n} for n in range(count)]
    return [{}]


def _is_gate_scale(key: str) -> bool:
    """Whether a key is the gate's scale, which all public formats hold as (1, H, 1, 1)."""
    return key.endswith(("grep_a", "gru_rel_pos_const"))
