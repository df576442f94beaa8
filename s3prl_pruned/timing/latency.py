"""The latency table of a shape: its parts in several sizes, timed on this device, for speed-up targets.

The sizes of a part are timed interleaved, on noise of one length, on the path that inference takes on this device.
"""

import datetime
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

import s3prl_pruned
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.accelerate.paths import path_for
from s3prl_pruned.models.attention import SelfAttention
from s3prl_pruned.models.components import FeedForward, PositionalConvolution, RelativePosition
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.log_mel import feature_extractor
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec
from s3prl_pruned.sparsity.counts import EncoderCounts
from s3prl_pruned.sparsity.latency import FORMAT, FORMAT_VERSION, LatencyTable, Measurement
from s3prl_pruned.timing.document import commit, machine
from s3prl_pruned.timing.runs import REPEATS, TimedCalls, TimingSetting, interleaved, torch_threads

_Module = TypeVar("_Module", bound=nn.Module)
_SHARES = (1 / 8, 3 / 8, 5 / 8, 1)
"""Shares of a dense part's size at which it is timed; between them, time is interpolated."""
_NOTHING = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())


def sizes(whole: int) -> list[int]:
    """The sizes at which a dimension of `whole` units is timed, ascending; at least two."""
    return sorted({max(1, round(share * whole)) for share in _SHARES} | {max(2, whole)})


class Stopwatch:
    """Times modules with random weights on noise.

    Args:
        config: the dense shape.
        setting: device, threads, repeats, seed.
        utterance_seconds: length of the noise in seconds.
        dtype: dtype of weights and activations.
    """

    def __init__(self, config: EncoderConfig, setting: TimingSetting, *, utterance_seconds: float, dtype: torch.dtype):
        self.config, self.setting, self.dtype = config, setting, dtype
        samples = round(SAMPLE_RATE * utterance_seconds)
        if config.time_reduction is not None:
            raise UserError(
                "a latency table has one frame rate for all layers, but the encoder's `time_reduction` lowers it. "
                "Measure a model without it."
            )
        windows = config.window_lengths(samples)
        if len(windows) > 1:
            raise UserError(
                f"a latency table needs an utterance of one window, but {utterance_seconds:g} s are {len(windows)}."
            )
        self.frames = sum(map(config.num_frames, windows))
        if not self.frames:
            raise UserError(
                f"a latency table needs an utterance of at least a frame, but {utterance_seconds:g} s is shorter."
            )
        self.wav = self.noise(1, samples)

    def noise(self, *shape: int) -> Tensor:
        """Normal noise with mean 0 and standard deviation 0.1, on the device."""
        generator = torch.Generator().manual_seed(self.setting.seed)
        return (0.1 * torch.randn(*shape, generator=generator)).to(self.setting.device, self.dtype)

    def ready(self, module: _Module) -> _Module:
        """The module as inference uses it."""
        return accelerate(module.eval()).requires_grad_(False).to(self.setting.device, self.dtype)

    def seconds(self, calls: list[Callable[[], object]]) -> list[float]:
        """Median seconds of each call, all interleaved."""
        timed = [
            TimedCalls(name=str(i), model=_without_input(call), batches=[self.wav]) for i, call in enumerate(calls)
        ]
        with torch.inference_mode(), torch_threads(self.setting.threads):
            times = interleaved(timed, self.setting)
        return [statistics.median(run for repeat in times[one.name] for run in repeat) for one in timed]

    def cnn(self, pair: int) -> dict:
        """Time of the whole CNN by channels of layers `pair` and `pair + 1`, others at their smallest: a `Grid`."""
        axes = [sizes(channels) for channels, _, _ in self.config.conv_layers]
        rows, columns = axes[pair], axes[pair + 1]

        def call(before: int, here: int) -> Callable[[], object]:
            channels = [axis[0] for axis in axes]
            channels[pair], channels[pair + 1] = before, here
            extractor = self.ready(feature_extractor(self.config, channels))
            return lambda: extractor(self.wav)

        seconds = self.seconds([call(before, here) for before, here in itertools.product(rows, columns)])
        return {"rows": rows, "columns": columns, "seconds": _in_rows(seconds, len(columns))}

    def rest(self) -> dict:
        """Time of all except CNN and sublayers, by channels of the CNN's last layer: a `Line`."""
        counts = sizes(self.config.conv_layers[-1][0]) if self.config.has_projection else []
        counts = counts or [
            self.config.embed_dim - 1,
            self.config.embed_dim,
        ]  # without a projection the number is fixed; a line needs two points
        return {"counts": counts, "seconds": self.seconds([self._empty_encoder(channels) for channels in counts])}

    def _empty_encoder(self, channels: int) -> Callable[[], object]:
        whole = CompactSpec.dense(self.config).channels_of(self.config)
        last = tuple(range(channels if self.config.has_projection else self.config.embed_dim))
        spec = CompactSpec(layers=(_NOTHING,) * self.config.num_layers, channels=(*whole[:-1], last))
        encoder, features = self.ready(SpeechEncoder(self.config, spec)), self.noise(1, self.frames, len(last))
        return lambda: encoder(self.wav, features=features)

    def positions(self) -> dict:
        """The positional convolution by its groups: a `Line`."""
        counts, x = sizes(self.config.pos_conv_groups), self.noise(1, self.frames, self.config.embed_dim)
        modules = [self.ready(PositionalConvolution(self.config, tuple(range(count)))) for count in counts]
        return {"counts": counts, "seconds": self.seconds([partial(module, x) for module in modules])}

    def attention(self) -> dict:
        """Time of one attention by heads and dimensions per head: a `Grid`."""
        rows, columns = sizes(self.config.num_heads), sizes(self.config.head_dim)
        x = self.noise(1, self.frames, self.config.embed_dim)
        calls = [self._attention(x, heads, dims) for heads, dims in itertools.product(rows, columns)]
        return {"rows": rows, "columns": columns, "seconds": _in_rows(self.seconds(calls), len(columns))}

    def _attention(self, x: Tensor, heads: int, dims: int) -> Callable[[], object]:
        kept = tuple(HeadSpec(index=i, qk=tuple(range(dims)), vo=tuple(range(dims))) for i in range(heads))
        attention, bias = self.ready(SelfAttention(self.config, kept)), None
        if self.config.relative_position:
            with torch.inference_mode():
                position = self.ready(RelativePosition(self.config))
                fast = path_for(attention, x, self.frames) is not None  # as the encoder decides
                bias = position.by_distance(self.frames) if fast else position(self.frames)
        return lambda: attention(x, bias)

    def feed_forward(self) -> dict:
        """Time of one feed-forward by intermediate dimensions: a `Line`."""
        counts, x = sizes(self.config.ffn_dim), self.noise(1, self.frames, self.config.embed_dim)
        modules = [self.ready(FeedForward(self.config, dims)) for dims in counts]
        return {"counts": counts, "seconds": self.seconds([partial(module, x) for module in modules])}

    def whole(self) -> float:
        """Seconds of the dense encoder."""
        encoder = self.ready(SpeechEncoder(self.config))
        return self.seconds([lambda: encoder(self.wav)])[0]


def measure_table(
    config: EncoderConfig,
    setting: TimingSetting,
    *,
    utterance_seconds: float = 5.0,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[str], None] = lambda text: None,
) -> LatencyTable:
    """Time every part of a shape.

    Args:
        config: the dense shape.
        setting: device, threads, repeats (None: 5), seed; its baseline is not used.
        utterance_seconds: length of the noise in seconds, one utterance per call.
        dtype: dtype of weights and activations.
        progress: called with lines of text on the progress.

    Raises:
        UserError: if the utterance is too short, or the CNN has one layer.
    """
    repeats = setting.repeats or REPEATS[0]
    setting, pairs = replace(setting, repeats=repeats), len(config.conv_layers) - 1
    if pairs < 1:
        raise UserError("a latency table needs a CNN of two layers or more, but this shape's has one.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        watch = Stopwatch(config, setting, utterance_seconds=utterance_seconds, dtype=dtype)
        parts: dict = {"cnn": []}
        for pair in range(pairs):
            progress(f"timing CNN layers {pair + 1} and {pair + 2} of {pairs + 1}")
            parts["cnn"].append(watch.cnn(pair))
        with_groups = config.has_position_groups and config.pos_conv_groups > 1
        for name in ("rest", *["positions"] * with_groups, "attention", "feed_forward", "whole"):
            progress(f"timing {name}")
            parts[name] = getattr(watch, name)()
    measured = Measurement(
        machine=machine(setting.device),
        device=setting.device,
        threads=setting.threads,
        dtype=str(dtype).removeprefix("torch."),
        repeats=repeats,
        weights=f"random, seed {setting.seed}",
        s3prl_pruned=s3prl_pruned.__version__,
        torch=str(torch.__version__),
        commit=commit(),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "utterance_seconds": utterance_seconds}
    return from_dict(
        LatencyTable, {**head, "encoder": to_dict(config), **parts, "measured": to_dict(measured)}, "the measured table"
    )


def describe_table(table: LatencyTable) -> Iterator[str]:
    """Lines of text: the parts' times in the dense model, and their sum beside the whole model's."""
    dense = EncoderCounts.dense(table.encoder, with_cnn=False)
    empty = replace(dense, layers=[])
    rest = table.rest.at(int(dense.channels[-1]))
    cnn, total = table.time(empty) - rest, table.time(dense)
    layers = total - cnn - rest
    parts = f"CNN {1000 * cnn:.1f} ms, layers {1000 * layers:.1f} ms, rest {1000 * rest:.1f} ms"
    yield f"dense, {table.utterance_seconds:g} s of audio: {parts}"
    yield f"the parts' sum is {total / table.whole:.2f} of the whole model's {1000 * table.whole:.1f} ms"


def _without_input(call: Callable[[], object]) -> Callable[[object], object]:
    return lambda _: call()


def _in_rows(values: list[float], width: int) -> list[list[float]]:
    return [values[start : start + width] for start in range(0, len(values), width)]
