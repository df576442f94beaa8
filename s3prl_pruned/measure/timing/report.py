"""A benchmark's document as tables: every number on the screen and as CSV, speed-ups in Markdown."""

import csv
import io
from pathlib import Path

from s3prl_pruned.config import UserError

_KEYS = ("baseline", "device", "threads", "dtype", "versions", "results")
_PARTS = {"cnn": "CNN", "positional_convolution": "pos", "attention": "att", "feed_forward": "FFN", "other": "rest"}


def check_document(data: dict, where: str) -> dict:
    """Refuse what is no benchmark's document.

    Raises:
        UserError: a key is missing.
    """
    missing = [key for key in _KEYS if key not in data]
    if missing or not data["results"] or "workload" not in data["results"][0]:
        raise UserError(f"{where}: must be the JSON document of tools/timing.py, but lacks {missing or 'results'}.")
    return data


def screen(data: dict) -> str:
    """All results, one line each, grouped by workload; aligned for a terminal."""
    lines = [headline(data)]
    for (workload, tf32), rows in _by_workload(data).items():
        lines += ["", f"{workload}" + ", TF32 on" * tf32]
        cells = [["model", "batched", "params", "MACs", "median", "IQR", "mean", "x", "IQR", "RTF", "audio/s", "peak", *_PARTS.values(), ""]]  # fmt: skip
        cells += [_cells(row) for row in rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines += ["  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip() for row in cells]
    lines += [
        "",
        f"x: {data['baseline']}'s time over this one's, median of {data['repeats']} pairs run back to back. mean: of all runs, the "
        "paper's protocol. RTF: seconds per second of audio. peak: live tensors with parameters. CNN ... rest: shares of the time.",
        *data.get("notes", []),
        *(check["text"] for check in data.get("checks", [])),
        *noise(data),
    ]
    return "\n".join(lines)


def headline(data: dict) -> str:
    """What holds for every number, in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    threads = f"{data['threads']} thread{'s' * (data['threads'] != 1)}"
    kinds = {"random" if row["weights"].startswith("random") else "trained" for row in data["results"]}
    weights = " and ".join(sorted(kinds)) + " weights"
    return (
        f"{data.get('machine', data['device'])}, {data['device']}, {threads}, {data['dtype']}, {weights}, "
        f"{data['repeats']} repeats; {versions}; commit {data.get('commit')}; {data.get('date', '')[:10]}"
    )


def noise(data: dict) -> list[str]:
    """A line when the machine was too noisy, else none."""
    noisy = [row for row in data["results"] if row["noisy"]]
    if not noisy:
        return []
    names = ", ".join(f"{row['name']} on {row['workload']}" for row in noisy[:4]) + (" ..." if len(noisy) > 4 else "")
    return [f"TOO NOISY: {len(noisy)} of {len(data['results'])} ratios spread by more than {data['noise_bound']:.0%} ({names}). Measure again on a quieter machine, or with more --repeats."]  # fmt: skip


def markdown(data: dict) -> str:
    """A row per model: parameters, and per workload the speed-up, with MACs and memory of the longest fixed length."""
    groups = _by_workload(data)
    columns, longest = {}, None
    for (workload, tf32), rows in groups.items():
        if rows[0]["arrangement"] == "even":
            longest = (workload, tf32)
        for arrangement in dict.fromkeys(row["arrangement"] for row in rows):
            several = len({row["arrangement"] for row in rows}) > 1
            title = workload + f", {arrangement}" * several + ", TF32" * tf32
            columns[title] = {row["name"]: row for row in rows if row["arrangement"] == arrangement}
    costs = {row["name"]: row for row in groups[longest or next(iter(groups))]}
    at = (longest or next(iter(groups)))[0]
    header = ["", "parameters", f"MACs, {at}", f"peak memory, {at}", *columns]
    table = [header, ["---"] * len(header)]
    for name, cost in costs.items():
        cells = [f"{name}", _number(cost["params"], "{:,}"), _giga(cost["macs"]), f"{cost['peak_bytes'] / 2**20:,.0f} MiB"]
        for column in columns.values():
            row = column.get(name)
            cells.append(_ratio(row) if row else "-")
        table.append(cells)
    lines = ["| " + " | ".join(row) + " |" for row in table]
    text = f"Speed-up over {data['baseline']}, pair by pair. {headline(data)}."
    return "\n".join([text, "", *lines, *("\n" + note for note in [*data.get("notes", []), *noise(data)]), ""])


def as_csv(data: dict) -> str:
    """All results, one row each; shares of the time in columns of their own."""
    rows = []
    for result in data["results"]:
        row = {key: value for key, value in result.items() if key != "shares"}
        rows.append(row | {f"share_{part}": (result["shares"] or {}).get(part) for part in _PARTS})
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write(data: dict, folder: Path) -> list[Path]:
    """Write `timing.json`, `.csv`, `.md` and `.png` into a folder.

    Raises:
        UserError: one stands there already, or cannot be written.
    """
    from s3prl_pruned.checkpoint import write_text
    from s3prl_pruned.measure.timing.picture import draw
    from s3prl_pruned.superb.results import write_json

    paths = {kind: folder / f"timing.{kind}" for kind in ("json", "csv", "md", "png")}
    refuse_existing(folder)
    write_text(paths["csv"], as_csv(data))
    write_text(paths["md"], markdown(data))
    write_json(paths["json"], data)
    draw(data, paths["png"])
    return list(paths.values())


def refuse_existing(folder: Path) -> None:
    """Raise UserError where `write` would have to overwrite."""
    standing = [path for path in sorted(folder.glob("timing.*")) if path.suffix in (".json", ".csv", ".md", ".png")]
    if standing:
        raise UserError(f"{standing[0]}: exists already, and a result is never overwritten. Name another folder (--output).")


def _by_workload(data: dict) -> dict[tuple[str, bool], list[dict]]:
    groups: dict[tuple[str, bool], list[dict]] = {}
    for row in data["results"]:
        groups.setdefault((row["workload"], row["tf32"]), []).append(row)
    return groups


def _cells(row: dict) -> list[str]:
    shares = row["shares"] or {}
    return [
        row["name"], row["arrangement"], _number(row["params"], "{:,}"), _giga(row["macs"]), _time(row["seconds"]),
        _time(row["seconds_spread"]), _time(row["seconds_mean"]), f"{row['ratio']:.2f}", f"{row['ratio_spread']:.2f}",
        f"{row['real_time_factor']:.4f}", f"{row['audio_per_second']:.1f}", f"{row['peak_bytes'] / 2**20:.0f} MiB",
        *(_number(shares.get(part), "{:.0%}") for part in _PARTS), "NOISY" if row["noisy"] else "",
    ]  # fmt: skip


def _ratio(row: dict) -> str:
    return f"{row['ratio']:.2f}" + f" (noisy, IQR {row['ratio_spread']:.2f})" * row["noisy"]


def _number(value, text: str) -> str:
    return "-" if value is None else text.format(value)


def _giga(macs: int | None) -> str:
    return _number(None if macs is None else macs / 1e9, "{:.2f} G")


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1000 * seconds:.1f} ms"
