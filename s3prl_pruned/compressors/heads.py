"""Head pruning: scores of heads, from their weights or from the loss's gradient (Lin et al. 2024).

As in the paper's code (nervjack2/Speech-SSL-Compression, `head_pruning/hp_utils.py`).
"""

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from s3prl_pruned.compressors.units import matrix
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.linear import output_side


@torch.no_grad()
def l1_scores(encoder: SpeechEncoder) -> list[Tensor]:
    """L1 norm of each head's query, key and value weights and biases: per layer (heads,)."""
    scores = []
    for layer in encoder.layers:
        attention = layer.attention
        if attention is None or not attention.heads.values:
            scores.append(torch.zeros(0))
            continue
        parts = (
            (attention.q_proj, attention.qk_heads),
            (attention.k_proj, attention.qk_heads),
            (attention.v_proj, attention.vo_heads),
        )
        by_part = []
        for module, heads in parts:
            norms = matrix(module).abs().sum(1) + output_side(module).bias.abs()  # (dims of all heads,)
            by_part.append(torch.stack([part.sum() for part in norms.split(heads.sizes)]))
        scores.append(sum(by_part, start=torch.zeros_like(by_part[0])).cpu())
    return scores


class HeadImportance:
    """Sum over the data of |gradient x context| for each head: how the loss would change without the head.

    The context is a head's output before the output projection. Its product with the loss's gradient is summed over the
    head's dimensions, and its absolute value over frames and utterances; a layer's scores are then divided by their L2
    norm.

        with HeadImportance(encoder) as importance:
            for batch in data:
                importance.add(loss_of(batch))
    """

    def __init__(self, encoder: SpeechEncoder):
        self._attentions = [
            layer.attention if layer.attention is not None and layer.attention.heads.values else None
            for layer in encoder.layers
        ]
        self.sums = [
            torch.zeros(len(a.heads.values) if a else 0, device=encoder.mask_embedding.device) for a in self._attentions
        ]
        self._contexts: dict[int, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "HeadImportance":
        for number, attention in enumerate(self._attentions):
            if attention is not None:

                def record(_: nn.Module, inputs: tuple[Tensor, ...], number: int = number) -> None:
                    # Only the first call after `add`: activation checkpointing calls the hook once more.
                    self._contexts.setdefault(number, inputs[0])

                self._handles.append(attention.out_proj.register_forward_pre_hook(record))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._contexts.clear()

    def add(self, loss: Tensor) -> None:
        """Add one batch; parameters' gradients are not changed.

        Args:
            loss: of the encoder's last forward pass.
        """
        numbers = list(self._contexts)
        contexts = [self._contexts[number] for number in numbers]  # (B, T, dims of all heads)
        gradients = torch.autograd.grad(loss, contexts, allow_unused=True)
        for number, context, gradient in zip(numbers, contexts, gradients, strict=True):
            attention = self._attentions[number]
            if attention is not None and gradient is not None:  # None: the loss does not depend on this layer
                product = context.detach().float() * gradient.float()  # sums over all frames overflow fp16
                products = product.split(attention.vo_heads.sizes, dim=-1)
                self.sums[number] += torch.stack([part.sum(-1).abs().sum() for part in products])
        self._contexts.clear()

    def scores(self, sums: list[Tensor] | None = None) -> list[Tensor]:
        """Scores per layer, (heads,), of unit L2 norm.

        Args:
            sums: `self.sums`, summed over processes; None takes them as they are.
        """
        return [
            (of_layer / of_layer.norm().clamp(min=1e-20)).cpu() for of_layer in (self.sums if sums is None else sums)
        ]
