"""A latency table of an invented device whose times are simple formulas. No time in it was measured."""

from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.sparsity.latency import FORMAT, FORMAT_VERSION, Grid, LatencyTable, Line, Measurement

HEAD, FFN = 2e-4, 1e-4  # seconds per dimension


def cnn_time(config: EncoderConfig, channels: list[float]) -> float:
    """A chain: each layer's time depends on its own and its input's channels."""
    seconds, before = 0.0, 1
    for i, here in enumerate(channels):
        seconds += 1e-4 * (1 + i) + 2e-5 * here + 3e-6 * (i + 1) * before * here
        before = here
    return seconds


def rest_time(channels: float) -> float:
    return 1e-3 + 5e-5 * channels


def position_time(groups: float) -> float:
    return 7e-5 * groups


def head_time(heads: float, dims: float) -> float:
    return 3e-4 * heads + HEAD * heads * dims


def ffn_time(dims: float) -> float:
    return FFN * dims


def axis(size: int) -> tuple[float, ...]:
    return tuple(sorted({float(max(1, size // 4)), float(max(2, size // 2)), float(size)}))


def table_of(config: EncoderConfig) -> LatencyTable:
    axes = [axis(channels) for channels, _, _ in config.conv_layers]
    least = [points[0] for points in axes]

    def pair(i: int) -> Grid:
        def at(a: float, b: float) -> float:
            return cnn_time(config, [*least[:i], a, b, *least[i + 2 :]])

        return Grid(
            rows=axes[i], columns=axes[i + 1], seconds=tuple(tuple(at(a, b) for b in axes[i + 1]) for a in axes[i])
        )

    heads, dims, ffn = axis(config.num_heads), axis(config.head_dim), axis(config.ffn_dim)
    groups = axis(config.pos_conv_groups)
    return LatencyTable(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        encoder=config,
        utterance_seconds=1.0,
        cnn=tuple(pair(i) for i in range(len(axes) - 1)),
        rest=Line(counts=axes[-1], seconds=tuple(map(rest_time, axes[-1]))),
        positions=Line(counts=groups, seconds=tuple(map(position_time, groups))),
        attention=Grid(rows=heads, columns=dims, seconds=tuple(tuple(head_time(h, d) for d in dims) for h in heads)),
        feed_forward=Line(counts=ffn, seconds=tuple(map(ffn_time, ffn))),
        whole=1.0,
        measured=Measurement(
            machine="invented", device="cpu", threads=1, dtype="float32", repeats=1, weights="none",
            s3prl_pruned="0", torch="0",
            commit=None, date="never",
        ),
    )  # fmt: skip
