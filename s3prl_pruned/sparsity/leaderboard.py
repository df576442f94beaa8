"""Multiply-accumulates as SUPERB's leaderboard counts them: summed over 32 utterances, by the challenge's own profiler.

Source: https://github.com/B06901052/DeepSpeed (branch superb-challenge), "Profiling Tool for SLT2022 SUPERB Challenge",
read on 2026-11-28: every 82nd utterance of LibriSpeech's test-clean in order of length, one at a time. It counts
what `counts.macs` counts, and in addition, for each call of torch's multi-head attention (one per layer in s3prl's
HuBERT and WavLM): four per dimension of a frame (biases of queries, keys and values, and the scale of the queries) and
four per attention weight (mask, softmax counted as two, and dropout, which Base models set and Large ones do not). This
gives HuBERT Base the 1,669,156,022,848 on the tool's page, and WavLM Base the leaderboard's 1670 G.
"""

from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import LayerCounts, macs

UTTERANCES = (
    20560, 34560, 38480, 42560, 45600, 48720, 52000, 55120, 59120, 62720, 66400, 71200, 75200, 78640, 82800, 87520,
    92720, 98560, 104400, 111120, 118480, 125040, 132720, 142640, 154000, 166720, 180880, 197920, 217920, 239280,
    268160, 326000,
)  # fmt: skip
"""Samples of each utterance (16 kHz), 1.28 to 20.38 s."""


def leaderboard_macs(config: EncoderConfig, spec: CompactSpec | None = None) -> int:
    """Multiply-accumulates of an upstream on the leaderboard.

    Pruned models are counted by the same rule, although our attention does not call torch's: it is the benchmark's
    rule, and the difference is 0.2 %.

    Args:
        config: the dense shape.
        spec: the kept structure; None for the dense model.
    """
    spec = spec or CompactSpec.dense(config)
    layers = [LayerCounts.of(layer) for layer in spec.layers]
    total = 0
    for samples in UTTERANCES:
        frames = config.num_frames(samples)
        biased = sum(3 * int(layer.qk) + int(layer.vo) for layer in layers)  # queries count twice: bias and scale
        weights = sum(int(layer.heads) for layer in layers) * frames
        of_weights = 3 if config.norm_first else 4
        total += sum(macs(config, spec, samples).values()) + frames * (biased + of_weights * weights)
    return total
