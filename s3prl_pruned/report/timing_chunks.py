"""Costs of chunks as a table, from the JSON document of `tools/timing.py --chunks` alone."""

from s3prl_pruned.report.timing import lost
from s3prl_pruned.tables import Column, Table


def chunk_table(data: dict) -> str:
    """A row per model and length, in Markdown; speed-ups are relative to the baseline at the same length."""
    first = {row["length_s"]: row for row in data["results"] if row["name"] == data["baseline"]}
    rows = [
        {
            **row,
            "first_ratio": first[row["length_s"]]["first_s"] / row["first_s"] if row["length_s"] in first else None,
            "warm_ratio": first[row["length_s"]]["warm_s"] / row["warm_s"] if row["length_s"] in first else None,
            "real_time_factor": row["warm_s"] / row["length_s"],
        }
        for row in data["results"]
    ]
    columns = [
        Column("name", ""),
        Column("length_s", "chunk", show="{:g} s"),
        Column("load_s", "loading", show=_time),
        Column("first_s", "first call", show=_time),
        Column("first_ratio", "speed-up", show="{:.2f}"),
        Column("warm_s", "warm call", show=_time),
        Column("warm_ratio", "speed-up", show="{:.2f}"),
        Column("real_time_factor", "RTF, warm", show="{:.4f}"),
        Column("peak_bytes", "live tensors", show=_mebibytes),
        Column("resident_bytes", "process", show=_mebibytes),
    ]
    cpu = data["environment"]["cpu"]
    text = (
        f"Chunks, each model and length in its own processes ({data['repeats']} each, medians), speed-ups over "
        f"{data['baseline']}. {data['machine']}, {data['device']}, {data['threads']} thread(s), instruction sets "
        f"{' '.join(cpu['instruction_sets'])}; "
        + ", ".join(f"{key} {value}" for key, value in data["versions"].items())
    )
    return "\n".join([text + ".", "", Table(columns, rows).markdown(), *lost(data), ""])


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
