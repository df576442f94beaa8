"""What takes part in a timing: a model as a function from waveforms to hidden states, and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.timing.adapters import Call, Encode
from s3prl_pruned.timing.names import ModelName

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
"""Of weights and activations; int8 computes its other parts in fp32."""


@dataclass(kw_only=True)
class TimedModel:
    """A model that takes part."""

    name: ModelName
    module: nn.Module | None
    """Holds all parameters; in evaluation mode, on the device. None in a runtime other than torch."""
    call: Call = lambda: None
    """The library's own: the module, or one of its methods."""
    adapt: Callable[[Call], Encode] = lambda call: call
    """Makes `encode` of `call`, or of a compiled form of it."""
    encode: Encode = field(init=False)
    """Pads, normalises where the model wants it, and calls the module: what a user of that library would write."""
    config: EncoderConfig | None
    """The dense shape, where it is known."""
    spec: CompactSpec | None
    precision: str
    """One of `names.PRECISIONS`."""
    autocast: bool = False
    """Whether weights are in fp32, and `torch.autocast` computes in `precision`."""
    params: int
    """`numel()` of all parameters, before any quantisation."""
    same_as: str | None
    """Models in which this is equal compute the same function: same weights, same structure."""
    weights: str
    """Where they come from, such as "random, seed 0"."""
    pads: bool = True
    """Whether it takes batches of different lengths (torchaudio's WavLM does not)."""
    source: str | None = None
    """The paper, and the file, that give the structure; None where the model is a file or another library's."""
    printed_millions: float | None = None
    """Parameters as a published model's authors print them."""
    graph_bytes: int = 0
    """That the graphs recorded so far keep to themselves, on CUDA."""

    @property
    def label(self) -> str:
        """As it was typed."""
        return self.name.text

    @property
    def compiled(self) -> bool:
        """Whether its kernels or graphs are made in its first calls."""
        return "compiled" in self.name.variants
