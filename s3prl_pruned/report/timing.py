"""A benchmark's document as tables: every number as text and CSV, speed-ups in Markdown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from s3prl_pruned.report.files import ReportFiles, png
from s3prl_pruned.report.timing_picture import speed_up_against_parameters
from s3prl_pruned.tables import Column, Table

FILES = ReportFiles(
    name="timing",
    command="tools/timing.py",
    keys=("baseline", "device", "threads", "dtype", "versions"),
    rows="results",
    row_key="workload",
)
_PARTS = {"cnn": "CNN", "positional_convolution": "pos", "attention": "att", "feed_forward": "FFN", "other": "rest"}

check_document, refuse_existing = FILES.check_document, FILES.refuse_existing


def screen(data: dict) -> str:
    """All results as text, one line each, grouped by workload, aligned for a terminal."""
    lines = [headline(data)]
    for (workload, tf32), rows in _by_workload(data).items():
        lines += ["", f"{workload}" + ", TF32 on" * tf32]
        lines.append(Table(_screen_columns(), [_flat(row) for row in rows]).text())
    lines += [
        "",
        f"x: {data['baseline']}'s time over this one's, median of {repeats(data)} pairs run back to back. mean: over "
        "all runs, the paper's protocol; +-: their standard deviation. RTF: seconds per second of audio. peak: live "
        "tensors with parameters, and a GPU's graphs. CNN ... rest: shares of the time.",
        *data.get("notes", []),
        *(check["text"] for check in data.get("checks", [])),
        *noise(data),
        *lost(data),
    ]
    return "\n".join(lines)


def headline(data: dict) -> str:
    """A line on the setting of all numbers."""
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    threads = f"{data['threads']} thread{'s' * (data['threads'] != 1)}"
    kinds = {"random" if row["weights"].startswith("random") else "trained" for row in data["results"]}
    weights = " and ".join(sorted(kinds)) + " weights"
    return (
        f"{data.get('machine', data['device'])}, {data['device']}, {threads}, {data['dtype']}, {weights}, "
        f"{repeats(data)} repeats; {versions}; commit {data.get('commit')}; {data.get('date', '')[:10]}"
    )


def repeats(data: dict) -> str:
    """The number of repeats, such as "5", or "5 to 20" where it was decided by time."""
    numbers = {row.get("repeats", data["repeats"]) for row in data["results"]}  # old documents have one number for all
    return str(min(numbers)) + f" to {max(numbers)}" * (len(numbers) > 1)


def lost(data: dict) -> list[str]:
    """A line for each model that could not be timed, at all or on one workload."""
    return [
        f"LEFT OUT: {one['name']}" + f" on {one['workload']}" * bool(one["workload"]) + f": {one['reason']}"
        for one in data.get("lost", [])
    ]


def noise(data: dict) -> list[str]:
    """A line if the machine was too noisy, else none."""
    noisy = [row for row in data["results"] if row["noisy"]]
    if not noisy:
        return []
    names = ", ".join(f"{row['name']} on {row['workload']}" for row in noisy[:4]) + (" ..." if len(noisy) > 4 else "")
    return [
        f"TOO NOISY: {len(noisy)} of {len(data['results'])} ratios spread by more than {data['noise_bound']:.0%} "
        f"({names}). Measure again on a quieter machine, or with more --repeats."
    ]


def markdown(data: dict) -> str:
    """A row per model: parameters, the speed-up per workload, and MACs and memory at the longest fixed length."""
    groups = _by_workload(data)
    columns, longest = {}, None
    for (workload, tf32), rows in groups.items():
        if rows[0]["arrangement"] == "even":
            longest = (workload, tf32)
        for arrangement in dict.fromkeys(row["arrangement"] for row in rows):
            several = len({row["arrangement"] for row in rows}) > 1
            title = workload + f", {arrangement}" * several + ", TF32" * tf32
            columns[title] = {row["name"]: row for row in rows if row["arrangement"] == arrangement}
    at = (longest or next(iter(groups)))[0]
    costs = {row["name"]: {key: row[key] for key in ("name", "params")} for row in data["results"]}
    costs |= {row["name"]: row for row in groups[longest or next(iter(groups))]}  # a model may be missing there
    table = Table(
        [
            Column("name", ""),
            Column("params", "parameters", show="{:,}"),
            Column("macs", f"MACs, {at}", show=_giga),
            Column("peak_bytes", f"peak memory, {at}", show=lambda size: f"{size / 2**20:,.0f} MiB"),
            *(Column(title, show=_ratio) for title in columns),
        ],
        [{**cost, **{title: rows.get(name) for title, rows in columns.items()}} for name, cost in costs.items()],
    )
    text = f"Speed-up over {data['baseline']}, pair by pair. {headline(data)}."
    return "\n".join(
        [text, "", table.markdown(), *("\n" + note for note in [*data.get("notes", []), *noise(data), *lost(data)]), ""]
    )


def as_csv(data: dict) -> str:
    """All results as CSV, one row each; shares of the time have their own columns."""
    rows = [_flat(result) for result in data["results"]]
    return Table(list(rows[0]), rows).csv()


def write(data: dict, folder: Path, table: str | None = None) -> list[Path]:
    """Write `timing.json`, `.csv`, `.md` and `.png` into a folder.

    Args:
        data: the document.
        folder: created if missing.
        table: the text of `timing.md`; None: `markdown`.

    Raises:
        UserError: if one already exists, or cannot be written.
    """
    return FILES.write(
        data,
        folder,
        texts={"csv": as_csv(data), "md": table or markdown(data)},
        pictures={"": png(speed_up_against_parameters(data))},
    )


def _by_workload(data: dict) -> dict[tuple[str, bool], list[dict]]:
    groups: dict[tuple[str, bool], list[dict]] = {}
    for row in data["results"]:
        groups.setdefault((row["workload"], row["tf32"]), []).append(row)
    return groups


def _flat(result: dict) -> dict[str, Any]:
    """A result with the shares of the time as separate values."""
    row = {key: value for key, value in result.items() if key != "shares"}
    return row | {f"share_{part}": (result["shares"] or {}).get(part) for part in _PARTS}


def _screen_columns() -> list[Column]:
    def number(key: str, header: str | None = None, *, show: str | Callable[[Any], str]) -> Column:
        return Column(key, header, align="right", show=show)

    return [
        Column("name", "model"),
        Column("arrangement", "batched"),
        number("params", show="{:,}"),
        number("macs", "MACs", show=_giga),
        number("seconds", "median", show=_time),
        number("seconds_spread", "IQR", show=_time),
        number("seconds_mean", "mean", show=_time),
        number("seconds_std", "+-", show=_time),
        number("ratio", "x", show="{:.2f}"),
        number("ratio_spread", "IQR", show="{:.2f}"),
        number("real_time_factor", "RTF", show="{:.4f}"),
        number("audio_per_second", "audio/s", show="{:.1f}"),
        number("peak_bytes", "peak", show=lambda size: f"{size / 2**20:.0f} MiB"),
        *(number(f"share_{part}", title, show="{:.0%}") for part, title in _PARTS.items()),
        number("noisy", "", show=lambda noisy: "NOISY" if noisy else ""),
    ]


def _ratio(row: dict) -> str:
    return f"{row['ratio']:.2f}" + f" (noisy, IQR {row['ratio_spread']:.2f})" * row["noisy"]


def _giga(macs: int) -> str:
    return f"{macs / 1e9:.2f} G"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1000 * seconds:.1f} ms"
