"""Export any training checkpoint as a smaller encoder.

    python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/states-300.ckpt my_export
"""

import argparse

from s3prl_pruned.command_line import command_line


def main() -> None:
    parser = argparse.ArgumentParser(prog="export.py", description="Cut a training checkpoint's masks out of its weights.")
    parser.add_argument("checkpoint", help="a states-*.ckpt of run_pretrain.py")
    parser.add_argument("folder", help="where to write; must not exist")
    args = parser.parse_args()

    from s3prl_pruned.pretrain.finish import describe_export, export_checkpoint

    export_checkpoint(args.checkpoint, args.folder)
    print(f"exported to {describe_export(args.folder)}")


if __name__ == "__main__":
    command_line(main)
