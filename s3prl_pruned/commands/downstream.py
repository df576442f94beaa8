"""Train a SUPERB task on an upstream's features, and evaluate it: `run_downstream.py`."""

from s3prl_pruned.superb.running.options import make_parser

__all__ = ["main", "make_parser"]


def main(argv: list[str] | None = None) -> None:
    """Train and evaluate.

    Args:
        argv: command line; None is the process's own.
    """
    from s3prl_pruned.superb.running.run import main as downstream

    downstream(argv)
