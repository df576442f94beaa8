"""A real pre-training run that takes seconds, for tests that need one: a random tiny teacher, synthetic tones."""

from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

from benchmarks.synthetic_audio import synthetic_noise, synthetic_tone
from s3prl_pruned.formats import microsoft
from s3prl_pruned.models.dummies import random_encoder, tiny_base
from s3prl_pruned.models.families import wavlm_base
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.pretrain.command import main

MODEL = {
    "student": {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "feature_grad_mult": 0.1},
    "distill": {"num_pairs": 2},
}
RUNNER = {
    "runner": {"total_steps": 3, "log_step": 1, "save_step": 1, "max_keep": 20},
    "optimizer": {"lr": 1e-3, "gate_lr": 0.5},
    "pretrain_expert": {"datarc": {"train_batch_size": 2, "max_seconds": 0.5, "min_seconds": 0.3, "num_workers": 0}},
}


def tiny_wavlm() -> EncoderConfig:
    """WavLM Base's architecture with its kernels and strides (320 samples per frame), everything else tiny."""
    conv_layers = tuple((8, kernel, stride) for _, kernel, stride in wavlm_base().conv_layers)
    return tiny_base(conv_layers=conv_layers)


class TinyRecipe:
    """A folder with teacher, corpus and recipe, and the command line that trains with them.

    Attributes:
        teacher: a random-weight checkpoint in Microsoft's format.
        corpus: seven tones in noise, 0.4 to 0.7 s.
        recipe: folder for `--recipe`.
    """

    def __init__(self, root: Path):
        self.root, self.teacher, self.corpus, self.recipe = root, root / "teacher.pt", root / "corpus", root / "tiny"
        torch.save(microsoft.checkpoint(random_encoder(tiny_wavlm(), seed=0)), self.teacher)
        self.corpus.mkdir()
        for number in range(7):
            samples = 6_400 + 800 * number
            wav = synthetic_tone(samples, frequency=200 + 150 * number) + synthetic_noise(samples, seed=number)
            soundfile.write(self.corpus / f"tone-{number}.flac", np.clip(wav, -1, 1), 16_000)
        self.recipe.mkdir()
        (self.recipe / "config_model.yaml").write_text(yaml.safe_dump(MODEL))
        (self.recipe / "config_runner.yaml").write_text(yaml.safe_dump(RUNNER))

    def arguments(self, folder: Path, *more: str) -> list[str]:
        """Options of `run_pretrain.py` for a run in `folder`."""
        where = ["--teacher", str(self.teacher), "--corpus", str(self.corpus), "-p", str(folder), "--device", "cpu"]
        return ["-u", "wavlm_pruned_distill", "--recipe", str(self.recipe), *where, *more]

    def train(self, folder: Path, *more: str) -> Path:
        """Train and export in this process; returns `folder`."""
        return main(self.arguments(folder, *more))
