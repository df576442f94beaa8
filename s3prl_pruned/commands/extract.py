"""Write the hidden states of all audio files in a folder: `tools/extract_features.py`."""

import sys
from pathlib import Path

from s3prl_pruned.parsers import Parser

EXAMPLES = """
python tools/extract_features.py result/.../export recordings --layer 6
python tools/extract_features.py wavlm_base_plus recordings --device cuda --dtype bf16 --half
"""
NOTES = """
Each audio file gives one feature file with the same name and subfolder: (T, D) for one layer, or
(L + 1, T, D), at 50 frames per second. The same command resumes after an interruption.
"""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def make_parser() -> Parser:
    """The parser."""
    parser = Parser("extract", usage="MODEL FOLDER [--layer N] [OPTION ...]", examples=EXAMPLES, notes=NOTES)
    add = parser.add_argument
    add("model", metavar="MODEL", help="exported folder, checkpoint, URL, or name in s3prl.hub")
    add("folder", metavar="FOLDER", type=Path, help="folder of audio files; subfolders are included")
    add("--output", type=Path, metavar="DIR", help="output folder (default: FOLDER-features)")
    add("--layer", type=int, metavar="N", help="hidden state to write, from 0 (default: all)")
    add(
        "--format",
        metavar="FORMAT",
        choices=["npy", "safetensors", "h5"],
        default="npy",
        help="%(choices)s (default: %(default)s)",
    )
    add("--half", action="store_true", help="write fp16, which halves the file size")
    add("--device", default="cpu", help="torch device (default: %(default)s)")
    add(
        "--dtype",
        metavar="DTYPE",
        choices=list(DTYPES),
        default="fp32",
        help="precision of the model: %(choices)s; bf16 is fast on CPUs with AMX or AVX512-BF16 (default: %(default)s)",
    )
    add("--compiled", action="store_true", help="use CUDA graphs")
    add = parser.add_argument_group("long audio").add_argument
    add(
        "--chunk-seconds",
        type=float,
        metavar="S",
        help="encode longer audio in chunks of this length, to bound memory (default: encode each file in one piece)",
    )
    add(
        "--context-seconds",
        type=float,
        metavar="S",
        default=5.0,
        help="extra audio on each side of a chunk (default: %(default)s)",
    )
    add = parser.add_argument_group("hidden states").add_argument
    add(
        "--states",
        metavar="SET",
        choices=["own", "s3prl"],
        default="own",
        help="own: the states that the model defines; s3prl: the same states as s3prl's upstreams "
        "(default: %(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Extract, and print what was written. The exit status is 1 if a file could not be read.

    Args:
        argv: command line; None is the process's own.
    """
    args = make_parser().parse_args(argv)

    import torch

    from s3prl_pruned.config import UserError
    from s3prl_pruned.distributed import check_device
    from s3prl_pruned.features.chunks import Chunks
    from s3prl_pruned.features.folder import FeatureFiles, extract_folder
    from s3prl_pruned.features.loaded import load
    from s3prl_pruned.models.accelerate.int8 import is_int8

    output = args.output or args.folder.with_name(f"{args.folder.resolve().name}-features")
    if output.resolve() == args.folder.resolve():
        raise UserError(f"{output}: must not be the folder of the audio itself. Choose another --output.")
    check_device(args.device)
    encoder = load(args.model, device=args.device, compiled=args.compiled, states=args.states)
    if args.dtype != "fp32":
        if is_int8(encoder.encoder):
            raise UserError(f"{args.model}: is an int8 export, whose precision is fixed. Leave out --dtype.")
        encoder.to(getattr(torch, DTYPES[args.dtype]))
    chunks = None if args.chunk_seconds is None else Chunks(args.chunk_seconds, args.context_seconds)
    files = FeatureFiles(layer=args.layer, format=args.format, half=args.half, chunks=chunks)
    unread = extract_folder(encoder, args.folder, output, files)
    print(f"features written to {output}")
    for path, reason in unread.items():
        print(f"could not be read: {path}: {reason}", file=sys.stderr)
    if unread:
        sys.exit(1)
