"""Published compressed encoders side by side (`timing.py --peers`), from the benchmark's document alone."""

from typing import Any

from s3prl_pruned.report.timing import headline, lost, noise
from s3prl_pruned.tables import Column, Table


def peers_table(data: dict) -> str:
    """The table as Markdown: a row per model, and for each workload the real-time factor and the speed-up.

    Args:
        data: the document of a benchmark. MACs per second of audio are those at its longest fixed length, or, without
            one, on its last workload.
    """
    workloads: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    fixed = [result for result in data["results"] if result["arrangement"] == "even"] or data["results"]
    costed = max(fixed, key=lambda result: result.get("length_s") or result["audio_s"])["workload"]
    for result in data["results"]:
        if result["tf32"]:
            continue
        key = f"{result['workload']} {result['arrangement']}"
        several = result["arrangement"] != "even"
        workloads[key] = result["workload"] + f", {result['arrangement']}" * several
        row = rows.setdefault(result["name"], {name: result.get(name) for name in _OF_A_MODEL})
        row[f"real_time_factor {key}"] = result["real_time_factor"]
        row[f"ratio {key}"] = result
        if result["workload"] == costed and result["macs"] is not None:
            row["macs_per_second"] = result["macs"] / result["audio_s"]
    columns = [
        Column("name", "model"),
        Column("source"),
        Column("params", "parameters", align="right", show="{:,}"),
        Column("printed_millions", "printed", align="right", show="{:g} M"),
        Column("macs_per_second", f"MACs/s, {costed}", align="right", show=lambda macs: f"{macs / 1e9:.2f} G"),
    ]
    for key, title in workloads.items():
        columns += [
            Column(f"real_time_factor {key}", f"RTF, {title}", align="right", show="{:.4f}"),
            Column(f"ratio {key}", f"speed-up, {title}", align="right", show=_ratio),
        ]
    text = (
        f"Published encoders on this device, in our encoder's fast form. {headline(data)}. RTF: seconds of computing "
        f"per second of audio. Speed-up: {data['baseline']}'s time over this one's, pair by pair. MACs/s: "
        "multiply-accumulates per second of audio. Printed: parameters as the authors print them."
    )
    table = Table(columns, list(rows.values())).markdown()
    return "\n".join([text, "", table, "", *not_timed(data), *noise(data), *lost(data), ""])


_OF_A_MODEL = ("name", "source", "params", "printed_millions")


def not_timed(data: dict) -> list[str]:
    """A line for each published encoder that is not timed."""
    return [f"- {one['name']} is not timed: {one['reason']}." for one in data.get("not_timed", [])]


def _ratio(result: dict) -> str:
    return f"{result['ratio']:.2f}" + " (noisy)" * result["noisy"]
