"""Metrics and SUPERB score of what run_downstream.py wrote.

    python tools/superb_score.py results/
    python tools/superb_score.py --table1
"""

from s3prl_pruned.command_line import command_line


def main() -> None:
    from s3prl_pruned.superb.score_command import main as superb_score

    superb_score()


if __name__ == "__main__":
    command_line(main)
