"""How much GPU memory a training step needs: a formula, for settings that are to be chosen before a GPU is there.

It adds up what the backward pass keeps, and what stands beside it at three moments. A test holds it to the bytes that a
step keeps under CUDA's rules for autocast, dropout and memory-efficient attention (`tests/pretrain/test_memory.py`);
counted so, a step took 26.6 GiB for which an NVIDIA H200's allocator had 26.5. What CUDA itself takes (about half a
GiB) and what its allocator cannot use come on top. It holds for layers that are not compiled.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from s3prl_pruned.data.batches import in_parts
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models.cnn import SAMPLES_AT_A_TIME
from s3prl_pruned.models.spec import MEL_HOP, CompactSpec, EncoderConfig, LayerSpec
from s3prl_pruned.pretrain.config import LoopConfig
from s3prl_pruned.pretrain.expert import Expert
from s3prl_pruned.sparsity.counts import LayerCounts, map_weights, parameters

GIB = 2**30
FP32 = 4


class Batch(NamedTuple):
    """What is computed at once."""

    utterances: int
    samples: int
    """Of each."""

    @property
    def seconds(self) -> float:
        """Of each."""
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True, kw_only=True)
class MemorySetting:
    """What a step's memory depends on, beside its batch."""

    shape: EncoderConfig
    """The student's, dense, with its settings of training."""
    spec: CompactSpec
    """What the student has left (masks leave everything in place)."""
    half: bool = True
    """fp16 or bf16 in place of fp32."""
    checkpointing: bool = False
    """`runner.gradient_checkpointing`."""
    accumulates: bool = False
    """Whether a step has several micro-batches: the gradients of the first stand while the next is computed."""
    max_seconds_at_once: float | None = None
    """`runner.max_seconds_at_once`."""
    pairs: int = 4
    """Teacher states that are learned from; 0 where there is no teacher."""
    matches: bool = True
    """Whether the pairs are searched for, by all students' states."""

    masks_cnn: bool = False
    """Whether channels of the CNN have masks."""
    averages: bool = False
    """Whether the student's weights have a moving average (`runner.ema_decay`)."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of a step, in bytes."""

    weights: float
    """Weights of both models, the student's two moments and its average, its gradients where they are accumulated."""
    teacher: float
    """The teacher's states."""
    cnn: float
    """Kept by the CNN."""
    layers: float
    """Kept by projection, positional convolution and layers, the student's states among it."""
    passing: float
    """The most that stands beside all that for a moment."""

    @property
    def total(self) -> float:
        """The peak."""
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
    """Of a run on a GPU."""
    student, gates = expert.model.student, getattr(expert.upstream_config, "gates", None)
    distillation = getattr(expert.model, "distillation", None)  # none where there is no teacher
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
    """The peak of a step whose largest micro-batch is `batch`."""
    utterances = [part for (part,) in in_parts((torch.empty(*batch, device="meta"),), setting.max_seconds_at_once)]
    if len(utterances) > 1:
        setting = replace(setting, accumulates=True)
    size = _Sizes(setting, Batch(len(utterances[0]), batch.samples))
    weights, cnn, layers = size.weights(), size.cnn(), size.layers()
    teacher = (setting.shape.num_layers + 1) * FP32 * size.hidden if setting.pairs else 0
    # At the end of the forward pass; in the first layer's backward pass, when the teacher's states are gone; and in the
    # CNN's, when nothing but gradients is left.
    passing = max(
        size.matching(),
        size.backward_of_layer() - teacher,
        size.gradients() + size.backward_of_cnn() - teacher - layers - cnn,
    )
    return Memory(weights=weights, teacher=teacher, cnn=cnn, layers=layers, passing=passing)


class _Sizes:
    """Bytes of the parts of a step."""

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
        """Of each layer the input and what GELU (or the norm before it) reads; of a waveform's first one the input."""
        outputs = self._outputs_of_cnn(batch)
        if self.shape.front_end == "log_mel":
            spectrum = batch.utterances * self.shape.mel_bins * sum(self.windows) // MEL_HOP
            return self.width * (spectrum + 2 * sum(outputs) - outputs[-1])
        return self.width * (batch.utterances * batch.samples + 2 * sum(outputs) - outputs[0] - outputs[-1])

    def backward_of_cnn(self) -> int:
        """A waveform's first norm and GELU are computed again, in fp32: two activations and two gradients."""
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
        return kept if self.setting.checkpointing else kept + sum(map(self._kept_by, self.setting.spec.layers))

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
        norm = FP32 * self.hidden  # before the first layer (Base) or after the last (Large)
        dropped = self._dropped(shape.dropout, self.hidden)
        return (FP32 + self.width) * channels + position + weights + norm + dropped

    @staticmethod
    def _dropped(probability: float, elements: int) -> int:
        """Dropout's mask: a byte an element."""
        return elements if probability > 0 else 0

    def _kept_by(self, layer: LayerSpec) -> int:
        """By a Transformer layer, its output apart."""
        shape, width = self.shape, self.width
        # What the projections read: in half precision a copy, else the state itself where no norm stands before it.
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
        """The gated position bias of a layer."""
        if not (self.shape.relative_position and self.shape.gated_position):
            return 0
        return self.width * self.rows * self.shape.num_heads * self.rows // self.batch.utterances

    def backward_of_layer(self) -> int:
        """The last layer's, while the other pairs' gradients wait; with checkpointing it is there again as a whole.

        First the feed-forward's, then, when that is gone, the attention's, with the bias and its gradient.
        """
        again = max(map(self._kept_by, self.setting.spec.layers)) if self.setting.checkpointing else 0
        intermediate = self.rows * self.shape.ffn_dim
        feed_forward = 2 * self.width * intermediate
        attention = 2 * self._bias() - 2 * self.width * intermediate + FP32 * self.hidden
        return again + (self.setting.pairs + 1) * FP32 * self.hidden + max(feed_forward, attention)

    def matching(self) -> int:
        """The loss of the pairs; or that of all, one mapped state at a time, which only a single pair is less than."""
        return max(self.loss(), 3 * FP32 * self.hidden * self.setting.matches)

    def loss(self) -> int:
        """Each pair's difference, and what the last one's is made of."""
        return (self.setting.pairs + 2 * bool(self.setting.pairs)) * FP32 * self.hidden
