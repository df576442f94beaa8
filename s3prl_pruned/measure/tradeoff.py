"""What every exported model costs and what it is worth, joined by the hash of its weights into one document.

    exports (structure, weights) + timing (one run for all) + results (the score table's readers) -> JSON
    -> `tradeoff_report.py`: table, pictures, page

Costs: parameters, those that are not zero, multiply-accumulates, time. Qualities: whatever the results hold.
"""

import datetime
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError
from s3prl_pruned.export.formats import CONFIG, WEIGHTS, file_sha256, is_huggingface_folder, load_encoder
from s3prl_pruned.measure.timing.clock import TimingSetting, compare
from s3prl_pruned.measure.timing.document import document, versions
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import EncoderConfig
from s3prl_pruned.pretrain.asr.recognizer import TEST, read_test
from s3prl_pruned.sparsity.counts import macs, prunable_weights, sparsity
from s3prl_pruned.superb.mini_score import mini_scores
from s3prl_pruned.superb.table import Row, make_rows
from s3prl_pruned.superb.tasks import TASKS

SECONDS = 5.0
"""Audio at which MACs and time are told."""
COSTS = ("parameters", "nonzero_parameters", "macs", "seconds")


@dataclass(kw_only=True)
class Quality:
    """One figure of one model."""

    value: float
    better: str
    """`up` or `down`."""
    protocol: str
    """Only figures of one protocol are compared."""
    runs: int = 1
    """Of which `value` is the mean (rows of the same weights, such as seeds of a task)."""


@dataclass(kw_only=True)
class Entry:
    """One model."""

    name: str
    method: str
    path: str | None
    """Of the export; None for the dense teacher."""
    sha256: str | None
    teacher: str | None
    note: str | None
    """Such as "random teacher"."""
    rate: float
    """Realised sparsity: share of the dense encoder's prunable weights that is gone or zero."""
    steps: int | None
    parameters: int
    nonzero_parameters: int
    macs: int
    """For `SECONDS` of audio; zeros are counted, since no kernel here leaves them out."""
    seconds: float | None = None
    """Median of one call with `SECONDS` of audio."""
    speed: float | None = None
    """Baseline's time over this one's, pair by pair."""
    noisy: bool = False
    qualities: dict[str, Quality] = field(default_factory=dict)
    pareto: list[str] = field(default_factory=list)
    """`quality/cost` pairs in which no other model is better or cheaper without being worse in the other."""


def gather(
    roots: Sequence[Path], results: Sequence[Path], *, timing: dict | None = None, repeats: int = 11, threads: int = 1
) -> dict:
    """Read everything; time the models where no timing is given.

    Args:
        roots: folders with exported models, at any depth (those that `--force` moved aside are passed over).
        results: folders that `tools/superb_score.py` reads; none where nothing was measured yet.
        timing: a document of `tools/timing.py`, or of an earlier report; its rows are found by hash, path or name.
        repeats: timed runs of each model; 0 times nothing.
        threads: of the timing.

    Returns:
        The report's JSON document.

    Raises:
        UserError: no model, or one that is damaged; results that cannot be read.
    """
    models = _models(roots)
    rows = [row for folder in results for row in make_rows(folder)[0]]
    entries = [entry for entry, _ in models]
    if timing is None and repeats:
        setting = TimingSetting(baseline=_baseline(entries), threads=threads, repeats=repeats)
        timing = document(setting, compare({entry.name: encoder for entry, encoder in models}, setting, seconds=SECONDS))
    notes = _add_times(entries, timing) if timing else ["nothing was timed"]
    notes += _add_qualities(entries, rows)
    mark_pareto(entries)
    return {
        "entries": [asdict(entry) for entry in entries],
        "seconds_of_audio": SECONDS,
        "timing": timing,
        "notes": notes,
        "versions": versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _models(roots: Sequence[Path]) -> list[tuple[Entry, SpeechEncoder]]:
    """Every export, and before them the dense encoder of each shape (random weights: for its costs alone)."""
    exports, dense = [], {}
    for folder in _exports(roots):
        encoder, provenance = load_encoder(folder, for_inference=True)
        exports.append((_entry(folder, encoder, provenance), encoder))
        teacher = provenance.get("teacher") or {}
        dense.setdefault((dense_shape(encoder.config), teacher.get("sha256")), (teacher.get("name"), provenance.get("teacher_note")))
    if not exports:
        raise UserError(f"{', '.join(map(str, roots))}: no exported model is there. Make one with run_pretrain.py.")
    names = [entry.name for entry, _ in exports]
    for entry, _ in exports:
        if names.count(entry.name) > 1:
            entry.name = str(Path(entry.path))
    wholes = []
    for (config, sha256), (name, note) in dense.items():
        encoder = SpeechEncoder(config).eval()
        label = f"dense {name or config.family}" + (f" {len(wholes) + 1}" if len(dense) > 1 else "")
        wholes.append((_costs(label, "dense", encoder, sha256=sha256, teacher=name, note=note), encoder))
    return wholes + exports


def dense_shape(config: EncoderConfig) -> EncoderConfig:
    """Without the settings of training: one dense encoder serves all students of one teacher."""
    return replace(config, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feature_grad_mult=1.0)


def _exports(roots: Sequence[Path]) -> Iterator[Path]:
    found = {path.parent for root in roots for path in [root / CONFIG, *root.rglob(CONFIG)] if path.is_file()}
    for folder in sorted(found):
        aside = any(".old-" in part for part in folder.parts)
        if not aside and (folder / WEIGHTS).is_file() and not is_huggingface_folder(folder):
            yield folder


def _entry(folder: Path, encoder: SpeechEncoder, provenance: dict) -> Entry:
    run = folder.parent if folder.name == "export" else folder
    teacher = (provenance.get("teacher") or {}).get("name")
    entry = _costs(
        run.name, method_name(provenance), encoder, sha256=file_sha256(folder / WEIGHTS), teacher=teacher,
        note=provenance.get("teacher_note"),
    )  # fmt: skip
    entry.path, entry.steps = str(folder), provenance.get("step")
    if (run / TEST).is_file():  # of -u <family>_pruned_asr, with its own CTC head
        entry.qualities["CTC wer"] = Quality(value=100 * read_test(run)["wer"], better="down", protocol="fine-tuned whole")
    return entry


def _costs(name: str, method: str, encoder: SpeechEncoder, **more) -> Entry:
    config, spec, left = encoder.config, encoder.spec, weights_left(encoder)
    zeros = prunable_weights(config, spec) - left
    return Entry(
        name=name, method=method, path=None, steps=None, rate=sparsity(left, config, with_cnn=spec.channels is not None),
        parameters=encoder.num_parameters(), nonzero_parameters=encoder.num_parameters() - zeros,
        macs=sum(macs(config, spec, round(16_000 * SECONDS)).values()), **more,
    )  # fmt: skip


def method_name(provenance: dict) -> str:
    """A short name for what made a model, from its recipe; what the provenance calls it where there is none."""
    recipe = (provenance.get("recipe") or {}).get("model") or {}
    compress, gates = recipe.get("compress"), recipe.get("gates")
    precision = " + int8" if "int8_error" in provenance else ""
    if "first_stage" in provenance:
        return f"{method_name(provenance['first_stage'])}, second stage" + precision
    if compress:
        detail = {"heads": f" ({compress.get('head_scores')})", "low_rank": f" ({compress.get('ranks')})"}
        return " + ".join(name + detail.get(name, "") for name in compress["techniques"]) + precision
    if recipe.get("self_pinching"):
        return f"self-pinching ({', '.join(recipe['self_pinching'].get('kinds', []))})" + precision
    if gates:
        ste = "" if gates.get("straight_through", True) else " without STE"
        return f"hard concrete ({', '.join(gates.get('kinds', []))}){ste}" + precision
    return str(provenance.get("method", "unknown")) + precision


def _baseline(entries: list[Entry]) -> str:
    """The dense encoder with the most MACs."""
    return max((entry for entry in entries if entry.method == "dense"), key=lambda entry: entry.macs).name


def _add_times(entries: list[Entry], timing: dict) -> list[str]:
    """Fill in times; a document of other lengths, or without some model, is told."""
    rows = [row for row in timing.get("results", []) if row.get("length_s") == SECONDS and row.get("batch") == 1]
    missing = []
    for entry in entries:
        found = [row for row in rows if _is_of(row, entry)]
        if found:
            entry.seconds, entry.speed, entry.noisy = found[0]["seconds"], found[0]["ratio"], found[0]["noisy"]
        else:
            missing.append(entry.name)
    notes = [f"time: {timing.get('machine')}, {timing.get('threads')} thread(s), {timing.get('date', '')[:10]}; speed is against {timing['baseline']}"]
    noisy = [entry.name for entry in entries if entry.noisy]
    if missing:
        notes.append(f"the timing has no row for {SECONDS:g} s of: {', '.join(missing)}")
    if noisy:
        notes.append(f"TOO NOISY a machine when these were timed: {', '.join(noisy)}. Time them again on a quieter one.")
    return notes


def _is_of(row: dict, entry: Entry) -> bool:
    by_hash = entry.sha256 is not None and entry.sha256[:12] in str(row.get("weights"))
    by_path = entry.path is not None and Path(row["name"]).resolve() == Path(entry.path).resolve()
    return by_hash or by_path or row["name"] == entry.name


def _add_qualities(entries: list[Entry], rows: list[Row]) -> list[str]:
    """Fill in every metric, score and mini-score of the rows that are of an entry's weights."""
    notes, by_hash = [], {}
    for row in rows:
        if row.sha256 is not None:
            by_hash.setdefault(row.sha256, []).append(row)
    minis = _mini_scores(rows, {entry.sha256 for entry in entries if entry.method == "dense"}, notes)
    for entry in entries:
        found: dict[str, list[Quality]] = {}
        for row in by_hash.get(entry.sha256, []):
            for name, quality in _qualities(row, minis.get(row.name)).items():
                found.setdefault(name, []).append(quality)
        for name, several in found.items():
            protocols = sorted({quality.protocol for quality in several})
            if len(protocols) > 1:
                raise UserError(f"{entry.name}: its results of {name} are of several protocols, {protocols}. Leave one of them out.")
            value = statistics.fmean(quality.value for quality in several)
            entry.qualities[name] = Quality(value=value, better=several[0].better, protocol=protocols[0], runs=len(several))
    without = [entry.name for entry in entries if not entry.qualities]
    if any("CTC wer" in entry.qualities for entry in entries):
        notes.append("CTC wer: of recognisers fine-tuned as a whole, on their own test sets; not to be compared with frozen encoders' asr wer")
    if without:
        notes.append(f"no result is of these weights: {', '.join(without)}")
    return notes


def _qualities(row: Row, mini: float | None) -> dict[str, Quality]:
    found = {}
    for task, result in row.results.items():
        better = {metric.name: metric.better for metric in TASKS[task].metrics} | {"cer": "down"}
        for value in result.metrics:
            if value.name in better:
                found[f"{task} {value.name}"] = Quality(value=value.percent, better=better[value.name], protocol=result.protocol)
    protocols = " and ".join(sorted({result.protocol for result in row.results.values()}))
    for scale, score in row.scores.items():
        if score.total is not None:
            found[f"score ({scale})"] = Quality(value=score.total, better="up", protocol=protocols)
    if mini is not None:
        found["mini-score"] = Quality(value=mini, better="up", protocol=protocols)
    return found


def _mini_scores(rows: list[Row], teachers: set[str | None], notes: list[str]) -> dict[str, float]:
    """By row, where FBANK's and a teacher's row stand among them."""
    low = [row.name for row in rows if any(result.upstream.name == "fbank" for result in row.results.values())]
    high = [row.name for row in rows if row.sha256 is not None and row.sha256 in teachers]
    if not low or not high:
        return {}
    try:
        scores, left_out = mini_scores(rows, low[0], high[0])
    except UserError as error:
        notes.append(f"no mini-score: {error}")
        return {}
    notes += [f"mini-score: 0 is {low[0]}, 1000 is {high[0]}", *(f"mini-score leaves out {reason}" for reason in left_out)]
    return {score.name: score.total for score in scores if score.total is not None}


def mark_pareto(entries: list[Entry]) -> None:
    """Mark, for each quality and cost, the models that no other beats; among figures of one protocol."""
    for entry in entries:
        entry.pareto = [
            f"{name}/{cost}"
            for name, quality in entry.qualities.items()
            for cost in COSTS
            if getattr(entry, cost) is not None and not any(_beats(other, entry, name, cost) for other in entries)
        ]


def _beats(other: Entry, entry: Entry, name: str, cost: str) -> bool:
    """Whether another model is no worse and no dearer, and one of the two better."""
    theirs, ours = other.qualities.get(name), entry.qualities[name]
    if theirs is None or theirs.protocol != ours.protocol or getattr(other, cost) is None:
        return False
    gain = (theirs.value - ours.value) * (1 if ours.better == "up" else -1)
    saved = getattr(entry, cost) - getattr(other, cost)
    return gain >= 0 and saved >= 0 and (gain > 0 or saved > 0)
