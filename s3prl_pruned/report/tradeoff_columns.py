"""Columns of the trade-off document (names, units, scales), shared by its table, figures and page."""

from dataclasses import dataclass
from typing import Any, Literal

from s3prl_pruned.sparsity.quantities import INERT
from s3prl_pruned.superb.catalogue import TASKS

MINI_SCORE_LEAVES_OUT, NO_MINI_SCORE = "mini-score leaves out ", "no mini-score: "
NOT_TIMED, NO_RESULT, NOTHING_TIMED = "the timing has no row ", "no result is of these weights: ", "nothing was timed"
"""Beginning of notes on missing numbers; `tradeoff_report.left_out` joins them into one line."""
_METRICS = {"acc": "Acc", "slot_type_f1": "slot type F1", "slot_value_cer": "slot value CER"}
_SCORES = {"score (paper)": "SUPERB score, paper's scale", "score (leaderboard)": "SUPERB score, leaderboard's scale"}
_HALF_RANGE = "± half the interquartile range of the repeats"


@dataclass(frozen=True, kw_only=True)
class TradeoffColumn:
    """One number of a model."""

    key: str
    """Key in the document's entry, or name of a quality."""
    title: str
    unit: str = ""
    scale: float = 1.0
    """Factor from the document's number to `unit`."""
    decimals: int
    """Decimals in Markdown."""
    better: Literal["up", "down"]
    about: str
    """Description in one sentence."""
    is_quality: bool = False

    @property
    def header(self) -> str:
        """Title and unit; for a quality, also whether higher or lower is better."""
        direction = f", {'higher' if self.better == 'up' else 'lower'} is better" if self.is_quality else ""
        return self.title + (f" ({self.unit})" if self.unit else "") + direction

    def value(self, model: dict[str, Any]) -> float | None:
        """The number of a model in `unit`; None if it has none."""
        if self.is_quality:
            number = model["qualities"][self.key]["value"] if self.key in model["qualities"] else None
        else:
            number = model.get(self.key)
        return None if number is None else number * self.scale

    def spread(self, model: dict[str, Any]) -> float | None:
        """The value after ± in `unit`: a standard deviation over runs, or half an interquartile range of times."""
        if self.is_quality:
            number = model["qualities"].get(self.key, {}).get("spread")
            return None if number is None else number * self.scale
        number = model.get(f"{self.key}_spread")
        return None if number is None else number * self.scale / 2

    def text(self, model: dict[str, Any], decimals: int | None = None) -> str | None:
        """Value and spread, such as "44.602 ± 1.491"; None if there is no value.

        Args:
            model: an entry of `models_of`.
            decimals: after the point; None: `decimals`.
        """
        value, spread = self.value(model), self.spread(model)
        if value is None:
            return None
        form = f"{'' if self.is_quality else ','}.{self.decimals if decimals is None else decimals}f"
        return format(value, form) + (f" ± {format(spread, form)}" if spread else "")

    def few_decimals(self, models: list[dict[str, Any]]) -> int:
        """Number of decimals with which the largest value of these models has four digits; at most `decimals`."""
        largest = max((abs(value) for model in models if (value := self.value(model)) is not None), default=0)
        return min(self.decimals, max(0, 4 - len(f"{largest:.0f}")))


COSTS = {
    column.key: column
    for column in (
        TradeoffColumn(
            key="parameters", title="parameters", unit="M", scale=1e-6, decimals=3, better="down",
            about="all parameters of the encoder, with biases",
        ),
        TradeoffColumn(
            key="nonzero_parameters", title="parameters not zero", unit="M", scale=1e-6, decimals=3, better="down",
            about="without weights that are zero; zeros save no time",
        ),
        TradeoffColumn(
            key="macs", title="MACs", unit="G", scale=1e-9, decimals=3, better="down",
            about="multiply-accumulates; zeros are counted",
        ),
        TradeoffColumn(
            key="seconds", title="time", unit="ms", scale=1e3, decimals=3, better="down",
            about=f"measured, median of one call; {_HALF_RANGE}",
        ),
    )
}  # fmt: skip
"""By key of the document. They are also the x axes of figures."""

RATE = TradeoffColumn(
    key="rate", title="rate", unit="%", scale=100, decimals=1, better="up",
    about="share of the dense encoder's prunable weights that are removed or zero",
)  # fmt: skip
INERT_SHARE = TradeoffColumn(
    key="inert_share", title="inert", unit="%", scale=100, decimals=1, better="down",
    about=f"share of the kept weights whose units are scaled by less than {INERT}",
)  # fmt: skip
SPEED = TradeoffColumn(
    key="speed", title="speed", decimals=2, better="up", about=f"against the dense encoder, pair by pair; {_HALF_RANGE}"
)


def qualities(data: dict) -> list[str]:
    """Names of all qualities: scores that most models have first, then by the number of models that have them."""
    names = [name for model in data["entries"] for name in model["qualities"]]
    most = max(map(names.count, names), default=0)

    def place(name: str) -> tuple[bool, int]:
        return not ("score" in name and 2 * names.count(name) >= most), -names.count(name)

    return sorted(dict.fromkeys(names), key=place)


def quality_column(data: dict, name: str) -> TradeoffColumn:
    """The column of a quality that some model has."""
    better = next(model["qualities"][name]["better"] for model in data["entries"] if name in model["qualities"])
    is_score = "score" in name
    title, about = _named(name)
    return TradeoffColumn(
        key=name, title=title, unit="" if is_score else "%", decimals=2, better=better, is_quality=True, about=about
    )


def _named(name: str) -> tuple[str, str]:
    """The title and the sentence of a quality, from its name in the document, such as "pr per"."""
    task, _, metric = name.partition(" ")
    if name in _SCORES:
        return _SCORES[name], "the benchmark's score of all ten tasks"
    if task in TASKS:
        shown = _METRICS.get(metric, metric.upper())
        return f"{TASKS[task].label} {shown}", f"{TASKS[task].title}, {shown} on {TASKS[task].test_split}"
    if name == "CTC wer":
        return "CTC WER", "word error rate of a recogniser that was fine-tuned whole, on its own test set"
    if name == "mini-score":
        return name, "share of the teacher's lead over FBANK that is kept, in thousandths"
    return name, name


def columns(data: dict) -> list[TradeoffColumn]:
    """Columns of the table beside names and methods, qualities first; columns without information are left out."""
    inert = any(model.get("inert_share") is not None for model in data["entries"])
    return [
        *(quality_column(data, name) for name in qualities(data)),
        RATE,
        *([INERT_SHARE] if inert else []),
        *costs_shown(data["entries"]),
        *([SPEED] if any(model["speed"] is not None for model in data["entries"]) else []),
    ]


def costs_shown(models: list[dict[str, Any]]) -> list[TradeoffColumn]:
    """Costs with information: those that were measured, and parameters not zero if some are zero."""

    def says(column: TradeoffColumn) -> bool:
        if column.key == "nonzero_parameters":
            return any(model[column.key] != model["parameters"] for model in models)
        return any(model[column.key] is not None for model in models)

    return [column for column in COSTS.values() if says(column)]


def models_of(data: dict) -> list[dict[str, Any]]:
    """Entries of the document, dense models first; entries of older documents take their spreads from the timing."""
    models = sorted(data["entries"], key=lambda model: (model["method"] != "dense", model["method"], model["rate"]))
    return [{**model, **_spreads(data, model)} for model in models]


def _spreads(data: dict, model: dict[str, Any]) -> dict[str, float | None]:
    if model["seconds"] is None or "seconds_spread" in model:
        return {}
    rows = [
        row
        for row in (data.get("timing") or {}).get("results", [])
        if row["name"] == model["name"] and row["seconds"] == model["seconds"]
    ]
    if not rows:
        return {}
    return {"seconds_spread": rows[0].get("seconds_spread"), "speed_spread": rows[0].get("ratio_spread")}


def full_name(model: dict[str, Any]) -> str:
    """A model's name, with its note (such as "random teacher") in capitals, so that nobody overlooks it."""
    return model["name"] + (f" ({model['note'].upper()})" if model["note"] else "")


def is_on_front(model: dict[str, Any], quality: str, cost: str | None = None) -> bool:
    """Whether no other model is better in a quality without a higher cost: this one, or any (None)."""
    return any(place == f"{quality}/{cost}" if cost else place.startswith(f"{quality}/") for place in model["pareto"])
