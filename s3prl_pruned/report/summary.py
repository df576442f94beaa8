"""The summary that `make run` ends with: collected from the runs' files, written as JSON and Markdown."""

from dataclasses import asdict, dataclass
from pathlib import Path

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import CONFIG, model_hash, read_config
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import macs, parameters, realised_sparsity
from s3prl_pruned.superb.results.result import RESULT_FILE, Result, read_result
from s3prl_pruned.tables import Column, Table

_MACS_SECONDS = 5


@dataclass(kw_only=True)
class Recognition:
    """One upstream's speech recognition, in percent."""

    cer: float
    wer: float
    num_utterances: int
    protocol: str


@dataclass(kw_only=True)
class PartTime:
    """One command of the quickstart."""

    title: str
    command: str
    seconds: float
    reused: bool
    """Whether its result already existed when it was called."""


@dataclass(kw_only=True)
class Summary:
    """The content of the summary."""

    export: str
    """Folder of the pruned model's export."""
    sha256: str
    """SHA-256 of its weights."""
    notes: dict[str, str | None]
    """Notes by column, such as "random teacher": shown with every number of such weights."""
    made_from_this_teacher: bool
    """Whether the pruned model was made from exactly the weights of the teacher's column."""
    target_sparsity: float
    realised_sparsity: float
    parameters: tuple[int, int]
    """Parameters before and after, biases included."""
    macs: tuple[int, int]
    """MACs before and after, for 5 s of audio."""
    timing: dict
    """`timing.document`, with the dense encoder as the baseline."""
    recognition: dict[str, Recognition]
    """Recognition by column: FBANK, teacher, pruned."""
    score_table: str
    """The output of tools/superb_score.py."""
    pictures: list[str]
    """Paths of the figures."""
    parts: list[PartTime]
    seconds: float
    """Seconds of the whole call."""


def read_runs(results: Path) -> dict[str, Result]:
    """Read the results of the three runs of speech recognition.

    Args:
        results: the folder that holds `fbank/asr`, `wavlm_embedded/asr` and `wavlm_pruned/asr`.

    Raises:
        UserError: if a file is missing or damaged, or the pruned model has changed since its recognition was measured.
    """
    runs = {
        "FBANK": read_result(results / "fbank" / "asr" / RESULT_FILE),
        "teacher": read_result(results / "wavlm_embedded" / "asr" / RESULT_FILE),
        "pruned": read_result(results / "wavlm_pruned" / "asr" / RESULT_FILE),
    }
    export, sha256 = path_of(runs["pruned"]), runs["pruned"].upstream.sha256
    now = model_hash(export)
    if now != sha256:
        raise UserError(
            f"{export}: is no longer the model whose recognition is in {results} (sha256 {now[:12]}, there "
            f"{str(sha256)[:12]}). Run run_downstream.py -u wavlm_pruned -d asr --force again."
        )
    return runs


def path_of(run: Result) -> Path:
    """The folder of a run's model.

    Raises:
        UserError: if its result does not say.
    """
    if run.upstream.path is None:
        raise UserError(f"the result of {run.upstream.name} does not name its model. Run it again with --force.")
    return Path(run.upstream.path)


def gather(
    runs: dict[str, Result], *, timing: dict, score_table: str, parts: list[PartTime], seconds: float
) -> Summary:
    """Join the commands' results.

    Args:
        runs: from `read_runs`.
        timing: see `Summary`.
        score_table: see `Summary`.
        parts: see `Summary`.
        seconds: see `Summary`.

    Raises:
        UserError: if the export's config.json is damaged.
    """
    export = path_of(runs["pruned"])
    where = str(export / CONFIG)
    config = read_config(export / CONFIG)
    shape, spec = from_dict(EncoderConfig, config["encoder"], where), from_dict(CompactSpec, config["spec"], where)
    dense, provenance = CompactSpec.dense(shape), config["provenance"]
    samples = _MACS_SECONDS * 16_000
    return Summary(
        export=str(export),
        sha256=str(runs["pruned"].upstream.sha256),
        notes={name: run.upstream.teacher_note for name, run in runs.items()},
        made_from_this_teacher=provenance["teacher"]["sha256"] == runs["teacher"].upstream.sha256,
        target_sparsity=provenance["sparsity"]["target"],
        realised_sparsity=realised_sparsity(shape, spec),
        parameters=(sum(parameters(shape, dense).values()), sum(parameters(shape, spec).values())),
        macs=(sum(macs(shape, dense, samples).values()), sum(macs(shape, spec, samples).values())),
        timing=timing,
        recognition={name: _recognition(run) for name, run in runs.items()},
        score_table=score_table,
        pictures=[str(path) for path in sorted((export.parent / "figures").glob("*.png"))],
        parts=parts,
        seconds=seconds,
    )


def _recognition(run: Result) -> Recognition:
    values = run.values()
    return Recognition(
        cer=values["cer"].percent, wer=values["wer"].percent, num_utterances=run.num_utterances, protocol=run.protocol
    )


def as_json(summary: Summary) -> dict:
    """The summary as plain data."""
    return asdict(summary)


def as_markdown(summary: Summary) -> str:
    """The summary as Markdown, aligned, so that it is readable in a terminal too."""
    columns = {name: f"{name} ({note.upper()})" if note else name for name, note in summary.notes.items()}
    protocols = sorted({run.protocol for run in summary.recognition.values()})
    utterances = summary.recognition["pruned"].num_utterances
    lines = [
        f"# WavLM, {100 * summary.realised_sparsity:.1f} % {columns['pruned']}",
        "",
        _table(summary, list(columns.values())),
        "",
        *(
            []
            if summary.made_from_this_teacher
            else ["NOTE: the pruned model was made from other weights than this teacher's.", ""]
        ),
        f"Recognition: {utterances} test utterances of the embedded speech, {' and '.join(protocols)} protocol: it "
        "compares these columns with one another and with nothing else.",
        f"Speed: one thread of this CPU, one utterance at a time, median of {summary.timing['repeats']} pairs.",
        "",
        *_indented(summary.score_table),
        "",
        f"model     {summary.export} (sha256 {summary.sha256[:12]})",
        f"pictures  {', '.join(_grouped(summary.pictures))}",
        *(
            f"time      {_clock(part.seconds)}  {part.title}{' (stood already)' if part.reused else ''}"
            for part in summary.parts
        ),
        f"time      {_clock(summary.seconds)}  in all",
        "",
    ]
    return "\n".join(lines)


def _grouped(paths: list[str]) -> list[str]:
    """The first path in full, the others by name: they are in one folder."""
    return paths[:1] + [Path(path).name for path in paths[1:]]


def _table(summary: Summary, columns: list[str]) -> str:
    """FBANK, teacher and pruned side by side."""
    before, after = (f"{count:,}" for count in summary.parameters)
    whole, rest = (f"{work / 1e9:.3f} G" for work in summary.macs)
    realised = f"{100 * summary.realised_sparsity:.1f} % (target {100 * summary.target_sparsity:g} %)"
    rows = [
        ["sparsity, realised", None, "0.0 %", realised],
        ["parameters", None, before, after],
        [f"MACs for {_MACS_SECONDS} s of audio", None, whole, rest],
    ]
    for seconds in dict.fromkeys(result["length_s"] for result in summary.timing["results"]):
        dense, small = (_timed(summary.timing, name, seconds) for name in ("teacher", "pruned"))
        noisy = ", NOISY machine" if small["noisy"] else ""
        speed = f"{small['ratio']:.2f} times as fast (+-{small['ratio_spread'] / 2:.2f}{noisy})"
        times = [f"{1000 * dense['seconds']:.1f} ms", f"{1000 * small['seconds']:.1f} ms, {speed}"]
        rows.append([f"time for {seconds:g} s of audio", None, *times])
    for rate in ("cer", "wer"):
        values = [f"{getattr(summary.recognition[name], rate):.1f} %" for name in ("FBANK", "teacher", "pruned")]
        rows.append([f"ASR {rate.upper()} ({summary.recognition['pruned'].protocol} protocol)", *values])
    return Table([Column(title, absent="") for title in ("", *columns)], rows).markdown(aligned=True)


def _timed(timing: dict, name: str, seconds: float) -> dict:
    (result,) = [r for r in timing["results"] if r["name"] == name and r["length_s"] == seconds]
    return result


def _indented(text: str) -> list[str]:
    """A code block in Markdown; readable in a terminal too."""
    return [f"    {line}".rstrip() for line in text.strip().splitlines()]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:3d} min {rest:02d} s"
