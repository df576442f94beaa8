"""Fast forms of the encoder's blocks for CPU and GPU: the same mathematics in less time and memory.

    encoder = accelerate(SpeechEncoder(config, spec))

The blocks' own forward passes, in `models/`, remain the reference.
"""

from typing import TypeVar

from torch import nn

from s3prl_pruned.models.accelerate.attention import FastSelfAttention
from s3prl_pruned.models.accelerate.cnn import FastFeatureExtractor
from s3prl_pruned.models.accelerate.feed_forward import FastFeedForward
from s3prl_pruned.models.accelerate.paths import Derived
from s3prl_pruned.models.accelerate.positions import FastPositionalConvolution, FastPositionalConvolutionStack
from s3prl_pruned.models.accelerate.whole import FastSpeechEncoder
from s3prl_pruned.models.attention import SelfAttention
from s3prl_pruned.models.cnn import FeatureExtractor
from s3prl_pruned.models.components import FeedForward, PositionalConvolution, PositionalConvolutionStack
from s3prl_pruned.models.encoder import SpeechEncoder

FAST_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    SpeechEncoder: FastSpeechEncoder,
    FeatureExtractor: FastFeatureExtractor,
    PositionalConvolution: FastPositionalConvolution,
    PositionalConvolutionStack: FastPositionalConvolutionStack,
    SelfAttention: FastSelfAttention,
    FeedForward: FastFeedForward,
}

Block = TypeVar("Block", bound=nn.Module)


def accelerate(module: Block) -> Block:
    """Replace an encoder, or blocks of one, by their fast forms. Changes `module` in place and returns it.

    Parameters, masks and hooks are kept: only classes change, as in `torch.nn.utils.parametrize`. A block that has its
    fast form already, or has none, is not changed.
    """
    for block in module.modules():
        fast = FAST_FORMS.get(type(block))
        if fast is not None:
            block.__class__ = fast
            vars(block)["derived"] = Derived()
    return module


def of_teacher(encoder: SpeechEncoder) -> SpeechEncoder:
    """Make a teacher's positional convolution use its student's training path, and all else the reference.

    So no loss depends on an inference path. Changes `encoder` in place and returns it.
    """
    accelerate(encoder.positional_convolution)
    vars(encoder.positional_convolution)["in_inference"] = False
    return encoder
