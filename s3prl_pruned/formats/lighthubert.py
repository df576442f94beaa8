"""LightHuBERT (Wang et al. 2022): weights of a supernet, from which a subnet is taken.

As in s3prl's expert (`upstream/lighthubert/` there): from a pruner's checkpoint the subnet of the search space that its
file names, from a first-stage checkpoint the whole supernet.
"""

import logging
import re
from dataclasses import asdict, dataclass, replace
from math import ceil

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import fairseq
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, dense_model, taken_apart
from s3prl_pruned.formats.keys import State
from s3prl_pruned.models.components import weight_norm
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.state_rule import StateRule

logger = logging.getLogger(__name__)

_KEYS = replace(fairseq.KEYS, name="LightHuBERT", heads=(*fairseq.KEYS.heads, "layer_pred_heads."))
_STATES = StateRule(first="projection", final_norm=False)
_DIRECTION, _MAGNITUDE = (f"positional_convolution.conv.parametrizations.weight.original{n}" for n in (1, 0))


@dataclass(frozen=True)
class _Subnet:
    """Widths of a subnet, the same in every layer."""

    embed_dim: int
    num_heads: int
    ffn_dim: int

    def __str__(self) -> str:
        return f"{self.embed_dim}/{self.num_heads}/{self.ffn_dim}"


_NAMED = {"small": _Subnet(384, 6, 1536), "base": _Subnet(640, 10, 2560)}
"""The published subnets."""


def _recognise(source: Source) -> bool:
    return fairseq.model_name(source) in fairseq.SUPERNETS


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    where, words, state = str(source.path), fairseq.declared(source)["model"], source.content["model"]
    if not isinstance(state, dict):
        raise UserError(f"{where}: `model` must be a dict, but is a {type(state).__name__}.")
    with taken_apart(source.path):
        supernet = fairseq.from_cfg({**words, "_name": "hubert"}, {"normalize": True}, where)
        weights = _KEYS.to_ours(state, supernet, where)
        subnet, why = _choose(words, supernet, options.subnet, where)
        square = supernet.has_projection and subnet.embed_dim == supernet.conv_layers[-1][0]
        config = replace(supernet, **asdict(subnet), equal_projection=square, states=_STATES)
        if config != replace(supernet, states=_STATES):
            _check_within(subnet, supernet, where)
            weights = _sliced(weights, supernet, subnet)
    logger.warning("%s: the subnet %s of its supernet is read, %s.", source.path, subnet, why)
    loaded = dense_model(source, config, weights)
    loaded.provenance["subnet"] = {**asdict(subnet), "chosen": why}
    return loaded


def _choose(words: dict, supernet: EncoderConfig, wanted: str | None, where: str) -> tuple[_Subnet, str]:
    """The subnet, and the reason for choosing it in words.

    Raises:
        UserError: the file names no known subnet and none is requested, or the requested one does not exist.
    """
    whole = _Subnet(supernet.embed_dim, supernet.num_heads, supernet.ffn_dim)
    if wanted is not None:
        found = {**_NAMED, "whole": whole}.get(wanted) or _parsed(wanted)
        if found is None:
            raise UserError(
                f"`subnet` must be one of {[*_NAMED, 'whole']}, or widths such as 384/6/1536 (embedding, heads, "
                f"feed-forward), but is {wanted!r}."
            )
        return found, "as requested"
    if words["_name"] == "student_hubert":
        return whole, "the whole supernet, as for every first stage"
    search_space = str(words.get("pruner_supernet"))
    for name, subnet in _NAMED.items():
        if search_space.lower().endswith(f"{name}.yaml"):
            return subnet, f"the {name} one, because the file names its search space"
    raise UserError(
        f"{where}: is a supernet that holds many models, and does not say which to use: `pruner_supernet` must end in "
        f"{' or '.join(f'{name}.yaml' for name in _NAMED)}, but is {search_space!r}. Extract one first: "
        "tools/convert_checkpoint.py <this file> <folder> --to folder --subnet small, base, whole, or widths such as "
        "384/6/1536 (embedding, heads, feed-forward)."
    )


def _parsed(text: str) -> _Subnet | None:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})/(\d{1,6})", text)
    return _Subnet(*map(int, match.groups())) if match else None


def _check_within(subnet: _Subnet, supernet: EncoderConfig, where: str) -> None:
    most = supernet.ffn_dim // supernet.embed_dim  # blocks of the feed-forward, each as wide as the embedding
    fits = (
        0 < subnet.embed_dim == subnet.num_heads * supernet.head_dim <= supernet.embed_dim
        and 0 < subnet.ffn_dim <= most * subnet.embed_dim
    )
    if not fits:
        raise UserError(
            f"{where}: has no subnet {subnet}: the embedding must be heads of {supernet.head_dim} and at most "
            f"{supernet.embed_dim}, the feed-forward at most {most} times as wide as the embedding."
        )
    if subnet.embed_dim != supernet.embed_dim and not supernet.has_projection:
        raise UserError(f"{where}: has no projection, and so no narrower subnet than its own {supernet.embed_dim}.")


def _sliced(weights: State, supernet: EncoderConfig, subnet: _Subnet) -> State:
    """Weights of a subnet: the first dimensions and heads, and in the feed-forward the first ones of every block."""
    dim, wide = subnet.embed_dim, supernet.embed_dim
    blocks = ceil(subnet.ffn_dim / dim)
    inner = torch.cat([torch.arange(i * wide, i * wide + min(dim, subnet.ffn_dim - i * dim)) for i in range(blocks)])
    taken = {name: _narrowed(name, value, dim, inner) for name, value in weights.items()}
    weight = weight_norm(weights[_DIRECTION].double(), weights[_MAGNITUDE].double())
    weight = weight[:dim, : dim // supernet.pos_conv_groups]
    taken[_DIRECTION], taken[_MAGNITUDE] = weight.float(), torch.norm_except_dim(weight, 2, 2).float()
    return {name: value.contiguous() for name, value in taken.items()}


def _narrowed(name: str, value: Tensor, dim: int, inner: Tensor) -> Tensor:
    """The subnet's part of a weight (not for the positional convolution).

    Args:
        name: our name of the weight.
        value: the supernet's weight.
        dim: width of the embedding, and of all heads together.
        inner: kept dimensions of the feed-forward, (F,).
    """
    if name.startswith(("feature_extractor.", "feature_projection.layer_norm.")):
        return value
    if ".fc1." in name:
        return value[inner, :dim] if value.dim() == 2 else value[inner]
    if ".fc2.weight" in name:
        return value[:dim][:, inner]
    if name.endswith("_proj.weight"):
        return value[:dim, :dim]
    return value[:dim]


FORMAT = Format(
    name="lighthubert",
    about="LightHuBERT's (fairseq's `cfg`, `model`, of the model hubert_pruner or student_hubert)",
    recognise=_recognise,
    read=_read,
    holds_supernets=True,
)
