"""Train a SUPERB task on an upstream's features, and evaluate it.

    python run_downstream.py -u wavlm_pruned -d asr
    python run_downstream.py -u wavlm_pruned -d asr --corpus /data/LibriSpeech
"""

from s3prl_pruned.command_line import command_line


def main() -> None:
    from s3prl_pruned.superb.run import main as run_downstream

    run_downstream()


if __name__ == "__main__":
    command_line(main)
