"""The numbers of Figure 1 of Wang et al. 2023: how hard concrete masks are distributed, and where gradients vanish."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned.config import to_dict
from s3prl_pruned.gates.hard_concrete import BETA, GAMMA, ZETA, sample, stretched

FILE = "hard_concrete.json"

_SAMPLES_OF_DISTRIBUTION = 100_000
_SAMPLES_OF_MEAN = 500  # the paper's number
_BINS = 48
_LARGEST_LOG_ALPHA, _STEP = 6.0, 0.1


@dataclass(kw_only=True)
class Distribution:
    """Figure 1a: shares of samples at one `log_alpha`."""

    log_alpha: float
    num_samples: int
    bin_edges: list[float]
    """From gamma to zeta, ascending; one more than there are bins."""
    s_bar: list[float]
    """Share of the samples per bin; they sum to 1."""
    z_inside: list[float]
    """Share per bin of the masks strictly between 0 and 1."""
    z_zero: float
    """Share of the masks that are exactly 0."""
    z_one: float
    """Share of the masks that are exactly 1."""


@dataclass(kw_only=True)
class Means:
    """Figure 1b: averages over samples, as functions of `log_alpha`."""

    num_samples: int
    log_alpha: list[float]
    z: list[float]
    s_bar: list[float]
    with_gradient: list[float]
    """Share of the samples strictly between 0 and 1, whose clamp passes a gradient without the straight-through
    estimator."""


@dataclass(kw_only=True)
class HardConcreteNumbers:
    """The numbers that the figure is drawn from."""

    beta: float
    gamma: float
    zeta: float
    seed: int
    distribution: Distribution
    means: Means


def measure_hard_concrete(seed: int = 0) -> HardConcreteNumbers:
    """Sample the distribution that the gates draw from (`gates/hard_concrete.py`)."""
    generator = torch.Generator().manual_seed(seed)
    return HardConcreteNumbers(
        beta=BETA,
        gamma=GAMMA,
        zeta=ZETA,
        seed=seed,
        distribution=_distribution(0.0, generator),
        means=_means(generator),
    )


def write_hard_concrete(folder: Path, seed: int = 0) -> Path:
    """Write `hard_concrete.json` into a run's folder; returns its path."""
    path = Path(folder) / FILE
    path.write_text(json.dumps(to_dict(measure_hard_concrete(seed))) + "\n")
    return path


def _distribution(log_alpha: float, generator: torch.Generator) -> Distribution:
    u = torch.rand(_SAMPLES_OF_DISTRIBUTION, generator=generator)
    location = torch.full_like(u, log_alpha)
    s_bar, z = stretched(location, u), sample(location, u, straight_through=False)
    edges = torch.linspace(GAMMA, ZETA, _BINS + 1)

    def shares(values: torch.Tensor) -> list[float]:
        return (torch.histogram(values, edges).hist / len(u)).tolist()

    return Distribution(
        log_alpha=log_alpha,
        num_samples=len(u),
        bin_edges=edges.tolist(),
        s_bar=shares(s_bar),
        z_inside=shares(z[(z > 0) & (z < 1)]),
        z_zero=float((z == 0).float().mean()),
        z_one=float((z == 1).float().mean()),
    )


def _means(generator: torch.Generator) -> Means:
    count = round(2 * _LARGEST_LOG_ALPHA / _STEP) + 1
    log_alpha = torch.linspace(-_LARGEST_LOG_ALPHA, _LARGEST_LOG_ALPHA, count)  # (N,)
    u = torch.rand(_SAMPLES_OF_MEAN, generator=generator)  # the same for every log_alpha: smooth curves
    location, u = log_alpha[:, None].expand(-1, len(u)), u.expand(count, -1)  # (N, 500)
    s_bar, z = stretched(location, u), sample(location, u, straight_through=False)
    return Means(
        num_samples=u.shape[1],
        log_alpha=log_alpha.tolist(),
        z=z.mean(dim=1).tolist(),
        s_bar=s_bar.mean(dim=1).tolist(),
        with_gradient=((s_bar > 0) & (s_bar < 1)).float().mean(dim=1).tolist(),
    )
