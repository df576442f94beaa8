"""Write the hidden states of all audio files in a folder.

python tools/extract_features.py wavlm_base_plus recordings --layer 6
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.extract import main

if __name__ == "__main__":
    command_line(main)
