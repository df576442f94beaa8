"""Low-rank approximation: truncated singular value decompositions of the linear maps (Lin et al. 2024)."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.linear import LowRankLinear
from s3prl_pruned.models.spec import ATTENTION_MAPS, FEED_FORWARD_MAPS, CompactSpec, LayerSpec, Ranks
from s3prl_pruned.sparsity.counts import prunable_weights

_PARTS = {**dict.fromkeys(ATTENTION_MAPS, "attention"), **dict.fromkeys(FEED_FORWARD_MAPS, "feed_forward")}


class Decomposed:
    """The singular value decompositions of an encoder's linear maps, and structures of lower rank.

    Raises:
        UserError: a linear map is factorised already.
    """

    @torch.no_grad()
    def __init__(self, encoder: SpeechEncoder):
        self.encoder = encoder
        self.parts: dict[tuple[int, str], tuple[Tensor, Tensor, Tensor]] = {}
        for key, module in _maps(encoder).items():
            if isinstance(module, LowRankLinear):
                raise UserError(
                    f"layer {key[0]}: {key[1]} is held in two factors already. Apply `low_rank` to the model it "
                    "was made of."
                )
            self.parts[key] = torch.linalg.svd(module.weight.detach().float(), full_matrices=False)
        self._energies = {key: s.square().cumsum(0) / s.square().sum() for key, (_, s, _) in self.parts.items()}

    def ranks_by_energy(self, energy: float) -> CompactSpec:
        """Each map's smallest rank that keeps this share of its squared singular values.

        A map whose factors would be no smaller is not factorised.
        """
        return self._spec(lambda key: int((self._energies[key] < energy - 1e-7).sum()) + 1)

    def ranks_by_share(self, share: float) -> CompactSpec:
        """Each map's rank at which its factors hold this share of its weights (rounded; at least 1)."""
        return self._spec(lambda key: max(1, round(share * _break_even(self.parts[key]))))

    def ranks_for(self, kept: int, rule: str) -> CompactSpec:
        """The structure with about `kept` prunable weights.

        Args:
            kept: number of weights.
            rule: `CompressConfig.ranks`.
        """
        make = self.ranks_by_energy if rule == "energy" else self.ranks_by_share
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if self.weights(make(middle)) > kept else (middle, high)
        return min((make(low), make(high)), key=lambda spec: abs(self.weights(spec) - kept))

    def weights(self, spec: CompactSpec) -> int:
        """Number of prunable weights of a structure."""
        return prunable_weights(self.encoder.config, spec)

    @torch.no_grad()
    def factored(self, spec: CompactSpec) -> SpeechEncoder:
        """The encoder with these ranks; each map is the nearest of its rank in Frobenius norm (Eckart and Young).

        Each factor is scaled by the square roots of the singular values, so that the optimiser sees equal scales.
        """
        small = SpeechEncoder(self.encoder.config, spec).to(next(self.encoder.parameters()))
        state = self.encoder.state_dict()
        for (number, name), module in _maps(small).items():
            if isinstance(module, LowRankLinear):
                prefix, rank = f"layers.{number}.{_PARTS[name]}.{name}.", module.down.out_features
                u, s, v = self.parts[number, name]
                state[prefix + "up.weight"] = u[:, :rank] * s[:rank].sqrt()
                state[prefix + "down.weight"] = s[:rank, None].sqrt() * v[:rank]
                state[prefix + "up.bias"] = state.pop(prefix + "bias")
                del state[prefix + "weight"]
        small.load_state_dict(state)
        return small.train(self.encoder.training)

    def _spec(self, rank_of: Callable[[tuple[int, str]], int]) -> CompactSpec:
        def ranks(number: int) -> Ranks:
            chosen = {name: rank_of((i, name)) for i, name in self.parts if i == number}
            return Ranks(
                **{name: rank for name, rank in chosen.items() if rank < _break_even(self.parts[number, name])}
            )

        layers = self.encoder.spec.layers
        changed: list[LayerSpec] = [dataclasses.replace(layer, ranks=ranks(i)) for i, layer in enumerate(layers)]
        return dataclasses.replace(self.encoder.spec, layers=tuple(changed))


def _maps(encoder: SpeechEncoder) -> dict[tuple[int, str], nn.Linear | LowRankLinear]:
    """The prunable linear maps that hold any weights, by layer and name."""
    found = {}
    for number, layer in enumerate(encoder.layers):
        for name, part in _PARTS.items():
            module = getattr(getattr(layer, part), name, None)  # None: the sublayer is removed
            if module is not None and (isinstance(module, LowRankLinear) or module.weight.numel()):
                found[number, name] = module
    return found


def _break_even(parts: tuple[Tensor, Tensor, Tensor]) -> float:
    """The rank at which two factors hold as many weights as the matrix."""
    rows, columns = parts[0].shape[0], parts[2].shape[1]
    return rows * columns / (rows + columns)
