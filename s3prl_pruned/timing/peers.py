"""The encoders that `timing.py --peers` times side by side, and the published ones that it cannot time."""

from s3prl_pruned.models.peers import PEERS

BASELINE = "ours:dense"
"""Dense WavLM Base."""
MODELS = ("ours:hubert_base", "ours:even", "ours:conc", *(f"peer:{name}" for name in PEERS))
LENGTHS = "1,5"
"""Default seconds of audio."""

_IN_ITS_FILE = "its structure is in its file alone, and is not guessed. Give the file: --models FILE"
NOT_TIMED = {
    "ARMHuBERT": "every other layer reuses the attention map of the layer before, which our encoder does not",
    "FitHuBERT": "a time-reduction layer halves its frames, which our encoder does not have",
    "DPHuBERT": _IN_ITS_FILE,
    "DPWavLM": _IN_ITS_FILE,
    "STaRHuBERT": _IN_ITS_FILE,
    "Wang et al. 2023": "its structure is not published; ours:even and ours:conc have its size",
}
"""Published encoders that are not timed, with the reason."""
