"""The paper's Table 2 (Wang et al. 2023) beside a benchmark's document: time to encode a corpus, mean of 5 runs."""

from dataclasses import dataclass
from typing import Any

from s3prl_pruned.report.timing import headline, lost, noise
from s3prl_pruned.tables import Column, Table


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of the paper's table: features of LibriSpeech's dev-clean on an RTX 3090."""

    paper: str
    """The model's name in the paper."""
    paper_parameters: float
    """Parameters in millions."""
    paper_seconds: float
    paper_ratio: float
    """WavLM Base's time divided by this model's, as printed in the paper."""


_DENSE = PaperRow(paper="WavLM Base", paper_parameters=94.70, paper_seconds=91.87, paper_ratio=1.0)
# By the most similar structure (`timing/shapes.py`): the straight-through estimator removes whole sublayers.
_STRUCTURES = {
    "conc": PaperRow(paper="proposed", paper_parameters=26.57, paper_seconds=46.08, paper_ratio=1.99),
    "even": PaperRow(paper="without STE", paper_parameters=26.37, paper_seconds=67.78, paper_ratio=1.35),
}


def paper_table(data: dict) -> str:
    """The table as Markdown: a row per model, with the paper's numbers beside the baseline, *conc* and *even*.

    Args:
        data: the document of a benchmark on a corpus; each way of batching has its own columns.
    """
    ways = list(dict.fromkeys(row["arrangement"] for row in data["results"]))
    rows: dict[str, dict[str, Any]] = {}
    for result in data["results"]:
        name = result["name"]
        row = rows.setdefault(name, {"name": name, "parameters": result["params"] / 1e6})
        row |= {f"{key} {result['arrangement']}": result[key] for key in ("seconds_mean", "seconds_std", "ratio")}
        structure = name.removeprefix("ours:").partition("+")[0] if name.startswith("ours:") else None
        paper = _DENSE if name == data["baseline"] else _STRUCTURES.get(structure or "")
        row |= vars(paper) if paper else {}
    columns = [Column("name", ""), Column("parameters", show="{:.2f} M")]
    for way in ways:
        columns += [
            Column(f"seconds_mean {way}", f"{way}: mean", show="{:.3f} s"),
            Column(f"seconds_std {way}", "+-", show="{:.3f} s"),
            Column(f"ratio {way}", "speed-up", show="{:.2f}"),
        ]
    columns += [
        Column("paper", "paper"),
        Column("paper_parameters", "parameters", show="{:.2f} M"),
        Column("paper_seconds", "RTX 3090, dev-clean", show="{:.2f} s"),
        Column("paper_ratio", "speed-up", show="{:.2f}"),
    ]
    workloads = "; ".join(dict.fromkeys(row["workload"] for row in data["results"]))
    text = f"The paper's Table 2 on this device: {workloads}. {headline(data)}."
    return "\n".join([text, "", Table(columns, list(rows.values())).markdown(), *noise(data), *lost(data), ""])
