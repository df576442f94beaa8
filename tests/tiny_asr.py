"""A real ASR run that takes seconds, for tests that need one: a random tiny encoder, a corpus of noise."""

import yaml

from s3prl_pruned.pretrain.command import main
from tests.synthetic_corpus import make_corpus

MODEL = {"sparsity": {"target_sparsity": 0.6, "tolerance": 0.05}}
RUNNER = {
    "runner": {"total_steps": 4, "log_step": 1, "save_step": 2, "max_keep": 20},
    "optimizer": {"lr": 1e-2, "gate_lr": 0.2},
    "pretrain_expert": {
        "datarc": {
            "sets": ["train-clean-100"],
            "dev_sets": ["dev-clean"],
            "test_sets": ["test-clean"],
            "train_batch_size": 2,
            "min_seconds": 0.3,
            "num_workers": 0,
        }
    },
}


class Asr:
    """A folder with corpus (noise, so that nothing recognised means anything) and recipe, and the command line."""

    def __init__(self, root, teacher):
        self.root, self.teacher, self.corpus, self.recipe = root, teacher, make_corpus(root / "corpus"), root / "recipe"
        self.recipe.mkdir()
        (self.recipe / "config_model.yaml").write_text(yaml.safe_dump(MODEL))
        (self.recipe / "config_runner.yaml").write_text(yaml.safe_dump(RUNNER))

    def train(self, folder, *more):
        where = ["--teacher", str(self.teacher), "--corpus", str(self.corpus), "-p", str(folder), "--device", "cpu"]
        return main(["-u", "wavlm_pruned_asr", "--recipe", str(self.recipe), *where, *more])
