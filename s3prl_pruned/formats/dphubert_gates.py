"""Cut the gates of a DPHuBERT or DiariZen student in training, with the same rule as their own programs."""

from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.configs import check_fixed
from s3prl_pruned.formats.dphubert_structure import CONV, LAYER, MARK
from s3prl_pruned.gates.hard_concrete import BETA, GAMMA, ZETA, rounded_masks

END = ".log_alpha"
_FIXED = {"limit_l": GAMMA, "limit_r": ZETA, "temperature": BETA, "use_layerwise_prune": False}


_STAYS = {
    *("extractor_mode", "encoder_head_dim", "encoder_layer_norm_first", "normalize_waveform", "encoder_max_distance"),
    *("encoder_total_num_heads", *_FIXED),
}
"""Keys of a configuration that do not change when gates are cut."""


class _Cutter:
    """Edits a state dict that has the encoder's own names.

    Args:
        state: changed in place.
        where: name of the file in messages.
    """

    def __init__(self, state: dict[str, Any], where: str):
        self.state, self.where = state, where

    def mask(self, name: str, size: int) -> Tensor | None:
        """Remove a gate from the state and return its mask (n,); None if there is no such gate.

        Args:
            name: name of the gate.
            size: required number of elements.
        """
        log_alpha = self.state.pop(name + END, None)
        if log_alpha is None:
            return None
        if not isinstance(log_alpha, Tensor) or log_alpha.numel() != size:
            raise UserError(f"{self.where}: `{name}{END}` must be {size} numbers, one for each gated unit.")
        return rounded_masks(log_alpha.detach().float().flatten())

    def rows(self, module: str, kept: Tensor) -> None:
        """Keep some outputs of a module, or some elements of a norm."""
        for name in (f"{module}.weight", f"{module}.bias"):
            if name in self.state:
                self.state[name] = self.tensor(name)[kept]

    def columns(self, module: str, z: Tensor, kept: Tensor) -> None:
        """Scale the inputs of a module, and keep some of them."""
        weight = self.tensor(f"{module}.weight")
        if weight.dim() < 2 or weight.shape[1] != z.numel():
            raise UserError(
                f"{self.where}: `{module}.weight` must have {z.numel()} inputs, one per gated unit, but has "
                f"shape {tuple(weight.shape)}. Copy it again."
            )
        z = z.to(weight.dtype).view(1, -1, *[1] * (weight.dim() - 2))
        self.state[f"{module}.weight"] = (weight * z)[:, kept]

    def scaled(self, module: str, z: Tensor) -> None:
        """Scale the outputs of a module, including its bias."""
        for name in (f"{module}.weight", f"{module}.bias"):
            self.state[name] = self.tensor(name) * z

    def tensor(self, name: str) -> Tensor:
        """A tensor of the state, by name."""
        value = self.state.get(name)
        if not isinstance(value, Tensor) or not value.dim():
            raise UserError(f"{self.where}: lacks the tensor `{name}`. Copy it again.")
        return value.detach()

    def take_away(self, part: str) -> None:
        """Remove all tensors whose names begin with `part`."""
        for name in [name for name in self.state if name.startswith(part)]:
            del self.state[name]

    def cut_cnn(self) -> None:
        """Fold the mask of a channel into the next layer; for the last convolution, into the scale before the norm."""
        count = sum(name.endswith(".conv.weight") and name.startswith("feature_extractor.") for name in self.state)
        for c in range(count):
            layer, reader = CONV.format(c=c), CONV.format(c=c + 1)
            z = self.mask(f"{layer}hard_concrete", len(self.tensor(f"{layer}conv.weight")))
            if z is None:
                continue
            kept = z.nonzero().flatten()
            if not len(kept):
                raise UserError(f"{self.where}: its gates leave no channel of convolution {c}, but one must be kept.")
            self.rows(f"{layer}conv", kept)
            self.rows(f"{layer}layer_norm", kept)
            if c + 1 < count:
                self.columns(f"{reader}conv", z, kept)
            else:
                scale = self.tensor(MARK)
                if scale.shape != z.shape:
                    raise UserError(
                        f"{self.where}: `{MARK}` must have {z.numel()} numbers, one for each channel, but has shape "
                        f"{tuple(scale.shape)}. Copy it again."
                    )
                self.state[MARK] = (scale * z)[kept]
                self.rows("encoder.feature_projection.layer_norm", kept)
                self.columns("encoder.feature_projection.projection", torch.ones_like(z), kept)

    def cut_attention(self, i: int) -> list[int]:
        """Cut the attention of layer `i`; returns the kept heads."""
        part = LAYER.format(i=i) + "attention."
        heads = self.state.get(f"{part}hard_concrete_for_heads{END}")
        number = heads.numel() if isinstance(heads, Tensor) else 1
        whole = self.mask(f"{part}hard_concrete_for_layer", 1)
        z = self.mask(f"{part}hard_concrete_for_heads", number)
        if (whole is not None and not whole.any()) or (z is not None and not z.any()):
            self.take_away(part)
            return []
        if whole is not None:
            self.scaled(f"{part}out_proj", whole)
        if z is None:
            return []
        dims = len(self.tensor(f"{part}q_proj.weight"))
        if dims % number:
            raise UserError(f"{self.where}: layer {i} has gates of {number} heads, but {dims} dimensions of them.")
        of_dims = z.repeat_interleave(dims // number)
        kept = of_dims.nonzero().flatten()
        for name in ("q_proj", "k_proj", "v_proj"):
            self.rows(part + name, kept)
        self.columns(f"{part}out_proj", of_dims, kept)
        return z.nonzero().flatten().tolist()

    def cut_feed_forward(self, i: int) -> None:
        """Cut the feed-forward of layer `i`."""
        part = LAYER.format(i=i) + "feed_forward."
        whole = self.mask(f"{part}hard_concrete_for_layer", 1)
        gate = f"{part}hard_concrete_for_intermediate"
        z = None
        if gate + END in self.state:
            z = self.mask(gate, len(self.tensor(f"{part}intermediate_dense.weight")))
        if (whole is not None and not whole.any()) or (z is not None and not z.any()):
            self.take_away(part)
            return
        if whole is not None:
            self.scaled(f"{part}output_dense", whole)
        if z is not None:
            kept = z.nonzero().flatten()
            self.rows(f"{part}intermediate_dense", kept)
            self.columns(f"{part}output_dense", z, kept)


def has_gates(state: dict[str, Any]) -> bool:
    """Whether it is the state of a student in training."""
    return any(".hard_concrete" in name and name.endswith(END) for name in state)


def cut_gates(state: dict[str, Any], cfg: dict[str, Any], where: str) -> dict[str, Any]:
    """Turn gates into masks, fold these into the weights, and remove what they close: `state` is changed.

    As in DPHuBERT's `prune.py`, the expected number of units of each gate is kept, those with the largest masks.

    Args:
        state: with the encoder's own names.
        cfg: configuration of the encoder; may be empty.
        where: name of the file in messages.

    Returns:
        Configuration of the smaller encoder.

    Raises:
        UserError: a gate is damaged, has another distribution, or keeps no channel of a convolution.
    """
    check_fixed(cfg, _FIXED, where)
    cutter, heads = _Cutter(state, where), []
    left = {name: value for name, value in cfg.items() if name in _STAYS}
    wavlm = "encoder_remaining_heads" in cfg or any(name.endswith("gru_rel_pos_const") for name in state)
    gated = any(f"hard_concrete_for_heads{END}" in name for name in state)
    cutter.cut_cnn()
    if whole := cfg.get("extractor_conv_layer_config"):
        channels = [len(cutter.tensor(f"{CONV.format(c=c)}conv.weight")) for c in range(len(whole))]
        left["extractor_conv_layer_config"] = [[n, *layer[1:]] for n, layer in zip(channels, whole, strict=True)]
    numbers = {int(name.split(".")[3]) for name in state if name.startswith("encoder.transformer.layers.")}
    for i in sorted(numbers):
        heads.append(cutter.cut_attention(i))
        cutter.cut_feed_forward(i)
    return {**left, "encoder_remaining_heads": heads} if wavlm and gated else left
