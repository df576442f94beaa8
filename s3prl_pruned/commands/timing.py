"""Measure the inference time of models side by side: ours, s3prl's, transformers', torchaudio's: `tools/timing.py`."""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_pruned.config import UserError
from s3prl_pruned.parsers import Parser

if TYPE_CHECKING:
    from s3prl_pruned.timing.benchmark import Options

EXAMPLES = """
python tools/timing.py --baseline s3prl:wavlm_base --models my_export --lengths 5
python tools/timing.py --models ours:dense,ours:conc --random --lengths 1,5
python tools/timing.py --peers --models my_export --lengths 1,5
python tools/timing.py --models ours:wavlm_base --lengths 5 --latency-table my_device.json
"""
NOTES = """
The runs of all models are interleaved, and ratios are taken run by run. Without --lengths and
--mixed a corpus is encoded, one utterance at a time and in length-bucketed batches: the paper's
protocol, which reports the mean of 5 runs. Models that cannot be built or run are listed with the
reason, and the exit status is 1. The last line of the output is the result as JSON. --peers uses
random weights, and 1 s and 5 s of audio by default. --latency-table times the parts of one
architecture in several sizes, for `run_pretrain.py --target speedup=2.5`.
"""
_PAPERS_BASELINE, _PAPERS_MODELS = "s3prl:wavlm_base", ("ours:dense", "ours:even", "ours:conc")


def main(argv: list[str] | None = None) -> None:
    """Time models, or write a latency table, or print the table of an earlier document.

    Args:
        argv: command line; None is the process's own.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.peers and args.paper_table2:
        parser.error("argument --paper-table2: not allowed with argument --peers")
    from s3prl_pruned.report import timing as report
    from s3prl_pruned.superb.results.result import read_json

    if args.table:
        data = report.check_document(read_json(args.table), str(args.table))
        with report.FILES.damage_named(str(args.table)):
            table = _table(data, paper=args.paper_table2)
            print(*(report.write(data, args.output, table) if args.output else [table.rstrip("\n")]), sep="\n")
        return
    if args.latency_table:
        _write_latency_table(args)
        return
    if args.chunks is not None:
        _measure_chunks(args)
        return
    from s3prl_pruned.timing import benchmark, peers

    if args.output:
        report.refuse_existing(args.output)
    warnings.filterwarnings("ignore", module=r"(s3prl|torch|torchaudio|transformers)\b")  # their own deprecations
    options = _options(args)
    data = benchmark.run(options, progress=lambda text: print(text, file=sys.stderr, flush=True))
    if args.peers:
        data["not_timed"] = [{"name": name, "reason": reason} for name, reason in peers.NOT_TIMED.items()]
    table = _table(data, paper=args.paper_table2)
    print(table if args.paper_table2 or args.peers else report.screen(data))
    if args.output:
        print("\nwritten: " + ", ".join(map(str, report.write(data, args.output, table))))
    print(json.dumps(data, allow_nan=False))
    if data["lost"]:
        sys.exit(1)


def _table(data: dict, *, paper: bool) -> str:
    from s3prl_pruned.report import timing, timing_paper, timing_peers

    if paper:
        return timing_paper.paper_table(data)
    return timing_peers.peers_table(data) if "not_timed" in data else timing.markdown(data)


def make_parser() -> Parser:
    """The parser."""
    from s3prl_pruned.timing.names import GRAMMAR

    parser = Parser(
        "timing",
        usage="--models NAME,NAME [--baseline NAME] [--lengths S,S] [OPTION ...]",
        examples=EXAMPLES,
        notes=f"{NOTES}\n{GRAMMAR}",
    )
    add = parser.add_argument
    add(
        "--models",
        metavar="NAME,NAME",
        default="",
        help="models to time: exported folders, checkpoints, ours:wavlm_base, s3prl:wavlm_base, ...; --help-all lists "
        "all names",
    )
    add("--baseline", metavar="NAME", help="model that speed-ups are relative to (default: the first one)")
    add("--random", action="store_true", help="use random weights; nothing is downloaded")
    add("--lengths", metavar="S,NxS", help="seconds of noise, such as 1,5,12x5; 12x5 is a batch of 12")
    add("--corpus", metavar="PATH", nargs="?", const="", help="time on a corpus (default: the embedded speech)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda if available)")
    add("--threads", metavar="N", type=int, default=1, help="CPU threads (default: %(default)s)")
    add("--dtype", default="fp32", help="fp32, bf16 or fp16 (default: %(default)s)")
    add("--peers", action="store_true", help="time published compressed encoders, and --models, side by side")
    add("--output", metavar="DIR", type=Path, help="also write timing.json, .csv, .md and .png to this folder")
    add("--latency-table", metavar="FILE", type=Path, help="time the parts of one model, for pruning to a latency")
    _add_workloads(parser)
    _add_measurement(parser)
    add = parser.add_argument_group("other tables").add_argument
    add(
        "--paper-table2",
        action="store_true",
        help="reproduce the paper's Table 2 on this device: the dense model, even and conc, with random weights, 5 "
        "runs over dev-clean (--corpus), next to the paper's numbers; not with --peers",
    )
    add(
        "--chunks",
        metavar="S,S",
        nargs="?",
        const="0.5,1,2",
        help="measure the loading time, the time per chunk and the memory of a new process that encodes chunks of "
        "audio; ours only (default lengths: %(const)s)",
    )
    add("--table", metavar="JSON", type=Path, help="measure nothing: print the Markdown table of an earlier document")
    return parser


def _add_workloads(parser: Parser) -> None:
    add = parser.add_argument_group("workloads").add_argument
    add(
        "--batch",
        metavar="N",
        type=int,
        default=1,
        help="batch size of --lengths entries that name none (default: %(default)s)",
    )
    add(
        "--mixed",
        metavar="A-B",
        help="add a batch of lengths between A and B seconds, once padded and once in buckets without padding",
    )
    add("--utterances", metavar="N", type=int, default=8, help="batch size of --mixed (default: %(default)s)")
    add("--limit", metavar="N", type=int, help="use only N utterances, spread over the corpus")
    add(
        "--bucket-seconds",
        metavar="S",
        type=float,
        default=64.0,
        help="most audio in a length-bucketed batch of the corpus (default: %(default)s)",
    )


def _add_measurement(parser: Parser) -> None:
    add = parser.add_argument_group("measurement").add_argument
    add(
        "--repeats",
        metavar="N",
        type=int,
        help="timed runs per model, such as the paper's 5 (default: 5 to 20 repeats, each with as many runs as "
        "--min-seconds needs)",
    )
    add(
        "--min-seconds",
        metavar="S",
        type=float,
        default=1.0,
        help="time spent per model and workload, without --repeats (default: %(default)s)",
    )
    add("--autocast", action="store_true", help="with bf16 or fp16: keep fp32 weights and use torch.autocast")
    add("--include-loading", action="store_true", help="include reading the audio and copying it to the device")
    add("--tf32", action="store_true", help="on CUDA, measure a second time with TF32 (otherwise it is off)")
    add("--seed", metavar="N", type=int, default=0, help="seed of random weights and noise (default: %(default)s)")


def _options(args: argparse.Namespace) -> "Options":
    import torch

    from s3prl_pruned.timing import peers
    from s3prl_pruned.timing.benchmark import Options
    from s3prl_pruned.timing.inputs import parse_lengths, parse_range

    models = [name.strip() for name in args.models.split(",") if name.strip()]
    if args.paper_table2:
        if args.lengths or args.mixed:
            raise UserError(
                "`--paper-table2` encodes a corpus, so --lengths and --mixed cannot be used with it. Leave them out."
            )
        args.baseline, args.random, args.repeats = args.baseline or _PAPERS_BASELINE, True, args.repeats or 5
        models = [*_PAPERS_MODELS, *models]
    if args.peers:
        if args.chunks is not None or args.latency_table:
            raise UserError("`--peers` cannot be used with --chunks or --latency-table. Leave them out.")
        args.baseline, args.random = args.baseline or peers.BASELINE, True
        models = [*peers.MODELS, *models]
        if not (args.lengths or args.mixed or args.corpus is not None):
            args.lengths = peers.LENGTHS
    if not (models or args.baseline):
        raise UserError("no model is named. Use --models, such as --models ours:dense,ours:conc.")
    return Options(
        baseline=args.baseline or models[0],
        models=models,
        random=args.random,
        lengths=parse_lengths(args.lengths, args.batch),
        mixed=parse_range(args.mixed),
        utterances=args.utterances,
        corpus=args.corpus or None,
        use_corpus=args.corpus is not None or not (args.lengths or args.mixed),
        limit=args.limit,
        bucket_s=args.bucket_seconds,
        dtype=args.dtype,
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        threads=args.threads,
        repeats=args.repeats,
        min_seconds=args.min_seconds,
        seed=args.seed,
        tf32=args.tf32,
        autocast=args.autocast,
        include_loading=args.include_loading,
    )


def _write_latency_table(args: argparse.Namespace) -> None:
    from s3prl_pruned.checkpoint import write_text
    from s3prl_pruned.config import to_dict
    from s3prl_pruned.timing.benchmark import check_options
    from s3prl_pruned.timing.latency import describe_table, measure_table
    from s3prl_pruned.timing.models import Builder
    from s3prl_pruned.timing.names import parse
    from s3prl_pruned.timing.timed_model import DTYPES

    options = _options(args)
    check_options(options)
    lengths = options.lengths or [(5.0, 1)]
    if len(options.models) != 1 or len(lengths) != 1:
        raise UserError(
            "`--latency-table` needs exactly one model and one length, but they are: "
            f"{options.models}, {[seconds for seconds, _ in lengths]}."
        )
    if args.latency_table.exists():
        raise UserError(
            f"{args.latency_table}: exists already, and is never overwritten. Choose another file, or move it."
        )
    config = Builder(random=True).build(parse(options.models[0])).config
    if config is None:
        raise UserError(f"{options.models[0]!r}: its shape is unknown. Use one of ours, such as ours:wavlm_base.")
    table = measure_table(
        config,
        options.setting,
        utterance_seconds=lengths[0][0],
        dtype=DTYPES[options.dtype],
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    write_text(args.latency_table, json.dumps(to_dict(table)) + "\n")
    print("\n".join([*describe_table(table), f"written: {args.latency_table}"]))


def _measure_chunks(args: argparse.Namespace) -> None:
    from s3prl_pruned.report.timing_chunks import chunk_table
    from s3prl_pruned.timing.benchmark import check_options
    from s3prl_pruned.timing.chunks import measure_chunks
    from s3prl_pruned.timing.document import document
    from s3prl_pruned.timing.inputs import parse_lengths

    options = _options(args)
    check_options(options)
    options.repeats = options.repeats or 3
    if options.lengths or options.mixed or args.output:
        raise UserError("`--chunks` cannot be used with --lengths, --mixed or --output. Leave them out.")
    with tempfile.TemporaryDirectory(prefix="s3prl_pruned_chunks_") as folder:
        rows, lost = measure_chunks(
            list(dict.fromkeys([options.baseline, *options.models])),
            Path(folder),
            lengths=[seconds for seconds, _ in parse_lengths(args.chunks, 1)],
            device=options.device,
            threads=options.threads,
            repeats=options.repeats,
            seed=options.seed,
            progress=lambda text: print(text, file=sys.stderr, flush=True),
        )
    data = {**document(options.setting, [], lost=lost), "results": rows}
    print(chunk_table(data))
    print(json.dumps(data, allow_nan=False))
    if lost:
        sys.exit(1)
