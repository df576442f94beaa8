"""Multiply-accumulates of a model on an input, by `sparsity.counts.macs`, and by torch's counter to check them."""

import warnings

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import macs


def macs_of(config: EncoderConfig, spec: CompactSpec, batches: list[list[Tensor]]) -> int:
    """MACs of one run over all batches, padding included."""
    return sum(len(batch) * sum(macs(config, spec, max(map(len, batch))).values()) for batch in batches)


def macs_by_torch(config: EncoderConfig, spec: CompactSpec, num_samples: int) -> int:
    """The count of `FlopCounterMode` for one utterance, halved: it counts a MAC as two FLOPs.

    On torch's meta device, which computes shapes only, and in training mode, which always uses the plain path.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising meta tensors warns
        encoder = SpeechEncoder(config, spec).train()
    # of the attention kernels only the one made of matrix products is counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder.states(encoder(torch.empty(1, num_samples, device="meta")))
    return counter.get_total_flops() // 2
