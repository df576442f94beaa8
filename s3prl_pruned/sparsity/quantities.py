"""Names and number formats of the target quantities in logs, model cards, figures and on the screen. Needs no torch."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

INERT = 0.02
"""A unit that its masks scale by less than this contributes almost nothing (our limit)."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A quantity that targets and results are measured in.

    Its figures are removed shares of the dense model, in [0, 1); for `SPEEDUP`, the ratio dense time / pruned time.
    """

    name: str
    """Logs have the keys `target_<name>`, `expected_<name>` and `realised_<name>`; a card has an entry of this name."""
    title: str
    """Title on the screen; `{...}` are entries of the card."""
    axis: str
    """Label of the axis in figures."""
    figure: str
    """Format of a figure, for `str.format` after multiplication by `scale`."""
    short_figure: str
    """Shorter format, for narrow places."""
    is_ratio: bool = False
    """Whether figures are ratios of times instead of shares."""

    @property
    def scale(self) -> int:
        """Figures are multiplied by this when written: 100 shows shares in percent."""
        return 1 if self.is_ratio else 100

    @property
    def key(self) -> str:
        """Name of the figure in a recipe."""
        return "speedup" if self.is_ratio else "share"

    def shown(self, share: Any) -> Any:
        """Convert a removed share (number or tensor) to a figure."""
        return 1 / (1 - share) if self.is_ratio else share

    def share(self, figure: float) -> float:
        """Convert a figure back to a removed share."""
        return 1 - 1 / figure if self.is_ratio else figure

    def line(self, figures: dict[str, Any], *kinds: str) -> str:
        """A line for the screen.

        Args:
            figures: of a card: one for each of `kinds`, and the entries that `title` names.
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
    axis="MACs removed (%)",
    figure="-{:.2f} %",
    short_figure="{:.1f} %",
)
MEMORY = Quantity(
    name="memory",
    title="memory for all weights",
    axis="weights removed from all of the model (%)",
    figure="-{:.2f} %",
    short_figure="{:.1f} %",
)
SPEEDUP = Quantity(
    name="speedup",
    title="speed-up by the latency table ({measured[machine]})",
    axis="speed-up by the latency table",
    figure="{:.3f}",
    short_figure="{:.2f} x",
    is_ratio=True,
)
CNN = Quantity(
    name="cnn",
    title="the CNN's {of}",
    axis="removed from the CNN (%)",
    figure="-{:.2f} %",
    short_figure="{:.1f} %",
)
"""The target of the CNN alone, if a recipe sets one."""

QUANTITIES = {quantity.name: quantity for quantity in (SPARSITY, MACS, MEMORY, SPEEDUP, CNN)}
"""All quantities by name."""


def quantity_in(names: Container[str], *, prefix: str = "") -> Quantity:
    """The quantity of the model's target. Logs of other targets also have the sparsity.

    Args:
        names: keys of a line of the log, or of `sparsity` in a card.
        prefix: text before the name of the quantity in these keys.
    """
    return next((other for other in (MACS, MEMORY, SPEEDUP) if prefix + other.name in names), SPARSITY)
