"""The training loop: crops of cached windows in, checkpoints and exports out.

A step depends only on its number, the seed and the state in the checkpoint, so that an interrupted run ends with the
same weights as an uninterrupted one.
"""

import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.embedded_teacher.distill import Distiller
from benchmarks.embedded_teacher.export import export_teacher
from benchmarks.embedded_teacher.recipe import TeacherRecipe
from benchmarks.embedded_teacher.windows import TargetStatistics, Window, load_crop
from s3prl_pruned.checkpoint import checkpoint_path, load_checkpoint, newest, rotate, save_checkpoint
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig

logger = logging.getLogger(__name__)


class CropBatches:
    """`batch(index)` is a pure function of the seed and `index`.

    Args:
        windows: windows to sample from, each in proportion to its length and its language's weight.
        cache: folder of the window files.
        statistics: to standardise the targets.
        recipe: crop lengths, batch size, seed, English weight.
    """

    def __init__(self, windows: list[Window], cache: Path, statistics: TargetStatistics, recipe: TeacherRecipe):
        self.windows, self.cache, self.statistics, self.recipe = windows, cache, statistics, recipe
        weights = np.array([w.num_frames * (recipe.english_weight if w.is_english else 1) for w in windows], float)
        self._share = weights / weights.sum()

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and standardised targets (B, T, 3 W)."""
        recipe = self.recipe
        generator = np.random.default_rng([recipe.seed, index])
        seconds = generator.choice(recipe.crop_seconds)
        batch_seconds = recipe.cnn_batch_seconds if index < recipe.cnn_steps else recipe.batch_seconds
        num_frames, size = round(seconds * 50), int(batch_seconds / seconds)
        wavs, targets = [], []
        for number in generator.choice(len(self.windows), size=size, p=self._share):
            window = self.windows[number]
            start = int(generator.integers(max(0, window.num_frames - num_frames) + 1))
            wav, states = load_crop(self.cache, window.name, start, num_frames)
            gain = 10 ** (generator.uniform(-10, 6) / 20)
            wavs.append(wav * gain)
            mean = self.statistics.mean[start : start + num_frames]
            targets.append((states - mean) / self.statistics.std)
        return torch.stack(wavs), torch.stack(targets)


class TeacherTraining:
    """One run in one folder.

    Args:
        recipe: settings of the training.
        config: the student's shape.
        train: windows to train on.
        held_out: windows to evaluate on.
        cache: folder of the window files of both.
        folder: folder for checkpoints, `log.jsonl` and `export/`.
        about: information on the data and the machine for the card, see `teacher_card`.
    """

    def __init__(
        self,
        recipe: TeacherRecipe,
        config: EncoderConfig,
        *,
        train: list[Window],
        held_out: list[Window],
        cache: Path,
        folder: Path,
        about: dict,
    ):
        self.recipe, self.folder, self.cache, self.about = recipe, folder, cache, about
        self.held_out = held_out
        folder.mkdir(parents=True, exist_ok=True)
        self.statistics = TargetStatistics.of(train, cache)
        self.batches = CropBatches(train, cache, self.statistics, recipe)
        torch.manual_seed(recipe.seed)
        self.model = Distiller(config, self.recipe, target_dim=self.statistics.std.numel() // 3)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.step, self.seconds_passed, self.wall_seconds = 0, 0.0, 0.0
        self.last_losses: dict[str, float] = {}

    def run(self) -> Path:
        """Train to the end, from the folder's newest checkpoint if there is one; returns the export's folder."""
        self._resume()
        meter, begin = [], time.monotonic()
        while self.step < self.recipe.total_steps:
            meter.append(self._train_step())
            if self.step % self.recipe.log_step == 0:
                self.wall_seconds += time.monotonic() - begin
                begin = time.monotonic()
                self.last_losses = _mean(meter)
                self._log(self.last_losses)
                meter = []
            if self.step % self.recipe.save_step == 0 or self.step == self.recipe.total_steps:
                self.wall_seconds += time.monotonic() - begin
                self._save()
                begin = time.monotonic()
        return self.folder / "export"

    def _train_step(self) -> dict[str, float]:
        recipe, lr = self.recipe, self.recipe.lr_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        wavs, targets = self.batches.batch(self.step)
        alone = self.step < recipe.cnn_steps
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
            if alone:
                total = self.model.mel_loss(wavs)
                parts = {"mel": total.item()}
            else:
                loss = self.model(wavs, targets)
                total, parts = loss.total, _numbers(loss)
        if not torch.isfinite(total):
            raise UserError(f"{self.folder}: the loss of step {self.step} is {total.item()}. Resume with a lower `lr`.")
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clipping)
        self.optimizer.step()
        self.optimizer.zero_grad()
        weights = list(self.model.parameters())
        # at first the average decays faster, so that the initial weights vanish early
        decay = min(recipe.ema_decay, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in weights], 1 - decay)
        self.step += 1
        self.seconds_passed += wavs.numel() / 16_000
        return {**parts, "lr": lr, "gradient": norm.item()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The losses of the averaged weights on the held-out windows, in crops of 10 s, in fp32."""
        model = self._averaged()
        parts = []
        for window in self.held_out:
            for start in range(0, window.num_frames - 499, 500):
                wav, states = load_crop(self.cache, window.name, start, 500)
                targets = (states - self.statistics.mean[start : start + 500]) / self.statistics.std
                parts.append(_numbers(model(wav[None], targets[None])))
        return _mean(parts)

    def encoder(self) -> SpeechEncoder:
        """The student with the averaged weights, in eval mode."""
        return self._averaged().encoder

    def _averaged(self) -> Distiller:
        model = Distiller(self.model.encoder.config, self.recipe, target_dim=self.statistics.std.numel() // 3)
        model.load_state_dict(self.average)
        return model.eval()

    def _log(self, values: dict[str, float]) -> None:
        passed = {"hours": self.seconds_passed / 3600, "wall_minutes": self.wall_seconds / 60}
        entry = {"step": self.step, **values, **passed}
        entry = {name: round(value, 6) for name, value in entry.items()}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        logger.info(" ".join(f"{name} {value:.4g}" for name, value in entry.items()))

    def _save(self) -> None:
        held_out = self.evaluate()
        self._log({f"held_out_{name}": value for name, value in held_out.items()})
        state = {
            "step": self.step,
            "seconds_passed": self.seconds_passed,
            "wall_seconds": self.wall_seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "recipe": to_dict(self.recipe),
        }
        save_checkpoint(checkpoint_path(self.folder, self.step), state)
        rotate(self.folder, 2)
        about = {
            **self.about,
            "recipe": to_dict(self.recipe),
            "step": self.step,
            "hours": self.seconds_passed / 3600,
            "wall_minutes": self.wall_seconds / 60,
            "held_out": held_out,
            "train": self.last_losses,
        }
        export_teacher(self.encoder(), self.folder / "export", about)

    def _resume(self) -> None:
        path = newest(self.folder)
        if path is None:
            return
        state = load_checkpoint(path)
        now = to_dict(self.recipe)
        changed = sorted(name for name in now if now[name] != state["recipe"].get(name))
        if set(changed) - {"total_steps", "decay_fraction", "log_step", "save_step"}:
            raise UserError(f"{path}: was made with other values of {changed}. Give them again, or use a new folder.")
        before = from_dict(TeacherRecipe, state["recipe"], str(path))
        falling = state["step"] > min(before.decay_start, self.recipe.decay_start)
        if falling and {"total_steps", "decay_fraction"} & set(changed):
            raise UserError(f"{path}: {changed} must not change once the learning rate falls.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step = state["step"]
        self.seconds_passed, self.wall_seconds = state["seconds_passed"], state["wall_seconds"]
        logger.info("%s: resuming after step %d.", path, self.step)


def _numbers(loss) -> dict[str, float]:
    cosine = {f"cosine_{i}": value for i, value in enumerate(loss.cosine.tolist(), start=1)}
    return {"loss": loss.total.item(), "l1": loss.l1.item(), **cosine, "mel": loss.mel.item()}


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    """Each name's mean over the entries that have it."""
    names = {name: None for entry in entries for name in entry}
    return {name: float(np.mean([entry[name] for entry in entries if name in entry])) for name in names}
