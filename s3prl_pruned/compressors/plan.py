"""Before training: check that a rate can be reached, divide it among the techniques, and apply the first of them."""

from dataclasses import dataclass

from s3prl_pruned.compressors.config import CompressConfig
from s3prl_pruned.compressors.low_rank import Decomposed
from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.compressors.shallow import first_layers, shallow
from s3prl_pruned.compressors.units import head_costs, reachable, row_costs
from s3prl_pruned.config import UserError
from s3prl_pruned.models.compact import compact
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import prunable_weights, sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig

_LIMITS = {
    "layers": "one layer stays",
    "low_rank": "each linear map keeps rank 1",
    "heads": "each layer keeps a head",
    "rows": "attention stays whole",
    "magnitude": "one weight stays",
}


@dataclass
class Plan:
    """How an encoder is to be compressed."""

    student: SpeechEncoder
    """A copy of the encoder, to which `layers` and `low_rank` are already applied."""
    begin: int
    """Number of its prunable weights that are not zero."""
    goals: dict[str, int]
    """Number of prunable weights to be left after each technique, in order."""
    target: float
    """Sparsity after the last technique; with `CompressConfig.energy`, the sparsity that results from it."""


def make_plan(encoder: SpeechEncoder, config: CompressConfig, wanted: SparsityConfig) -> Plan:
    """Check a rate, and apply the techniques that come before training.

    Args:
        encoder: trained; dense, or pruned already (but not its CNN or positional convolution). Not changed.
        config: which techniques.
        wanted: the rate.

    Raises:
        UserError: the techniques cannot reach the rate on this encoder, or it has been pruned in a way that they cannot
            continue.
    """
    parts = {"CNN": encoder.spec.channels, "positional convolution": encoder.spec.position_groups}
    for part, kept in parts.items():
        if kept is not None:
            raise UserError(
                f"the encoder's {part} is pruned, but these techniques neither prune nor count it. Use an encoder "
                f"whose {part} is not pruned."
            )
    shape, start = encoder.config, weights_left(encoder)
    if start < prunable_weights(shape, encoder.spec) and "magnitude" not in config.techniques:
        raise UserError(
            "weights of the encoder are pruned one by one, and only `magnitude` keeps them zero in training. Add it to "
            "`techniques`."
        )
    decomposed = Decomposed(encoder) if "low_rank" in config.techniques else None
    target = wanted.goal
    if config.energy is not None:
        assert decomposed is not None
        target = sparsity(prunable_weights(shape, decomposed.ranks_by_energy(config.energy)), shape)
    reach = {
        name: start - 1 if name == "magnitude" else _reach(name, encoder, decomposed) for name in config.techniques
    }
    _refuse_unreachable(target, start, reach, encoder)
    removes = start - round((1 - target) * prunable_weights(shape, CompactSpec.dense(shape)))
    shares = config.shares or tuple(reach.values())
    goals = {
        name: start - round(removes * sum(shares[: i + 1]) / sum(shares)) for i, name in enumerate(config.techniques)
    }
    student = compact(encoder, encoder.spec)  # a copy
    if "layers" in goals:
        student = shallow(encoder, _layer_count(encoder, goals["layers"]))
        decomposed = decomposed and Decomposed(student)
    if decomposed:
        student = decomposed.factored(decomposed.ranks_for(goals["low_rank"], config.ranks))
    return Plan(student, weights_left(student), goals, target)


def refuse_missed(reached: float, plan: Plan, tolerance: float) -> None:
    """Raise UserError if the rate is missed: units are too large, or too few of them are left by other techniques."""
    if abs(reached - plan.target) > tolerance:
        raise UserError(
            f"`sparsity.target.share` is {plan.target:g}, but the nearest rate that {' and '.join(plan.goals)} can "
            f"bring this encoder to is {reached:.4f} (whole units are removed), which differs by more "
            f"than `sparsity.tolerance`, {tolerance}. Give that rate."
        )


def _refuse_unreachable(target: float, start: int, reach: dict[str, int], encoder: SpeechEncoder) -> None:
    has = sparsity(start, encoder.config)
    if target <= has and target > 0:
        raise UserError(
            f"`sparsity.target.share` is {target:g}, but the encoder has {has:.4f} already, and the rate is the share "
            "of the dense encoder's weights that is gone in all. Give a larger one."
        )
    # Together they cannot remove more than there is, however much each could alone.
    most = sparsity(max(start - sum(reach.values()), 1), encoder.config)
    if target > most + 1e-9:
        limits = ", ".join(_LIMITS[name] for name in reach)
        raise UserError(
            f"`sparsity.target.share` is {target:g}, but {' and '.join(reach)} reach {has:.4f} to {most:.4f} on this "
            f"encoder ({limits}). Give a rate in this range, or add techniques."
        )


def _reach(name: str, encoder: SpeechEncoder, decomposed: Decomposed | None) -> int:
    """The most weights that a technique alone can remove."""
    shape, spec = encoder.config, encoder.spec
    start = prunable_weights(shape, spec)
    if name == "layers":
        return start - prunable_weights(shape, first_layers(spec, 1))
    if name == "low_rank":
        assert decomposed is not None
        return start - prunable_weights(shape, decomposed.ranks_by_share(0.0))
    if name == "heads":
        return reachable([head_costs(layer, shape.embed_dim) for layer in spec.layers], keep=1)
    if name == "rows":
        return reachable([row_costs(layer, shape.embed_dim) for layer in spec.layers], keep=0)
    raise AssertionError(name)


def _layer_count(encoder: SpeechEncoder, left: int) -> int:
    """The number of first layers whose weights come closest to `left`."""
    shape, spec = encoder.config, encoder.spec
    return min(range(1, shape.num_layers + 1), key=lambda n: abs(prunable_weights(shape, first_layers(spec, n)) - left))
