"""Write the manifest of a corpus, from which `run_pretrain.py --corpus` starts without a scan.

python tools/prepare_data.py /data/LibriSpeech librispeech.jsonl --sets train-clean-100 train-clean-360 train-other-500
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.prepare import main

if __name__ == "__main__":
    command_line(main)
