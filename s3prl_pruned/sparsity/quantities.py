"""What logs, the cards of exports, pictures and the screen call what a target is of. Plain data: it needs no torch."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

INERT = 0.02
"""A unit that its masks scale by less than this computes next to nothing (ours)."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a target is of.

    Its figures are shares of the dense model that go, in [0, 1); or, of `SPEEDUP`, how many times as fast it gets.
    """

    name: str
    """Logs hold `target_<name>`, `expected_<name>` and `realised_<name>`; a card has an entry of this name."""
    title: str
    """On the screen; `{...}` are entries of the card."""
    axis: str
    """In pictures."""
    figure: str
    """How one is written: `str.format` of it times `scale`."""
    short_figure: str
    """The same where there is little room."""
    is_ratio: bool = False
    """Whether its figures are ratios of times, and no shares."""

    @property
    def scale(self) -> int:
        """Figures are written times this: shares in percent."""
        return 1 if self.is_ratio else 100

    @property
    def key(self) -> str:
        """What a recipe calls the figure of a target."""
        return "speedup" if self.is_ratio else "share"

    def shown(self, share: Any) -> Any:
        """The figure of a share that goes, a number or a tensor."""
        return 1 / (1 - share) if self.is_ratio else share

    def share(self, figure: float) -> float:
        """The reverse of `shown`."""
        return 1 - 1 / figure if self.is_ratio else figure

    def line(self, figures: dict[str, Any], *kinds: str) -> str:
        """A line for the screen.

        Args:
            figures: of a card: one by each of `kinds`, and what `title` names.
            kinds: some of `realised`, `target` and `expected`.
        """
        written = ", ".join(f"{kind} {self.figure.format(self.scale * figures[kind])}" for kind in kinds)
        return f"{self.title.format(**figures)}: {written}"


SPARSITY = Quantity(
    name="sparsity",
    title="sparsity",
    axis="sparsity (% of weights)",
    figure="{:.2f} %",
    short_figure="{:.1f} %",
)
MACS = Quantity(
    name="macs",
    title="MACs for {utterance_seconds:g} s",
    axis="MACs that go (%)",
    figure="-{:.2f} %",
    short_figure="{:.1f} %",
)
SPEEDUP = Quantity(
    name="speedup",
    title="speed-up by the latency table ({measured[machine]})",
    axis="times as fast, by the latency table",
    figure="{:.3f}",
    short_figure="{:.2f} x",
    is_ratio=True,
)
CNN = Quantity(
    name="cnn",
    title="the CNN's {of}",
    axis="what goes of the CNN (%)",
    figure="-{:.2f} %",
    short_figure="{:.1f} %",
)
"""Of the target that the CNN may have beside the model's."""


def quantity_in(names: Container[str], *, prefix: str = "") -> Quantity:
    """What the model's target is of; the sparsity is told beside the others.

    Args:
        names: keys of a line of the log, or of `sparsity` of a card.
        prefix: what stands before the quantity's name in them.
    """
    return next((other for other in (MACS, SPEEDUP) if prefix + other.name in names), SPARSITY)
