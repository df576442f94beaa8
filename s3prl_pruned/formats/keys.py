"""How a checkpoint format names the encoder's weights: one table for each format, used in both directions.

`{i}` stands for a Transformer layer, `{c}` for a layer of the feature extractor, `{p}` for one of data2vec's stacked
positional convolutions. An unknown or missing key stops the load and is named.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import EncoderConfig

OLD_WEIGHT_NORM = ("weight_g", "weight_v")
NEW_WEIGHT_NORM = ("parametrizations.weight.original0", "parametrizations.weight.original1")
State = dict[str, Tensor]
Foreign = dict[str, Any]
"""A state dict as a file holds it; whether its values are tensors is found out."""


@dataclass(frozen=True)
class KeyTable:
    """The names of one format."""

    name: str
    """The format's, in messages."""
    parts: Mapping[str, str | None]
    """Beginnings of our keys -> of theirs, with "." at the end where more follows; None where it has no place."""
    weight_norm: tuple[str, str]
    """Its names of weight normalisation's magnitude and direction; the other pair is read too."""
    heads: tuple[str, ...]
    """Pre-training heads that public checkpoints carry beside the encoder, by name; they are left out."""
    wrappers: tuple[str, ...] = ()
    """Names under which other models wrap the encoder; they are taken off."""
    spell: Callable[[str, EncoderConfig], str] = lambda prefix, config: prefix
    """What the beginning of one of their keys becomes where an encoder of this configuration is an exception."""
    split: Callable[[Foreign], Foreign] = lambda state: state
    """Undoes what the format holds as one tensor and the encoder as several."""
    fuse: Callable[[State], State] = lambda state: state
    """The other way round."""

    def keys(self, config: EncoderConfig) -> dict[str, str]:
        """Their key -> our key, for every parameter of a dense encoder of this configuration that the format holds.

        Raises:
            UserError: the format has no place for a part of this architecture.
        """
        with torch.device("meta"):
            ours = list(SpeechEncoder(config).state_dict())  # in its order, and so files are the same every time
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
        if nameless := left_out - {"mask_embedding"}:  # pre-training alone uses that one
            raise UserError(
                f"the {self.name} format has no name for {min(nameless)!r}: it cannot hold this {config.family} "
                "encoder."
            )
        assert set(table.values()) | left_out == set(ours), set(ours) - set(table.values())
        return table

    def to_ours(
        self, state: Mapping[Any, Any], config: EncoderConfig, where: str, *, mask_embedding: bool = True
    ) -> State:
        """Rename a foreign state dict; nothing else changes but the shape of the gate's scale.

        Args:
            state: theirs, fp32 or lower.
            config: what it declares itself to be.
            where: its name in messages.
            mask_embedding: False where the checkpoint says that it has none, or its format has none: zeros then.

        Raises:
            UserError: a key is unknown, missing or of another shape; the message names it.
        """
        table = self.keys(config)
        found = self._normalise_names(state, where)
        found = {k: v for k, v in found.items() if k in table or not k.startswith(self.heads)}
        with torch.device("meta"):
            expected = SpeechEncoder(config).state_dict()
        ours: State = {}
        if "mask_embedding" not in table.values() or not mask_embedding:
            table = {theirs: mine for theirs, mine in table.items() if mine != "mask_embedding"}
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
        """The other way round: our dense state dict under their names and in their shapes."""
        theirs = {key: state[mine] for key, mine in self.keys(config).items()}
        return self.fuse({k: v.view(1, -1, 1, 1) if _is_gate_scale(k) else v for k, v in theirs.items()})

    def _normalise_names(self, state: Mapping[Any, Any], where: str) -> Foreign:
        """Weight norm under the format's own names, no wrapper's prefix, no fused tensors."""
        pairs = {
            *zip(OLD_WEIGHT_NORM, self.weight_norm, strict=True),
            *zip(NEW_WEIGHT_NORM, self.weight_norm, strict=True),
        }
        renamed: Foreign = {}
        for key, value in state.items():
            if not isinstance(key, str):
                raise UserError(f"{where}: has the key {key!r}, but names of weights are texts.")
            for found, wanted in pairs:
                if "pos_conv" in key and key.endswith(f".{found}"):
                    key = key[: -len(found)] + wanted
            wrapper = next((prefix for prefix in self.wrappers if key.startswith(prefix)), "")
            key = key[len(wrapper) :]
            if key in renamed:
                raise UserError(f"{where}: holds `{key}` twice, under an old and a new name. Keep one.")
            renamed[key] = value
        return self.split(renamed)


def _indices(template: str, config: EncoderConfig) -> list[dict[str, int]]:
    for letter, count in (("c", len(config.conv_layers)), ("i", config.num_layers), ("p", config.pos_conv_depth)):
        if f"{{{letter}}}" in template:
            return [{letter: n} for n in range(count)]
    return [{}]


def _is_gate_scale(key: str) -> bool:
    """All public formats hold the gate's scale as (1, H, 1, 1)."""
    return key.endswith(("grep_a", "gru_rel_pos_const"))
