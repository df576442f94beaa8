"""The pre-training expert for the basic techniques (Lin et al. 2024): distillation re-trains what was made smaller.

As `pretrain_expert.py`, with a `Compressor` where the gates are:

    begin_step       the rounds that are due (data-driven heads: after passes over a share of the data), then as there
    forward          as there; a shallower student learns through prediction heads
    end_backward     nothing is learned about what goes: its sparsity is recorded
"""

import logging

from torch import Tensor, nn
from tqdm import tqdm

from s3prl_pruned import distributed
from s3prl_pruned.compressors.compressor import Compressor
from s3prl_pruned.compressors.heads import HeadImportance
from s3prl_pruned.compressors.magnitude import plain_state, set_weight_masks, weight_masks
from s3prl_pruned.compressors.plan import make_plan
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.objectives.matching import match_layers
from s3prl_pruned.objectives.prediction_heads import PredictionHeads
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.model import remaining_units, student_shape
from s3prl_pruned.pretrain.distill.pretrain_expert import Batch, UpstreamPretrainExpert

logger = logging.getLogger(__name__)


class CompressForPretrain(nn.Module):
    """Student and objective; `gates` is the compressor. Nothing else is trained."""

    def __init__(self, teacher: SpeechEncoder, config: ModelConfig):
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        start = SpeechEncoder(student_shape(teacher, config.student), teacher.spec)  # an already pruned one too
        start.load_state_dict(teacher.state_dict())
        plan = make_plan(start, config.compress, config.sparsity)
        self.student = plan.student
        self.gates = Compressor(plan, config.compress, tolerance=config.sparsity.tolerance)
        self.lagrangian = nn.Module()
        self.shares_features = config.student.feature_grad_mult == 0
        objective = PredictionHeads if config.distill.prediction_heads else LayerDistillation
        shape = start.config
        self.distillation = objective(num_layers=shape.num_layers, embed_dim=shape.embed_dim, config=config.distill)

    def train(self, mode: bool = True) -> "CompressForPretrain":
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self


class CompressPretrainExpert(UpstreamPretrainExpert):
    """s3prl's interface; arguments as `UpstreamPretrainExpert`. `upstream_config.compress` must be given."""

    make_model = CompressForPretrain
    rehearsal = False
    """Set by a dry run: one batch gives the head scores."""

    @property
    def target_sparsity(self) -> float:
        """What the run is to reach: what the rate comes to where an energy is given."""
        return self.model.gates.plan.target

    def begin_step(self, step: int, total_steps: int, batches: list[Batch]) -> None:
        """Do the rounds that come before optimiser step `step` (1-based), then put the masks into the student."""
        compressor = self.model.gates
        for number in compressor.rounds_before(step, total_steps):
            compressor.prune(number, lambda number=number: self._head_scores(number))
        super().begin_step(step, total_steps, batches)
        self._step.target = compressor.scheduled_sparsity()

    def _draw(self, step: int, total_steps: int) -> Compressor:
        return self.model.gates

    def end_backward(self, records: dict[str, float], *, loss_scale: float = 1.0) -> None:
        """Record the sparsity; there is nothing to learn it from."""
        records.update(expected_sparsity=self.model.gates.realised_sparsity(), target_sparsity=self._step.target)

    def log_records(self, records: dict) -> dict:
        """What is written every `log_step`: the records, the matched pairs, and what remains of each layer's units."""
        teacher_layers = self.model.distillation.teacher_layers
        pairs = [[teacher_layers[k], j + 1] for k, j in self._step.pairs]
        compressor = self.model.gates
        remaining = remaining_units(compressor.surviving_spec(), self.model.teacher.spec)
        return {**records, "realised_sparsity": compressor.realised_sparsity(), "pairs": pairs, "remaining": remaining}

    def add_state_to_save(self, all_states: dict) -> dict:
        """As there; weights as they are used, zeros where pruned, with their masks beside them."""
        super().add_state_to_save(all_states)
        student = self.model.student
        all_states["Student"] = plain_state(student)
        all_states["Weight_Masks"] = weight_masks(student)
        all_states["Target_Sparsity"] = self.target_sparsity
        return all_states

    def load_model(self, all_states: dict) -> None:
        """The reverse of `add_state_to_save`."""
        super().load_model(all_states)
        set_weight_masks(self.model.student, {name: mask.to(self.device) for name, mask in all_states["Weight_Masks"].items()})

    def _head_scores(self, number: int) -> list[Tensor]:
        """`HeadImportance` over the configured share of an epoch, another one for each round; without dropout."""
        config, student = self.upstream_config.compress, self.model.student
        epoch = self.batches.batches_per_epoch
        count = max(1, round(config.data_share * epoch))
        if self.rehearsal:
            logger.warning("Each of %d rounds takes head scores from %d batches; this one from a single batch, and no estimate heeds them.", config.rounds, count)  # fmt: skip
            count = 1
        chosen = range(number * epoch, number * epoch + count)
        own = chosen[distributed.rank() :: distributed.world_size()]
        student.eval()
        self.model.gates.fill(student)
        with HeadImportance(student) as importance:
            for batch in tqdm(self.get_train_dataloader(own), total=len(own), desc=f"head scores, round {number + 1}", delay=5, leave=False):
                states = self._states(*batch)
                pairs = self.model.distillation.pairs or match_layers(self._errors(*states).tolist(), self.model.gates.existing_layers())
                importance.add(self.model.distillation(*states, pairs).sum())  # every frame counts alike
        student.train()
        return importance.scores(distributed.all_reduce_sums(importance.sums))
