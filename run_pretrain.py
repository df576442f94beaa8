"""Distil and prune an encoder.

    python run_pretrain.py -u wavlm_pruned_distill
    python run_pretrain.py -u wavlm_pruned_distill --recipe wavlm_base_s80 --corpus /data/LibriSpeech
    torchrun --nproc_per_node=8 run_pretrain.py -u wavlm_pruned_distill --recipe wavlm_base_s80 --corpus /data/LibriSpeech
"""

from s3prl_pruned.command_line import command_line


def main() -> None:
    from s3prl_pruned.measure.figures import draw_run
    from s3prl_pruned.measure.hard_concrete import write_hard_concrete
    from s3prl_pruned.measure.live import draw_remaining
    from s3prl_pruned.pretrain.command import main as pretrain

    folder = pretrain(on_checkpoint=draw_remaining)
    if folder is None:  # --dry-run, or under torchrun not the main process
        return
    write_hard_concrete(folder)
    for picture in draw_run(folder):
        print(f"picture: {picture}")


if __name__ == "__main__":
    command_line(main)
