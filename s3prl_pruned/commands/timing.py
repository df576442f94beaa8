r"""Time models beside each other: ours, s3prl's, transformers', torchaudio's, on a CPU or a GPU.

    python tools/timing.py --baseline s3prl:wavlm_base --models ours:dense,ours:even,ours:conc,hf:wavlm_base \
        --random --lengths 1,5,15 --threads 1 --dtype fp32
    python tools/timing.py --baseline s3prl:wavlm_base --models ours:conc --random --mixed 4-10 --utterances 8
    python tools/timing.py --baseline s3prl:wavlm_base --models result/pretrain/wavlm_pruned_distill/seed1/export
    python tools/timing.py --peers --lengths 1,5 --threads 1
    python tools/timing.py --paper-table2 --corpus /data/LibriSpeech/dev-clean
    python tools/timing.py --chunks --models ours:dense,ours:conc,ours:conc+ort --threads 1 --device cpu
    python tools/timing.py --table downstream_runs/timing_cpu.json
    python tools/timing.py --models ours:wavlm_base --lengths 5 --threads 1 --latency-table wavlm_base_5s.json

Runs are interleaved and ratios taken pair by pair. Without --lengths and --mixed the models encode a corpus (the
embedded speech), one utterance at a time and in length-bucketed batches: the paper's protocol, whose figure is the mean
of 5 runs. A model that cannot be built or run is left out with its reason; the exit status is then 1. The last line
speedup=2.5 reads: the parts of one shape in several sizes, for one length, on this device.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_pruned.config import UserError
from s3prl_pruned.own_commands import Parser

if TYPE_CHECKING:
    from s3prl_pruned.timing.benchmark import Options

_PAPERS_BASELINE, _PAPERS_MODELS = "s3prl:wavlm_base", ("ours:dense", "ours:even", "ours:conc")


def main(argv: list[str] | None = None) -> None:
    """Time, or write a latency table, or print the table of an earlier document.

    Args:
        argv: command line; None is the process's own.
    """
    args = make_parser().parse_args(argv)
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

    parser = Parser("timing", description=__doc__, epilog=GRAMMAR, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", metavar="NAME,NAME", default="", help="what to time (names below); the baseline is added")
    add("--baseline", metavar="NAME", help="whose time is divided by the others' (default: the first model)")
    add(
        "--random",
        action="store_true",
        help="random weights of the named shapes: nothing is downloaded, and all of one shape get the same",
    )
    add("--lengths", metavar="S,NxS", help="seconds of audio, noise: such as 1,5,12x5 (the last: a batch of 12)")
    add(
        "--batch",
        metavar="N",
        type=int,
        default=1,
        help="utterances per call where --lengths names none (default: %(default)s)",
    )
    add(
        "--mixed",
        metavar="A-B",
        help="also a batch of lengths spread over A to B seconds: padded, and bucketed so that nothing is padded",
    )
    add("--utterances", metavar="N", type=int, default=8, help="of --mixed (default: %(default)s)")
    add(
        "--corpus",
        metavar="PATH",
        nargs="?",
        const="",
        help="also a corpus (as run_pretrain.py's; without PATH the embedded speech)",
    )
    tables = parser.add_mutually_exclusive_group()
    tables.add_argument(
        "--paper-table2",
        action="store_true",
        help="the paper's Table 2 for this device: the dense model (--baseline), even and conc, random weights, 5 runs "
        "over dev-clean (--corpus; without it the embedded speech), with the paper's numbers beside them",
    )
    tables.add_argument(
        "--peers",
        action="store_true",
        help="published compressed encoders side by side, and beside --models: their structures with random weights, "
        "all in our encoder. Without --lengths, --mixed and --corpus 1 s and 5 s of audio",
    )
    add(
        "--chunks",
        metavar="S,S",
        nargs="?",
        const="0.5,1,2",
        help="what chunks of audio cost a program that starts, of models of ours: loading, calls, memory; each in "
        "processes of its own (default lengths: %(const)s)",
    )
    add("--limit", metavar="N", type=int, help="only so many utterances of the corpus, spread over it")
    add(
        "--bucket-seconds",
        metavar="S",
        type=float,
        default=64.0,
        help="most audio of a length-bucketed batch (default: %(default)s)",
    )
    add("--dtype", default="fp32", help="fp32, bf16 or fp16, of all models that name none (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add(
        "--threads",
        metavar="N",
        type=int,
        default=1,
        help="of torch, or of another runtime, on a CPU (default: %(default)s)",
    )
    add(
        "--repeats",
        metavar="N",
        type=int,
        help="timed runs of each model, such as the paper's 5 (default: 5 to 20 repeats, each of as many runs as "
        "--min-seconds needs)",
    )
    add(
        "--min-seconds",
        metavar="S",
        type=float,
        default=1.0,
        help="of timed runs of each model on each workload, without --repeats (default: %(default)s)",
    )
    add(
        "--autocast",
        action="store_true",
        help="with --dtype bf16 or fp16: weights stay fp32, and torch.autocast computes",
    )
    add(
        "--include-loading",
        action="store_true",
        help="a run also reads its audio (a corpus: from its files) and copies it to the device",
    )
    add("--tf32", action="store_true", help="CUDA: everything a second time with TF32 on; it is off otherwise")
    add("--seed", metavar="N", type=int, default=0, help="of random weights and noise (default: %(default)s)")
    add("--output", metavar="DIR", type=Path, help="also write timing.json, .csv, .md and .png here")
    add(
        "--latency-table",
        metavar="FILE",
        type=Path,
        help="time the parts of one shape (--models; random weights) instead, and write them as JSON",
    )
    add(
        "--table", metavar="JSON", type=Path, help="time nothing: print the Markdown table of a document written before"
    )
    return parser


def _options(args: argparse.Namespace) -> "Options":
    import torch

    from s3prl_pruned.timing import peers
    from s3prl_pruned.timing.benchmark import Options
    from s3prl_pruned.timing.inputs import parse_lengths, parse_range

    models = [name.strip() for name in args.models.split(",") if name.strip()]
    if args.paper_table2:
        if args.lengths or args.mixed:
            raise UserError("the paper's Table 2 is of a corpus. Leave --lengths and --mixed out.")
        args.baseline, args.random, args.repeats = args.baseline or _PAPERS_BASELINE, True, args.repeats or 5
        models = [*_PAPERS_MODELS, *models]
    if args.peers:
        if args.chunks is not None or args.latency_table:
            raise UserError("published encoders are a table of their own. Leave --chunks and --latency-table out.")
        args.baseline, args.random = args.baseline or peers.BASELINE, True
        models = [*peers.MODELS, *models]
        if not (args.lengths or args.mixed or args.corpus is not None):
            args.lengths = peers.LENGTHS
    if not (models or args.baseline):
        raise UserError("no model is named. Give --models, such as ours:dense,ours:conc, and perhaps --baseline.")
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
            "a latency table is of one shape and one length, but these are given: "
            f"{options.models}, {[seconds for seconds, _ in lengths]}."
        )
    if args.latency_table.exists():
        raise UserError(
            f"{args.latency_table}: exists already, and is never overwritten. Name another file, or move it."
        )
    config = Builder(random=True).build(parse(options.models[0])).config
    if config is None:
        raise UserError(f"{options.models[0]!r}: its shape is not known. Name one of ours, such as ours:wavlm_base.")
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
        raise UserError("chunks are a table of their own. Leave --lengths, --mixed and --output out.")
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
