"""A shallower student: the teacher's first layers (DistilHuBERT, Chang et al. 2022; 6 layers in Lin et al. 2024)."""

import dataclasses

import torch

from s3prl_pruned.models.compact import compact
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, LayerSpec

_EMPTY = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())


def first_layers(spec: CompactSpec, count: int) -> CompactSpec:
    """The structure whose layers from `count` on are empty. Its number of hidden states does not change."""
    return dataclasses.replace(spec, layers=(*spec.layers[:count], *[_EMPTY] * (len(spec.layers) - count)))


@torch.no_grad()
def shallow(encoder: SpeechEncoder, count: int) -> SpeechEncoder:
    """The encoder with only its first `count` layers.

    An empty layer keeps its two LayerNorms, which a Base model still applies (a Large one does not). The teacher's were
    trained behind sublayers that are now removed, so they are reset: plain normalisation, which changes nothing when it
    is applied again.
    """
    small = compact(encoder, first_layers(encoder.spec, count))
    for layer in list(small.layers)[count:]:
        for norm in (layer.attention_layer_norm, layer.final_layer_norm):
            norm.weight.fill_(1.0)
            norm.bias.zero_()
    return small
