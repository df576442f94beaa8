"""Prune by several recipes at several sparsities, and run tasks on the results.

python tools/sweep.py --recipe magnitude_s80 rows_s50 --target 0.3,0.5,0.6 --corpus /data/LibriSpeech
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.sweep import main

if __name__ == "__main__":
    command_line(main)
