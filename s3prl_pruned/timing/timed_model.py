"""A model to time: a function from waveforms to hidden states, and what is known about it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.timing.adapters import Call, Encode
from s3prl_pruned.timing.names import ModelName

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
"""dtypes of weights and activations; with int8, other parts compute in fp32."""


@dataclass(kw_only=True)
class TimedModel:
    """A model to time."""

    name: ModelName
    module: nn.Module | None
    """The module with all parameters, in evaluation mode, on the device. None in a runtime other than torch."""
    call: Call = lambda: None
    """The library's own call: the module, or one of its methods."""
    adapt: Callable[[Call], Encode] = lambda call: call
    """Makes `encode` from `call`, or from its compiled form."""
    encode: Encode = field(init=False)
    """Pads, normalises if the model needs it, and calls the module, as a user of that library would."""
    config: EncoderConfig | None
    """The dense shape, if known."""
    spec: CompactSpec | None
    precision: str
    """One of `names.PRECISIONS`."""
    autocast: bool = False
    """Whether weights are in fp32, and `torch.autocast` computes in `precision`."""
    params: int
    """`numel()` of all parameters, before any quantisation."""
    same_as: str | None
    """Models with equal values compute the same function: same weights, same structure."""
    weights: str
    """The weights' origin, such as "random, seed 0"."""
    pads: bool = True
    """Whether it takes batches with different lengths (torchaudio's WavLM does not)."""
    source: str | None = None
    """The paper and the file that describe the structure; None if the model is a file or another library's."""
    printed_millions: float | None = None
    """Millions of parameters, as a published model's authors print them."""
    graph_bytes: int = 0
    """Bytes that the graphs recorded so far hold on CUDA."""

    @property
    def label(self) -> str:
        """The name as typed."""
        return self.name.text

    @property
    def compiled(self) -> bool:
        """Whether the first calls build kernels or graphs."""
        return "compiled" in self.name.variants
