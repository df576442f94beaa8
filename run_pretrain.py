"""Prune a speech encoder, by distillation or while it is fine-tuned for ASR.

python run_pretrain.py -u wavlm_pruned_distill
python run_pretrain.py -u wavlm_pruned_distill --recipe wavlm_base_s80 --corpus /data/LibriSpeech
torchrun --nproc_per_node=8 run_pretrain.py -u wavlm_pruned_distill --recipe wavlm_base_s80 --corpus /data/LibriSpeech
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.pretrain import main

if __name__ == "__main__":
    command_line(main)
