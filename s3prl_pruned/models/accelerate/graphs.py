"""CUDA graphs: launch a whole forward pass at once, since a small encoder mostly waits for kernel launches.

    graphed(encoder)(wavs, lengths)      # as encoder(wavs, lengths), in inference

A graph computes one shape. So the number of frames is rounded up to that of a bucket, and everything that depends on
the true length is an input of the graph: how many steps the norm over time covers, and which frames are padding. The
result is that of `SpeechEncoder.forward` at the true length.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.accelerate.paths import path_for
from s3prl_pruned.models.cnn import ConvLayer
from s3prl_pruned.models.encoder import EncoderOutput, SpeechEncoder

logger = logging.getLogger(__name__)

MAX_GRAPHS = 24
"""Number of graphs that are kept; the least recently used one is dropped."""
MAX_FRAMES = 3000
"""Frames of a batch (one minute) above which a GPU is busy enough without a graph."""
_WARM_UP = 3  # calls before a graph is captured: lazy initialisation, plans of transforms, compilation of kernels


@dataclass
class Inputs:
    """What a graph reads, at fixed addresses."""

    wavs: Tensor
    """(B, samples of the bucket), zero after the true length."""
    convolved: Tensor
    """() int64: number of outputs of the first convolution for the true length."""
    frames: Tensor
    """() int64: T of the true length."""
    frame_lengths: Tensor
    """(B,) int64: frames of each utterance that are not padding."""


Captured = Callable[[], Tensor]
"""Computes `encode_in_bucket` from the current values of `Inputs`."""
Capture = Callable[[Callable[[], Tensor], Captured | None], Captured]
"""Captures a function; the second argument is an existing `Captured`, whose memory it may share."""


def graphed(encoder: SpeechEncoder, *, max_graphs: int = MAX_GRAPHS, max_frames: int = MAX_FRAMES) -> "GraphedEncoder":
    """An encoder whose calls run as CUDA graphs.

    Args:
        encoder: in evaluation mode, on its GPU. Weights may change in place: a graph reads their current values.
        max_graphs: number of graphs that are kept, one for each number of utterances and bucket of lengths.
        max_frames: T times B above which the encoder is called without a graph.
    """
    return GraphedEncoder(encoder, capture=_Graph, max_graphs=max_graphs, max_frames=max_frames)


def bucket(frames: int) -> int:
    """Frames of the graph for `frames` frames: more by at most an eighth, or 8."""
    step = max(8, 1 << max(0, frames.bit_length() - 4))
    return -(-frames // step) * step


class GraphedEncoder:
    """Called like the encoder; see `graphed`.

    Args:
        encoder: as `graphed`.
        capture: captures a function as a graph.
        max_graphs: as `graphed`.
        max_frames: as `graphed`.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        *,
        capture: Capture,
        max_graphs: int = MAX_GRAPHS,
        max_frames: int = MAX_FRAMES,
    ):
        self.encoder, self.config = encoder, encoder.config
        self.capture, self.max_graphs, self.max_frames = capture, max_graphs, max_frames
        self._graphs: OrderedDict[tuple[int, int], tuple[Inputs, Captured]] = OrderedDict()
        self._captured_from: tuple = ()

    def __call__(self, wavs: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """As `SpeechEncoder.forward`.

        Args:
            wavs: (B, S), zero-padded.
            lengths: (B,) int64 samples of each utterance; None when none is padded.
        """
        wavs = self.encoder.one_frame_at_least(wavs)
        frames = int(self.config.num_frames(wavs.shape[1]))
        if not self.serves(wavs, frames):
            return self.encoder(wavs, lengths)
        with torch.cuda.device_of(wavs):  # graphs and their streams belong to the current device
            return self._replay(wavs, lengths, frames)

    def _replay(self, wavs: Tensor, lengths: Tensor | None, frames: int) -> EncoderOutput:
        inputs, run = self._graph(wavs, bucket(frames))
        frame_lengths = self.encoder.frame_lengths(lengths, wavs, frames)
        kernel, stride = self.config.conv_layers[0][1:]
        inputs.wavs[:, : wavs.shape[1]].copy_(wavs)
        inputs.wavs[:, wavs.shape[1] :].zero_()  # NaN left there by an earlier input would spread: NaN x 0 is NaN
        inputs.convolved.fill_((wavs.shape[1] - kernel) // stride + 1)
        inputs.frames.fill_(frames)
        inputs.frame_lengths.copy_(frame_lengths)
        *states, projected, before_norm = run()[:, :, :frames].clone().unbind()
        return EncoderOutput(states, frame_lengths, projected, before_norm)

    def serves(self, wavs: Tensor, frames: int) -> bool:
        """Whether a graph computes this input: in inference, with few frames, without masks on the CNN."""
        encoder = self.encoder
        return (
            wavs.shape[0] * bucket(frames) <= self.max_frames
            and bucket(frames) <= (self.config.max_frames or bucket(frames))  # one window
            and self.config.window == "utterance"
            and path_for(encoder, wavs, frames) is not None
            and not encoder.feature_extractor.is_masked()
        )

    def _graph(self, wavs: Tensor, frames: int) -> tuple[Inputs, Captured]:
        """The graph for this number of utterances and frames, captured if there is none."""
        source = tuple((tensor.data_ptr(), tensor.dtype) for tensor in _tensors(self.encoder))
        if source != self._captured_from:  # weights or masks have moved in memory
            self._graphs.clear()
            self._captured_from = source
        key = (wavs.shape[0], frames)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        if len(self._graphs) >= self.max_graphs:
            self._graphs.popitem(last=False)
        inputs = self._inputs(wavs, frames)
        logger.debug("CUDA graph of %d utterance(s) of %d frames", *key)
        another = next((captured for _, captured in self._graphs.values()), None)
        self._graphs[key] = (inputs, self.capture(lambda: encode_in_bucket(self.encoder, inputs), another))
        return self._graphs[key]

    def _inputs(self, wavs: Tensor, frames: int) -> Inputs:
        samples = self.config.frame_samples + frames * self.config.hop_samples - 1  # the most for this many frames
        batch = wavs.shape[0]
        with torch.inference_mode(False):  # written to at every call, in inference mode or not
            return Inputs(
                wavs=wavs.new_zeros(batch, samples),
                convolved=torch.ones((), dtype=torch.int64, device=wavs.device),
                frames=torch.ones((), dtype=torch.int64, device=wavs.device),
                frame_lengths=torch.ones(batch, dtype=torch.int64, device=wavs.device),
            )


def _tensors(encoder: SpeechEncoder) -> list[Tensor]:
    """All that a graph reads of an encoder: parameters, buffers and masks."""
    masks = [
        value
        for module in encoder.modules()
        for name, value in vars(module).items()
        if name.startswith("z_") and isinstance(value, Tensor)
    ]
    return [*encoder.parameters(), *encoder.buffers(), *masks]


class _Graph:
    """A recording of what `function` launches. All graphs of an encoder share memory, since they run one at a time."""

    def __init__(self, function: Callable[[], Tensor], another: Captured | None):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        pool = another.graph.pool() if isinstance(another, _Graph) else None
        with torch.inference_mode(), torch.cuda.graph(self.graph, pool=pool):
            self.states = function()

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.states


def encode_in_bucket(encoder: SpeechEncoder, inputs: Inputs) -> Tensor:
    """`SpeechEncoder.forward` in as many frames as the bucket has; frames after the true length are meaningless.

    Args:
        encoder: without masks on its CNN.
        inputs: the current inputs.

    Returns:
        (L + 3, B, T of the bucket, D): the states, and `EncoderOutput`'s `projected` and `before_norm`.
    """
    features = _features(encoder, inputs)
    inside = torch.arange(features.shape[1], device=features.device) < inputs.frames
    output = encoder(inputs.wavs, features=features, frame_lengths=inputs.frame_lengths, inside=inside)
    return torch.stack([*output.hidden_states, output.projected, output.before_norm])


def _features(encoder: SpeechEncoder, inputs: Inputs) -> Tensor:
    """The CNN's features, (B, T, C); its norm over time covers only the true length."""
    if encoder.config.extractor_mode != "group_norm":
        return encoder.feature_extractor(inputs.wavs)
    first, *others = encoder.feature_extractor.layers
    x = _first_layer(first, inputs.wavs.unsqueeze(1), inputs.convolved)
    for layer in others:
        x = layer(x)
    return x.transpose(1, 2)


def _first_layer(layer: ConvLayer, x: Tensor, convolved: Tensor) -> Tensor:
    """(B, 1, S) -> (B, C, outputs); the norm over time covers only the first `convolved` outputs."""
    assert isinstance(layer.norm, nn.GroupNorm)
    y = F.conv1d(x, layer.conv.weight, None, stride=layer.conv.stride)
    precise = torch.promote_types(y.dtype, torch.float32)
    counts = (torch.arange(y.shape[-1], device=y.device) < convolved).to(precise)  # 1 inside the true length
    mean = (y * counts).sum(-1, keepdim=True) / convolved  # (B, C, 1)
    variance = ((y - mean) * counts).square().sum(-1, keepdim=True) / convolved
    scale = layer.norm.weight[:, None].to(precise) * torch.rsqrt(variance + layer.norm.eps)
    shift = layer.norm.bias[:, None].to(precise) - mean * scale
    return F.gelu(torch.addcmul(shift.to(y.dtype), y, scale.to(y.dtype)))
