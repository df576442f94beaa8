"""Export a model: the smaller encoder of a training checkpoint, or any other, as a folder, for transformers, or as ONNX.

    python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/states-300.ckpt my_export
    python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/export my_model --to huggingface
    python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/export my_model.onnx --to onnx
    python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/export my_int8 --int8
"""

import argparse

from s3prl_pruned.command_line import command_line


def main() -> None:
    parser = argparse.ArgumentParser(prog="export.py", description="Export a model; it is checked against its source.")
    parser.add_argument("source", help="a states-*.ckpt of run_pretrain.py (its masks are cut), an exported folder, or a dense checkpoint")  # fmt: skip
    parser.add_argument("target", help="what to write; must not exist")
    parser.add_argument("--to", default="folder", choices=("folder", "huggingface", "onnx"), help="format (default: %(default)s, this project's)")
    parser.add_argument("--int8", action="store_true", help="8-bit weights and products, for inference on a CPU (folder only)")
    args = parser.parse_args()

    from s3prl_pruned.pretrain.conversion import convert
    from s3prl_pruned.pretrain.finish import describe_export

    about = convert(args.source, args.target, args.to, int8=args.int8)
    print(f"{about}: exported to {args.target if args.to == 'onnx' else describe_export(args.target)}")


if __name__ == "__main__":
    command_line(main)
