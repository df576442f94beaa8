"""Write an encoder's hidden states of a folder of audio; `-h` explains the options."""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.extract import main

if __name__ == "__main__":
    command_line(main)
