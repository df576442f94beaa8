"""The document of `benchmarks.gpu` as Markdown, from its JSON data alone."""

from collections.abc import Iterator
from typing import Any

from s3prl_pruned.tables import Column, Table

_GIB = 2**30


def markdown(data: dict) -> str:
    """A section for each part with a result, and a list of failed parts."""
    lines = [f"# Measured on {_machine(data)}, {data['date'][:10]}", ""]
    if data["quick"]:
        lines += ["Only a check that everything runs (--quick): no result.", ""]
    lines += _environment(data)
    timed = {name: part["result"] for name, part in data["parts"].items() if part["result"]}
    lines += _inference(
        {name: found for name, found in timed.items() if name.startswith("inference_")}, data["baseline"]
    )
    for name, section in _SECTIONS.items():
        if name in timed:
            lines += ["", f"## {data['parts'][name]['title']}", "", *section(timed[name])]
    lost = [f"- {name}: {part['reason']}" for name, part in data["parts"].items() if part["reason"]]
    lost += [
        f"- {one['name']}" + f" on {one['workload']}" * bool(one["workload"]) + f" ({name}): {one['reason']}"
        for name, found in timed.items()
        for one in found.get("lost", [])
    ]
    if lost:
        lines += ["", "## Lost", "", *lost]
    return "\n".join([*lines, ""])


def _machine(data: dict) -> str:
    found = (part["result"] or {} for part in data["parts"].values())
    return next((result["machine"] for result in found if "machine" in result), data["device"])


def _environment(data: dict) -> list[str]:
    """Versions, driver and clocks, from the first part that has them."""
    for part in data["parts"].values():
        result = part["result"] or {}
        if "environment" not in result:
            continue
        facts = [f"{name} {version}" for name, version in result["versions"].items()]
        gpu = result["environment"].get("gpu", {})
        facts += [f"{key} {gpu[key]}" for key in ("cuda", "cudnn") if gpu.get(key)]
        facts += [f"{key} {value}" for key, value in (gpu.get("nvidia_smi") or {}).items()]
        return [f"{', '.join(facts)}; commit {result['commit']}; random weights, models interleaved."]
    return []


def _inference(found: dict[str, dict], baseline: str) -> Iterator[str]:
    """One row per model and precision; a cell is the speed-up over the baseline's fastest precision, and the time."""
    results = [row for document in found.values() for row in document["results"]]
    if not results:
        return
    workloads = list(dict.fromkeys(row["workload"] for row in results))
    dense = [row for row in results if row["name"].partition("+")[0] == baseline]
    fastest = {row["workload"]: row for row in sorted(dense, key=lambda row: row["ratio"])}
    rows: dict[str, dict[str, Any]] = {}
    for row in results:
        cells = rows.setdefault(row["name"], {"model": row["name"]})
        best = fastest[row["workload"]]["ratio"] if row["workload"] in fastest else 1.0
        cells[row["workload"]] = f"{row['ratio'] / best:.2f} ({_milliseconds(row['seconds'])})"
        cells["peak"] = (row["peak_bytes"] or 0) / _GIB
    columns = [Column("model", ""), *workloads, Column("peak", "peak, last column", show="{:.2f} GiB")]
    yield from ["", "## Inference", ""]
    yield (
        f"Times as fast as {baseline} in its fastest precision ("
        + ", ".join(f"{workload}: {best['precision']}" for workload, best in fastest.items())
        + "); in brackets the median time. Each precision is a separate run that includes the baseline in fp32: ratios "
        "are relative to it, pair by pair, divided by the ratio of the baseline's fastest precision."
    )
    yield from ["", Table(columns, list(rows.values())).markdown()]


def _ratios(result: dict) -> list[str]:
    columns = [
        Column("name", "model"),
        Column("workload", "on"),
        Column("ratio", "speed-up", show="{:.2f}"),
        Column("seconds", "median", show=_milliseconds),
    ]
    return [Table(columns, result["results"]).markdown()]


def _paper(result: dict) -> list[str]:
    from s3prl_pruned.report.timing_paper import paper_table

    return [paper_table(result)]


def _errors(result: dict) -> list[str]:
    rows = [
        {**row, "text": row.get("reason") or ", ".join("-" if x is None else f"{x:.1e}" for x in row["states"])}
        for row in result["rows"]
    ]
    note = "Norm of the difference over the norm in fp32, of states 0 to L; '-' is not finite."
    return [note, "", Table(["model", "precision", Column("text", "error")], rows).markdown()]


def _long(result: dict) -> list[str]:
    columns = [
        "model",
        Column("length_s", "audio", show=lambda seconds: f"{seconds / 60:g} min"),
        Column("seconds", "one call", show="{:.2f} s"),
        Column("peak_bytes", "peak of live tensors", show=lambda size: f"{size / _GIB:.2f} GiB"),
        Column("reserved_bytes", "reserved", show=lambda size: f"{size / _GIB:.2f} GiB"),
        Column("reason", "lost"),
    ]
    return [Table(columns, result["rows"]).markdown()]


def _training(result: dict) -> list[str]:
    rows = [{"step": name, **row} for name, row in result["steps"].items()]
    counts = [key for key in rows[0] if key not in ("step", "seconds", "speed_up", "lowest", "highest", "losses")]
    columns = [
        Column("step"),
        Column("seconds", "median", show=_milliseconds),
        Column("speed_up", show="{:.2f}"),
        *counts,
    ]
    return [Table(columns, rows).markdown()]


def _tests(result: dict) -> list[str]:
    return [result["summary"], *(f"- {line}" for line in result["failed"])]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


_SECTIONS = {
    "baseline_compiled": _ratios,
    "errors": _errors,
    "long": _long,
    "training_paper": _training,
    "training_embedded": _training,
    "table2": _paper,
    "tests": _tests,
}
