"""Report quality against cost of exported models: a table, figures, and an HTML page.

python tools/tradeoff.py result/ results/
"""

from s3prl_pruned.command_line import command_line
from s3prl_pruned.commands.tradeoff import main

if __name__ == "__main__":
    command_line(main)
