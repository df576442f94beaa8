"""The pre-training expert for ASR fine-tuning with pruning in one pass (Xu et al. 2025), in s3prl's layout.

One optimiser step, as `pretrain/runner.py` drives it:

    begin_step       compute all masks once, from thresholds and weights
    forward          per micro-batch: masked encoder, head, CTC
    end_backward     the band rule on the size; the masks' gradient to thresholds and weights
    on_before_zero_grad   keep the thresholds where they decide something
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3prl_pruned import distributed
from s3prl_pruned.config import from_dict, to_dict
from s3prl_pruned.export.masks import FinalMasks, final_masks
from s3prl_pruned.gates.self_pinching import PinchedDraw
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.objectives.ctc import Characters, CtcHead, ctc_loss
from s3prl_pruned.pretrain.asr.config import AsrDataConfig, AsrModelConfig
from s3prl_pruned.pretrain.asr.data import LabelledBatch, LabelledBatches, corpus_root, read_sets, transcripts
from s3prl_pruned.pretrain.asr.recognizer import Recognizer
from s3prl_pruned.pretrain.distill.model import remaining_units, student_shape
from s3prl_pruned.pretrain.distill.teachers import Teacher, load_teacher
from s3prl_pruned.pretrain.expert import Expert, model_config
from s3prl_pruned.sparsity.expected import expected_sparsity

BASE_MODELS = {
    "wavlm": "wavlm_base",
    "hubert": "hubert_base",
    "wav2vec2": "wav2vec2_base_960",
    "data2vec": "data2vec_base_960",
}
"""What `teacher: null` stands for, by family."""


class AsrForPretrain(nn.Module):
    """Everything that is trained: the encoder (called student, as in distillation), the head, and the gates, if any.

    `lagrangian` is empty: the band rule has no multipliers.
    """

    def __init__(self, encoder: SpeechEncoder, characters: Characters, config: AsrModelConfig):
        super().__init__()
        shape = student_shape(encoder, config.student)
        config.check_target(shape, encoder.spec)
        self.student = SpeechEncoder(shape, encoder.spec)
        self.student.load_state_dict(encoder.state_dict())
        self.head = CtcHead(shape.embed_dim, characters.num_outputs, dropout=config.ctc.dropout)
        self.gates = config.make_gates(encoder.spec)
        self.lagrangian = nn.Module()


@dataclass
class _Step:
    """State of the optimiser step under way."""

    draw: PinchedDraw
    temperature: float
    global_characters: int


class UpstreamPretrainExpert(Expert):
    """s3prl's interface (`pretrain/runner.py` there): device, forward, load_model, add_state_to_save, ...

    Args:
        datarc: `AsrDataConfig` or its dict.
        upstream_config: `AsrModelConfig`, its dict, or the path of a `config_model.yaml`.
        device: torch device.
        multi_gpu: not used: DataParallel is not supported.
        seed: of batches, of the head, and of random encoders.
        family: what the encoder must be, one of `models.spec.FAMILIES`.
    """

    loss_name = "ctc"
    """Of the records: what the screen shows, and what must be finite."""

    def __init__(
        self, datarc, upstream_config, device="cuda", multi_gpu: bool = False, *, seed: int = 0, family: str = "wavlm", **kwargs
    ):
        super().__init__()
        self.device = torch.device(device)
        self.seed = seed
        self.datarc = datarc if isinstance(datarc, AsrDataConfig) else from_dict(AsrDataConfig, datarc, "datarc")
        self.upstream_config = model_config(upstream_config, AsrModelConfig)
        root = corpus_root(self.datarc)
        training = read_sets(root, self.datarc.sets)
        self.dev, self.test = read_sets(root, self.datarc.dev_sets), read_sets(root, self.datarc.test_sets)
        texts = transcripts(training)
        given = self.upstream_config.ctc.characters
        self.characters = Characters.of(texts) if given is None else Characters(given)
        self.characters.refuse_unknown({**texts, **transcripts(self.dev), **transcripts(self.test)}, where=str(root))
        source = self.upstream_config.teacher or BASE_MODELS[family]
        self.loaded_teacher: Teacher = load_teacher(source, seed, family=family, objective="asr")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of the head
            self.model = AsrForPretrain(self.loaded_teacher.encoder, self.characters, self.upstream_config)
        self.batches = LabelledBatches(training, self.characters, self.model.student.config, self.datarc, seed=seed)
        self._step: _Step | None = None
        self.to(self.device)

    @property
    def target_sparsity(self) -> float:
        """What the run is to reach; without gates, what the encoder has."""
        band = self.upstream_config.sparsity
        return band.target_sparsity if self.upstream_config.self_pinching else self.final_masks().sparsity

    @property
    def aim(self) -> str:
        """What the run is to reach, in words."""
        if self.upstream_config.self_pinching is None:
            return f"nothing is pruned (sparsity {self.target_sparsity:.4g})"
        return f"target sparsity {self.target_sparsity:.4g} +- {self.upstream_config.sparsity.tolerance:g}"

    def begin_step(self, step: int, total_steps: int, batches: list[LabelledBatch]) -> None:
        """Compute the masks of optimiser step `step` (1-based), the same on every rank, for all its micro-batches."""
        characters = torch.tensor(sum(int(lengths.sum()) for _, _, _, lengths in batches), device=self.device)
        temperature = self.model.gates.config.temperature_at(step, total_steps)
        draw = self.model.gates.draw(self.model.student, temperature)
        draw.fill(self.model.student)
        self._step = _Step(draw, temperature, int(distributed.all_reduce_sum(characters)))

    def forward(self, data: LabelledBatch, records: dict[str, float], global_step: int = 0, **kwargs) -> Tensor:
        """CTC loss of one micro-batch per character of the global batch: the micro-batches' losses add up.

        Args:
            data: `LabelledBatch`.
            records: terms are added under their names.
        """
        wavs, lengths, targets, target_lengths = (tensor.to(self.device) for tensor in data)
        padded = lengths if bool((lengths < wavs.shape[1]).any()) else None
        output = self.model.student(wavs, padded)
        logits = self.model.head(output.hidden_states[-1])
        loss = ctc_loss(logits, output.frame_lengths, targets, target_lengths) / self._step.global_characters
        records["ctc"] = records.get("ctc", 0.0) + float(loss.detach())
        return loss

    def end_backward(self, records: dict[str, float], *, loss_scale: float = 1.0) -> None:
        """After all micro-batches' backward passes: the band rule, and the gradients of the gates.

        Args:
            records: terms are added under their names.
            loss_scale: what the CTC loss was multiplied with.
        """
        step, band = self._step, self.upstream_config.sparsity
        sparsity = expected_sparsity(step.draw, self.model.student.config)
        if self.upstream_config.self_pinching is None:
            records.update(expected_sparsity=float(sparsity), target_sparsity=float(sparsity))
            return
        penalty = band.penalty(sparsity)
        if penalty.requires_grad:
            penalty.backward()
        step.draw.backward(distributed.all_reduce_sums(step.draw.gradients()), loss_scale=loss_scale)
        records.update(
            size_penalty=float(penalty.detach()),
            expected_sparsity=float(sparsity.detach()),
            target_sparsity=band.target_sparsity,
            temperature=step.temperature,
        )

    def on_before_zero_grad(self) -> None:
        """After the optimisers' step."""
        self.model.gates.clamp()
        self._step.draw.empty(self.model.student)

    def evaluate(self) -> dict[str, float]:
        """WER on dev (`dev_wer`, a fraction) of the model as it stands, decoded greedily; nothing without dev."""
        if not self.dev:
            return {}
        draw = self.model.gates.draw(self.model.student, self._step.temperature)
        draw.fill(self.model.student)
        own = self.dev[distributed.rank() :: distributed.world_size()]
        errors, _ = Recognizer(self.model.student, self.model.head, self.characters).recognize(own)
        draw.empty(self.model.student)
        edits, words = distributed.all_reduce_sum(torch.tensor([errors.edits, errors.words], device=self.device)).tolist()
        return {"dev_wer": edits / words}

    def log_records(self, records: dict) -> dict:
        """What is written every `log_step`: the records, the masks' averages, and what the gates keep as they stand,
        overall and as shares of each layer's units."""
        kept, averages = self.final_masks(), self._step.draw.averages()
        remaining = remaining_units(kept.spec, self.model.student.spec)
        return {**records, "realised_sparsity": kept.sparsity, "mask_means": averages, "remaining": remaining}

    def final_masks(self) -> FinalMasks:
        """The hard masks as the gates stand; without gates, none."""
        return final_masks(self.model.gates, self.model.student, self.upstream_config.sparsity)

    def add_state_to_save(self, all_states: dict) -> dict:
        """s3prl's interface. `Upstream_Config` says where the encoder came from."""
        all_states["Objective"] = "asr"
        all_states["Student"] = self.model.student.state_dict()
        all_states["Head"] = self.model.head.state_dict()
        all_states["Characters"] = self.characters.text
        all_states["Gates"] = self.model.gates.state_dict()
        all_states["Encoder_Config"] = to_dict(self.model.student.config)
        all_states["Spec"] = self.model.student.spec.to_dict()
        all_states["Upstream_Config"] = to_dict(self.upstream_config)
        all_states["Target_Sparsity"] = self.target_sparsity
        all_states["Teacher"] = self.teacher_record()
        return all_states

    def load_model(self, all_states: dict) -> None:
        """s3prl's interface: the reverse of `add_state_to_save`."""
        self.model.student.load_state_dict(all_states["Student"])
        self.model.head.load_state_dict(all_states["Head"])
        self.model.gates.load_state_dict(all_states["Gates"])
