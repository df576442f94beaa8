"""Write an encoder's hidden states of a folder of audio: `tools/extract_features.py`."""

import argparse
import sys
from pathlib import Path

from s3prl_pruned.own_commands import Parser

EXAMPLES = """\
python tools/extract_features.py result/.../export recordings --layer 6
python tools/extract_features.py wavlm_base_plus recordings --half --device cuda --dtype bf16 --compiled

Each file of audio gets one of features, of the same name and place below the output folder: (T, D) of one layer, or
(L + 1, T, D), 50 frames a second. The same call goes on after an interruption.
"""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def make_parser() -> Parser:
    """The parser."""
    parser = Parser(
        "extract",
        description="Write an encoder's hidden states of a folder of audio.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="an export's folder, a checkpoint, a URL, or a name of s3prl's hub")
    parser.add_argument("folder", type=Path, help="of audio, at any depth")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to (default: FOLDER-features beside it)")
    parser.add_argument("--layer", type=int, metavar="N", help="0 to L (default: all)")
    parser.add_argument("--format", choices=["npy", "safetensors", "h5"], default="npy", help="(default: %(default)s)")
    parser.add_argument(
        "--states",
        choices=["own", "s3prl"],
        default="own",
        help="those that the model publishes, or those of s3prl's models (default: %(default)s)",
    )
    parser.add_argument(
        "--chunk-seconds",
        type=float,
        metavar="S",
        help="cut longer audio, so that its length does not matter to memory (default: encode it whole)",
    )
    parser.add_argument(
        "--context-seconds",
        type=float,
        metavar="S",
        default=5.0,
        help="heard on each side of a chunk (default: %(default)s)",
    )
    parser.add_argument("--half", action="store_true", help="write fp16, half as large")
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="fp32",
        help="compute in; on a CPU bf16 is fast where it has AMX or AVX512-BF16 (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="on a GPU, by CUDA graphs")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Extract, and say what was written. The exit status is 1 where files could not be read.

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
        raise UserError(f"{output}: must be another folder than that of the audio.")
    check_device(args.device)
    encoder = load(args.model, device=args.device, compiled=args.compiled, states=args.states)
    if args.dtype != "fp32":
        if is_int8(encoder.encoder):
            raise UserError(f"{args.model}: is an int8 export, which has a precision of its own. Leave out --dtype.")
        encoder.to(getattr(torch, DTYPES[args.dtype]))
    chunks = None if args.chunk_seconds is None else Chunks(args.chunk_seconds, args.context_seconds)
    files = FeatureFiles(layer=args.layer, format=args.format, half=args.half, chunks=chunks)
    unread = extract_folder(encoder, args.folder, output, files)
    print(f"features written to {output}")
    for path, reason in unread.items():
        print(f"not read: {path}: {reason}", file=sys.stderr)
    if unread:
        sys.exit(1)
