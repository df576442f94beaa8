"""Which hidden states a model publishes, as plain data."""

from dataclasses import dataclass, field
from typing import Literal

from s3prl_pruned.config import ADDED, UserError


@dataclass(frozen=True, kw_only=True)
class StateHeads:
    """Linear maps whose outputs a model publishes among its states, or in their place (`models/state_heads.py`)."""

    kind: Literal["maps", "predictions"]
    """`maps`: each layer's output is replaced by a linear map of it (MaskHuBERT). `predictions`: predictions from the
    last state follow the layers' outputs (DistilHuBERT)."""

    dim: int
    """Width of their outputs."""

    number: int = 0
    """Number of predictions."""

    inner_dim: int = 0
    """Width of each prediction's inner layer."""

    def validate(self) -> None:
        """Raise UserError for sizes out of range."""
        for name in ("dim", "number", "inner_dim") if self.kind == "predictions" else ("dim",):
            if not 1 <= getattr(self, name) <= 2**16:
                raise UserError(f"`{name}` must be from 1 to {2**16}, but is {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class StateRule:
    """Which hidden states a model publishes: those that downstream tasks and other users get.

    The default is s3prl's rule for its own models. Training sees the same L + 1 states whatever the rule
    (`EncoderOutput.hidden_states`); `SpeechEncoder.states` makes the published ones of them.
    """

    first: Literal["input", "projection", "none"] = "input"
    """State 0: the first layer's input; the projection's output, before the positional convolution (DPHuBERT); or left
    out, so that only layers' outputs are published (STaRHuBERT)."""

    final_norm: bool = True
    """Whether the last state of a pre-norm model is the encoder's final LayerNorm's output; False: its input (DPHuBERT,
    DiariZen)."""

    heads: StateHeads | None = field(default=None, metadata=ADDED)
    """What is published besides layers' outputs, or in their place; None for nothing."""

    def num_states(self, num_layers: int) -> int:
        """Number of published states of a model with `num_layers` layers."""
        predictions = self.heads.number if self.heads is not None and self.heads.kind == "predictions" else 0
        return num_layers + (self.first != "none") + predictions

    def state_dim(self, embed_dim: int) -> int:
        """Width of every published state of a model with this `embed_dim`."""
        return self.heads.dim if self.heads is not None and self.heads.kind == "maps" else embed_dim

    def check(self, embed_dim: int) -> None:
        """Raise UserError where the states would have different widths."""
        heads = self.heads
        if heads is None:
            return
        if heads.kind == "maps" and self.first != "none":
            raise UserError(f"`states.first` must be none where layers' outputs are mapped, but is {self.first!r}.")
        if heads.kind == "predictions" and heads.dim != embed_dim:
            raise UserError(
                f"`states.heads.dim` of predictions must be `embed_dim`, so that all states have one width, but they "
                f"are {heads.dim} and {embed_dim}."
            )
