"""One tiny training run for all contract tests, and a checkpoint of it with strongly pruned masks."""

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.pretrain.finish import export_checkpoint
from tests.tiny_run import TinyRecipe


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    return TinyRecipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trained(recipe):
    """Folder of a finished run of three steps."""
    return recipe.train(recipe.root / "run")


@pytest.fixture(scope="session")
def pruned_checkpoint(trained):
    """The run's last checkpoint with gates as after long training; layer 1's attention and layer 2 are removed."""
    state = checkpoint.load_checkpoint(trained / "states-3.ckpt")
    generator = torch.Generator().manual_seed(1)
    for name, log_alpha in state["Gates"].items():
        log_alpha.copy_(torch.randn(log_alpha.shape, generator=generator) * 2)
        if log_alpha.numel() == 1:
            gone = name.startswith("layers.1.") or name == "layers.0.z_mha.log_alpha"
            log_alpha.fill_(-3.0 if gone else 1.0)
    path = trained.parent / "deep" / "states-3.ckpt"
    checkpoint.save_checkpoint(path, state)
    return path


@pytest.fixture(scope="session")
def exported(pruned_checkpoint):
    """Its export."""
    folder = pruned_checkpoint.parent / "export"
    export_checkpoint(pruned_checkpoint, folder)
    return folder


@pytest.fixture(scope="session")
def hub():
    """s3prl's hub with our entries in it."""
    import s3prl_pruned

    s3prl_pruned.register()
    import s3prl.hub

    return s3prl.hub
