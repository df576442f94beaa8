"""Measure the inference time of models side by side: ours, s3prl's, transformers', torchaudio's, on a CPU or a GPU.

python tools/timing.py --baseline s3prl:wavlm_base --models ours:conc --random --lengths 1,5,15
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.timing import main

if __name__ == "__main__":
    command_line(main)
