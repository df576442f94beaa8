"""Several structures from the gates of one run, so that the size can be chosen after training."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.data.sources import sets_in
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.export.inert import inert_share
from s3prl_pruned.export.masks import FinalMasks, export_compact
from s3prl_pruned.former_defaults import as_before
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.expert import SECONDS_OF_MACS, Expert
from s3prl_pruned.pretrain.finish import TrainedStudent, damage_named
from s3prl_pruned.pretrain.pruners.hard_concrete import HardConcretePruner
from s3prl_pruned.pretrain.run_folder import RUN, read_run
from s3prl_pruned.sparsity.config import Target, several_targets
from s3prl_pruned.sparsity.counts import EncoderCounts, macs, parameters, realised_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable, read_latency_table
from s3prl_pruned.sparsity.quantities import Quantity
from s3prl_pruned.sparsity.targets import Measure

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Structure:
    """What the gates keep at one target; or the dense student."""

    name: str
    """Such as `params-0.65`, or `dense`."""
    target: float | None = None
    """Requested value (`Quantity.shown`); None for the dense student."""
    realised: float
    """Value of the structure."""
    own: bool = False
    """Whether it is the run's own target: its weights have settled for these masks."""
    missed: bool = False
    """Whether it differs from the target by more than the run's tolerance."""
    sparsity: float
    parameters: int
    macs: int
    """For `SECONDS_OF_MACS` of audio."""
    inert_share: float = 0.0
    expected_seconds: float | None = None
    """Seconds by the latency table, for the utterance of the table."""
    held_out_distill: float | None = None
    """Distillation loss on the held-out utterances; None if it was not requested, or nothing is held out."""
    seconds: float | None = None
    """Measured median seconds of a call with `SECONDS_OF_MACS` of audio."""
    speed: float | None = None
    """The dense student's time divided by this structure's, pair by pair."""
    noisy: bool = False
    """Whether the spread of `speed` is too large to rely on."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A training checkpoint, and the targets at which its gates are evaluated."""

    trained: TrainedStudent
    targets: Sequence[Target]
    """All in the same quantity."""
    table: LatencyTable | None
    """The table of the run, or of the command line."""

    @classmethod
    def of(cls, trained: TrainedStudent, targets: str, table: str | None = None) -> "Choices":
        """From the words of a command line.

        Args:
            trained: student of the checkpoint.
            targets: as for `several_targets`.
            table: file of a latency table.

        Raises:
            UserError: wrong targets, a wrong table, or a method whose size cannot be chosen after training.
        """
        control = trained.gated.control
        given = None if table is None else read_latency_table(table)
        if given is not None:
            given.check(trained.encoder.config)
            if control.table not in (None, given):
                raise UserError(
                    f"{table}: holds other times than the table that this run was trained with, which its checkpoint "
                    "holds. Leave it out; --time measures another device."
                )
        wanted = several_targets(targets, control.config.target, table=table)
        return cls(trained=trained, targets=wanted, table=control.table or given)

    def only(self) -> Target:
        """The only target.

        Raises:
            UserError: there are several.
        """
        if len(self.targets) > 1:
            raise UserError(f"one target is wanted, but there are {len(self.targets)}. Name one.")
        return self.targets[0]

    @property
    def quantity(self) -> Quantity:
        """Quantity of the targets."""
        return self._measure(self.targets[0]).quantity

    @property
    def names(self) -> list[str]:
        """Names of the structures, such as `params-0.65`."""
        word = "speedup" if self.targets[0].of == "time" else self.targets[0].of
        return [f"{word}-{self.quantity.shown(target.share):.6g}" for target in self.targets]

    def masks(self) -> list[FinalMasks]:
        """The final masks at each target.

        Raises:
            UserError: a target is out of these gates' reach.
        """
        with damage_named(self.trained.path):
            finals = [self._pruner(target).final_masks() for target in self.targets]
            missed = [self._missed(target, final) for target, final in zip(self.targets, finals, strict=True)]
            least, most = (self.quantity.share(figure) for figure in self.reach)
        out = [
            name
            for name, target, misses in zip(self.names, self.targets, missed, strict=True)
            if misses and not self._is_own(target) and not least <= target.share <= most
        ]
        if out:
            low, high = self.reach
            raise UserError(
                f"{self.trained.path}: out of reach: {', '.join(out)}. These gates leave {low:.4g} to {high:.4g}: "
                "whole sublayers go as their own gates say, and units that their masks silence stay gone. Choose "
                "between, or train for the least that you may want."
            )
        return finals

    @cached_property
    def reach(self) -> tuple[float, float]:
        """Smallest and largest value that the gates can reach, with all dimension gates shifted in one direction."""
        ends = [replace(self.targets[0], share=share) for share in (0.0, 1.0)]
        least, most = (self.quantity.shown(self._pruner(target).final_masks().reached) for target in ends)
        return least, most

    def structures(self, finals: Sequence[FinalMasks], expert: Expert | None = None) -> list[Structure]:
        """The dense student, then one structure for each of the masks.

        Args:
            finals: result of `masks`.
            expert: computes the held-out loss (`expert_of`); None for no loss.
        """
        encoder, measure = self.trained.encoder, self._measure(self.targets[0])
        found = [self._sized("dense", encoder.spec, realised=measure.quantity.shown(measure.of(encoder.spec)))]
        for name, target, final in zip(self.names, self.targets, finals, strict=True):
            one = self._sized(name, final.spec, realised=measure.quantity.shown(final.reached))
            one.target, one.own = measure.quantity.shown(target.share), self._is_own(target)
            one.missed = self._missed(target, final)
            one.inert_share = inert_share(final.masks, encoder.spec, encoder.config)
            if expert is not None:
                one.held_out_distill = expert.export_figures(final).get("held_out_distill")
            found.append(one)
        return found

    def encoders(self, finals: Sequence[FinalMasks]) -> dict[str, SpeechEncoder]:
        """The dense student and the smaller encoders, by name, with the weights that are exported."""
        self.trained.take_average()
        dense = self.trained.encoder
        smaller = {
            name: export_compact(dense, final.masks, final.spec) for name, final in zip(self.names, finals, strict=True)
        }
        return {"dense": dense, **smaller}

    def _pruner(self, target: Target) -> HardConcretePruner:
        return self.trained.gated.aimed_at(target, self.table)

    def _measure(self, target: Target) -> Measure:
        return self._pruner(target).control.measure

    def _is_own(self, target: Target) -> bool:
        return target == self.trained.gated.control.config.target

    def _missed(self, target: Target, final: FinalMasks) -> bool:
        return abs(final.reached - target.share) > self.trained.gated.control.config.tolerance

    def _sized(self, name: str, spec: CompactSpec, *, realised: float) -> Structure:
        shape, table = self.trained.encoder.config, self.table
        return Structure(
            name=name,
            realised=realised,
            sparsity=realised_sparsity(shape, spec),
            parameters=sum(parameters(shape, spec).values()),
            macs=sum(macs(shape, spec, SECONDS_OF_MACS * SAMPLE_RATE).values()),
            expected_seconds=None if table is None else float(table.time(EncoderCounts.of(shape, spec))),
        )


def expert_of(
    trained: TrainedStudent, *, teacher: str | None = None, corpus: str | None = None, device: str = "cpu"
) -> Expert:
    """The expert of the run with the weights that are exported, to compute the held-out loss of masks.

    Args:
        trained: student of the checkpoint.
        teacher: current path of the teacher; None for that of the run.
        corpus: current path of the corpus; None for that of the run.
        device: torch device; it computes in fp32.

    Raises:
        UserError: teacher or corpus are missing, or it is another teacher.
    """
    state, config, where = trained.state, trained.config, str(trained.path)
    kind = trained.objective.runner
    datarc = from_dict(kind, as_before(kind, state["Config"]), f"{where}: Config").pretrain_expert.datarc
    if corpus is not None:
        sets = sets_in(corpus, datarc.sets, "train")
        datarc = replace(datarc, corpus=corpus, sets=None if sets is None else tuple(sets))
    with tempfile.TemporaryDirectory() as temporary:
        table = Path(temporary) / "latency.json"  # the run's own, whose file may be gone
        table.write_text(json.dumps(state.get("Latency_Table")), encoding="utf-8")
        sparsity = _with_table(trained.gated.control.config, str(table))
        config = replace(config, sparsity=sparsity, teacher=teacher or config.teacher)  # type: ignore[arg-type]  # gated: for distillation
        expert = trained.objective.expert(datarc, config, device, seed=state["Seed"])
    found, wanted = expert.loaded_teacher.sha256, state["Teacher"]["sha256"]
    if found != wanted:
        raise UserError(
            f"{where}: was trained with another teacher (sha256 {str(wanted)[:12]}, and {config.teacher} has "
            f"{str(found)[:12]}). Give its path: --teacher."
        )
    folder = trained.path.parent
    if (folder / RUN).is_file() and read_run(folder, trained.objective).get("speech", expert.speech) != expert.speech:
        logger.warning("%s: the corpus is not what it was: the losses are not those of the run's log.", folder)
    with damage_named(trained.path):
        expert.load_model(state)
        expert.load_weights(state.get("Average", state))
    return expert


def _with_table(config: SparsityConfig, table: str) -> SparsityConfig:
    """Use this file as the latency table of all targets of time."""
    targets = {"target": config.target, "cnn_target": config.cnn_target}
    timed = {key: replace(target, table=table) for key, target in targets.items() if target and target.of == "time"}
    return replace(config, **timed)  # type: ignore[arg-type]  # types do not change
