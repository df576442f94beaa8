"""Prune, evaluate and score on the embedded data, and print a summary: what `make run` calls.

python tools/quickstart.py
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.quickstart import main

if __name__ == "__main__":
    command_line(main)
