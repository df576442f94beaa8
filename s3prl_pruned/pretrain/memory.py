"""Estimate of the GPU memory of a training step by a formula, to choose settings before a GPU is available.

The formula sums the tensors kept for the backward pass, and temporary ones at three moments. A test compares it with
the bytes that a step keeps under CUDA's rules for autocast, dropout and memory-efficient attention
(`tests/pretrain/test_memory.py`). For a step of an earlier version this count gave 26.6 GiB, and the allocator of an
NVIDIA H200 measured 26.5. Memory of CUDA itself (about half a GiB) and fragmentation come on top. The formula is for
layers that are not compiled.
"""

import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from s3prl_pruned.data.batches import in_parts
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models.cnn import SAMPLES_AT_A_TIME
from s3prl_pruned.models.shape import MEL_HOP, EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.pretrain.config import LoopConfig
from s3prl_pruned.pretrain.expert import Expert
from s3prl_pruned.sparsity.counts import LayerCounts, map_weights, parameters

GIB = 2**30
FP32 = 4


class Batch(NamedTuple):
    """The part of a batch that is computed at once."""

    utterances: int
    samples: int
    """Samples per utterance."""

    @property
    def seconds(self) -> float:
        """Seconds per utterance."""
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True, kw_only=True)
class MemorySetting:
    """Settings that determine the memory of a step, besides its batch."""

    shape: EncoderConfig
    """The student's dense shape, with its training settings."""
    spec: CompactSpec
    """The student's structure (masks do not remove anything)."""
    half: bool = True
    """fp16 or bf16 instead of fp32."""
    checkpointing: bool = False
    """Value of `runner.gradient_checkpointing`."""
    accumulates: bool = False
    """Whether a step has several micro-batches: gradients of earlier ones are kept while the next is computed."""
    max_seconds_at_once: float | None = None
    """Value of `runner.max_seconds_at_once`."""
    pairs: int = 4
    """Number of teacher states in the loss; 0 without a teacher."""
    matches: bool = True
    """Whether pairs are matched, for which all states of the student are used."""

    masks_cnn: bool = False
    """Whether channels of the CNN have masks."""
    averages: bool = False
    """Whether the student's weights have a moving average (`runner.ema_decay`)."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a step, in bytes."""

    weights: float
    """Weights of both models, the student's two Adam moments and average, and its gradients if they are accumulated."""
    teacher: float
    """The teacher's states."""
    cnn: float
    """Tensors kept by the CNN."""
    layers: float
    """Tensors kept by projection, positional convolution and layers, including the student's states."""
    passing: float
    """Largest sum of temporary tensors at any moment."""

    @property
    def total(self) -> float:
        """Peak memory in bytes."""
        return self.weights + self.teacher + self.cnn + self.layers + self.passing

    def in_words(self) -> str:
        """One line, in GiB."""
        parts = {
            "weights and optimiser": self.weights,
            "CNN": self.cnn,
            "layers": self.layers,
            "teacher's states": self.teacher,
            "passing": self.passing,
        }
        return f"{self.total / GIB:.1f} GiB (" + ", ".join(f"{k} {v / GIB:.1f}" for k, v in parts.items()) + ")"


def setting_of(expert: Expert, loop: LoopConfig) -> MemorySetting:
    """Settings of a run, for a GPU."""
    student, gates = expert.model.student, getattr(expert.upstream_config, "gates", None)
    distillation = getattr(expert.model, "distillation", None)  # one-pass pruning has no teacher
    return MemorySetting(
        shape=student.config,
        spec=student.spec,
        half=loop.precision("cuda") != torch.float32,
        checkpointing=loop.gradient_checkpointing,
        accumulates=loop.gradient_accumulate_steps > 1,
        max_seconds_at_once=loop.max_seconds_at_once,
        pairs=0 if distillation is None else len(distillation.teacher_layers),
        matches=distillation is not None and distillation.pairs is None,
        masks_cnn=gates is not None and "conv" in gates.kinds,
        averages=loop.ema_decay is not None,
    )


def memory_of_step(setting: MemorySetting, batch: Batch) -> Memory:
    """Peak memory of a step whose largest micro-batch is `batch`."""
    utterances = [part for (part,) in in_parts((torch.empty(*batch, device="meta"),), setting.max_seconds_at_once)]
    if len(utterances) > 1:
        setting = replace(setting, accumulates=True)
    size = _Sizes(setting, Batch(len(utterances[0]), batch.samples))
    weights, cnn, layers = size.weights(), size.cnn(), size.layers()
    teacher = (setting.shape.num_layers + 1) * FP32 * size.hidden if setting.pairs else 0
    # Three moments: end of the forward pass; backward pass of the first layer, when the teacher's states are freed; and
    # backward pass of the CNN, when only gradients are left.
    passing = max(
        size.matching(),
        size.backward_of_layer() - teacher,
        size.gradients() + size.backward_of_cnn() - teacher - layers - cnn,
    )
    return Memory(weights=weights, teacher=teacher, cnn=cnn, layers=layers, passing=passing)


class _Sizes:
    """Sizes of the parts of a step, in bytes."""

    def __init__(self, setting: MemorySetting, batch: Batch):
        self.setting, self.shape, self.batch = setting, setting.shape, batch
        self.width = 2 if setting.half else FP32
        self.windows = setting.shape.window_lengths(batch.samples)
        self.rows = batch.utterances * sum(map(setting.shape.num_frames, self.windows))
        self.hidden = self.rows * setting.shape.embed_dim  # elements of a hidden state

    def _parameters(self) -> int:
        return sum(parameters(self.shape, self.setting.spec).values())

    def weights(self) -> int:
        teacher = sum(parameters(self.shape, CompactSpec.dense(self.shape)).values()) if self.setting.pairs else 0
        copies = 3 + self.setting.accumulates + self.setting.averages
        return FP32 * (teacher + copies * self._parameters())

    def gradients(self) -> int:
        return 0 if self.setting.accumulates else FP32 * self._parameters()

    def cnn(self) -> int:
        features = self.width * self.rows * self.shape.conv_layers[-1][0]
        frozen = self.shape.feature_grad_mult == 0 and not self.setting.masks_cnn
        return features if frozen or self.setting.checkpointing else features + self._kept_by_cnn(self.batch)

    def _outputs_of_cnn(self, batch: Batch) -> list[int]:
        """Elements of each layer's output."""
        steps, kept = self.shape.computed_steps(batch.samples), self.setting.spec.channels_of(self.shape)
        return [batch.utterances * len(channels) * length for length, channels in zip(steps, kept, strict=True)]

    def _kept_by_cnn(self, batch: Batch) -> int:
        """Per layer, its input and that of GELU (or of the norm before it); for a waveform's first layer, its input."""
        outputs = self._outputs_of_cnn(batch)
        if self.shape.front_end == "log_mel":
            spectrum = batch.utterances * self.shape.mel_bins * sum(self.windows) // MEL_HOP
            return self.width * (spectrum + 2 * sum(outputs) - outputs[-1])
        return self.width * (batch.utterances * batch.samples + 2 * sum(outputs) - outputs[0] - outputs[-1])

    def backward_of_cnn(self) -> int:
        """For a waveform, the first norm and GELU are recomputed in fp32: two activations and two gradients."""
        if self.shape.feature_grad_mult == 0 and not self.setting.masks_cnn:
            return 0
        if self.shape.front_end == "log_mel":  # an activation and its gradient
            return 2 * self.width * self._outputs_of_cnn(self.batch)[0]
        if not self.setting.checkpointing:
            return 4 * FP32 * self._outputs_of_cnn(self.batch)[0]
        part = Batch(max(1, min(self.batch.utterances, SAMPLES_AT_A_TIME // self.batch.samples)), self.batch.samples)
        return 4 * FP32 * self._outputs_of_cnn(part)[0] + 2 * FP32 * self.hidden

    def layers(self) -> int:
        kept = self._before_layers() + (self.shape.num_layers + 1) * FP32 * self.hidden  # the states
        if self.setting.checkpointing:
            return kept
        return kept + sum(self._of_layer(i)._kept_by(layer) for i, layer in enumerate(self.setting.spec.layers))

    def _of_layer(self, i: int) -> "_Sizes":
        """At the frame rate of a layer."""
        size = copy.copy(self)
        frames = (self.shape.frames_of_layer(i, self.shape.num_frames(window)) for window in self.windows)
        size.rows = self.batch.utterances * sum(frames)
        size.hidden = size.rows * self.shape.embed_dim
        return size

    def _before_layers(self) -> int:
        shape, channels = self.shape, self.rows * self.shape.conv_layers[-1][0]
        position = shape.pos_conv_depth * 2 * self.width * self.hidden
        if shape.pos_conv_depth > 1:
            position += shape.pos_conv_depth * FP32 * self.hidden
            weights = 0
        else:
            weights = self.width * shape.embed_dim**2 // shape.pos_conv_groups * shape.pos_conv_kernel
        if shape.positions == "fixed":
            position = weights = 0
        if not (shape.has_projection or shape.projection_norm):
            channels = 0
        norm = FP32 * self.hidden  # norm before the first layer (Base) or after the last (Large)
        dropped = self._dropped(shape.dropout, self.hidden)
        return (FP32 + self.width) * channels + position + weights + norm + dropped

    @staticmethod
    def _dropped(probability: float, elements: int) -> int:
        """Mask of dropout: one byte per element."""
        return elements if probability > 0 else 0

    def _kept_by(self, layer: LayerSpec) -> int:
        """Bytes kept by a Transformer layer, without its output."""
        shape, width = self.shape, self.width
        # Input of the projections: in half precision a copy, else the state itself if there is no norm before it.
        read = 2 if self.setting.half or shape.norm_first else 1
        kept = read * width * self.hidden + (1 if shape.norm_first else 2) * FP32 * self.hidden  # read by the norms
        kept += 2 * self._dropped(shape.dropout, self.hidden)
        counts = LayerCounts.of(layer)
        if layer.attention:
            kept += self.rows * (2 * width * (int(counts.qk) + int(counts.vo)) + FP32 * len(layer.heads))
            kept += self.rows * len(layer.heads) * 56 * shape.gated_position
        intermediate = self.rows * len(layer.ffn)
        kept += 2 * width * intermediate + self._dropped(shape.activation_dropout, intermediate)
        if self.setting.half:
            kept += width * int(sum(map_weights(shape.embed_dim, counts).values()))
        return kept

    def _bias(self) -> int:
        """Gated position bias of a layer."""
        if not (self.shape.relative_position and self.shape.gated_position):
            return 0
        return self.width * self.rows * self.shape.num_heads * self.rows // self.batch.utterances

    def backward_of_layer(self) -> int:
        """Backward pass of the last layer, beside other pairs' gradients; with checkpointing, it is recomputed.

        The larger of two: the feed-forward's, and (after it is freed) the attention's with the bias and its gradient.
        """
        again = max(map(self._kept_by, self.setting.spec.layers)) if self.setting.checkpointing else 0
        intermediate = self.rows * self.shape.ffn_dim
        feed_forward = 2 * self.width * intermediate
        attention = 2 * self._bias() - 2 * self.width * intermediate + FP32 * self.hidden
        return again + (self.setting.pairs + 1) * FP32 * self.hidden + max(feed_forward, attention)

    def matching(self) -> int:
        """Loss of the matched pairs, or of all candidates (one mapped state at a time) if that takes more."""
        return max(self.loss(), 3 * FP32 * self.hidden * self.setting.matches)

    def loss(self) -> int:
        """Difference of each pair, and temporary tensors of the last pair."""
        return (self.setting.pairs + 2 * bool(self.setting.pairs)) * FP32 * self.hidden
