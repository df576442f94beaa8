"""Train a SUPERB task on an upstream's features, and evaluate it.

python run_downstream.py -u wavlm_pruned -d asr
python run_downstream.py -u wavlm_pruned -d asr --corpus /data/LibriSpeech
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.downstream import main

if __name__ == "__main__":
    command_line(main)
