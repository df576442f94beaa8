"""Convert a dense checkpoint from any public format to any other, or to this project's folder.

    python tools/convert_checkpoint.py hubert_base_ls960.pt hubert_base --to huggingface
    python tools/convert_checkpoint.py facebook--wav2vec2-base wav2vec_small.pt --to s3prl
    python tools/convert_checkpoint.py torchaudio.pt hubert.pt --to fairseq --shape hubert_base
"""

import argparse

from s3prl_pruned.command_line import command_line

TARGETS = ("folder", "onnx", "microsoft", "s3prl", "fairseq", "huggingface", "torchaudio")


def main() -> None:
    parser = argparse.ArgumentParser(prog="convert_checkpoint.py", description="Convert a checkpoint between formats.")
    parser.add_argument("source", help="s3prl's, fairseq's, Hugging Face's, torchaudio's or Microsoft's checkpoint, or an exported folder")  # fmt: skip
    parser.add_argument("target", help="the file or folder to write; must not exist")
    parser.add_argument("--to", required=True, choices=TARGETS, help="the target's format")
    parser.add_argument("--shape", metavar="NAME", help="of a torchaudio state dict, which does not say it: hubert_base, ...")
    args = parser.parse_args()

    from s3prl_pruned.pretrain.conversion import convert

    about = convert(args.source, args.target, args.to, shape=args.shape)
    print(f"{about}: written to {args.target}")


if __name__ == "__main__":
    command_line(main)
