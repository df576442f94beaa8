"""Slice an encoder by a spec: the same weights, physically smaller."""

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, LayerSpec


def compact(encoder: SpeechEncoder, spec: CompactSpec) -> SpeechEncoder:
    """A new encoder that holds only what `spec` keeps.

    Args:
        encoder: dense, or already compact; masks in its slots are not looked at.
        spec: by original index.

    Raises:
        UserError: `spec` keeps what `encoder` does not have (any more).
    """
    small = SpeechEncoder(encoder.config, spec).to(next(encoder.parameters()))
    state = encoder.state_dict()
    for i, (old, new) in enumerate(zip(encoder.spec.layers, spec.layers, strict=True)):
        if (new.attention and not old.attention) or (new.feed_forward and not old.feed_forward):
            raise UserError(f"layer {i} of the spec keeps a sublayer that the encoder does not have.")
        state.update(_slice_layer(state, f"layers.{i}.", old, new))
    names = small.state_dict().keys()
    small.load_state_dict({name: state[name] for name in names})
    return small.train(encoder.training)


def _slice_layer(state: dict[str, Tensor], prefix: str, old: LayerSpec, new: LayerSpec) -> dict[str, Tensor]:
    sliced = {}
    if new.attention:
        qk = _positions([(h.index, d) for h in old.heads for d in h.qk], [(h.index, d) for h in new.heads for d in h.qk])
        vo = _positions([(h.index, d) for h in old.heads for d in h.vo], [(h.index, d) for h in new.heads for d in h.vo])
        attention = prefix + "attention."
        for name, rows in (("q_proj", qk), ("k_proj", qk), ("v_proj", vo)):
            for part in ("weight", "bias"):
                sliced[f"{attention}{name}.{part}"] = state[f"{attention}{name}.{part}"][rows]
        sliced[attention + "out_proj.weight"] = state[attention + "out_proj.weight"][:, vo]
        if attention + "gate.scale" in state:
            heads = _positions([h.index for h in old.heads], [h.index for h in new.heads])
            sliced[attention + "gate.scale"] = state[attention + "gate.scale"][heads]
    if new.feed_forward:
        dims, feed_forward = _positions(old.ffn, new.ffn), prefix + "feed_forward."
        for part in ("weight", "bias"):
            sliced[f"{feed_forward}fc1.{part}"] = state[f"{feed_forward}fc1.{part}"][dims]
        sliced[feed_forward + "fc2.weight"] = state[feed_forward + "fc2.weight"][:, dims]
    return sliced


def _positions(old: list | tuple, new: list | tuple) -> Tensor:
    """Where each entry of `new` stands in `old`."""
    where = {entry: i for i, entry in enumerate(old)}
    gone = [entry for entry in new if entry not in where]
    if gone:
        raise UserError(f"the spec keeps {gone[:3]} ({len(gone)} in all) that the encoder does not have.")
    return torch.tensor([where[entry] for entry in new], dtype=torch.long)
