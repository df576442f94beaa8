"""fairseq's own checkpoints are read without fairseq; its notation of layers is never evaluated."""

import argparse
import zipfile

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import fairseq, registry
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, tiny_families

SHAPES = tiny_families()


def fairseq_checkpoint(config, *, style):
    """A checkpoint as fairseq writes it, with what `weights_only` refuses: namespaces, omegaconf nodes,
    dictionaries."""
    model, task = fairseq.to_cfg(config)
    state = fairseq.KEYS.to_theirs(random_encoder(config, seed=1).state_dict(), config)
    state |= {
        "quantizer.vars": torch.zeros(1, 4, 2),
        "project_q.weight": torch.zeros(2, 2),
        "final_proj.bias": torch.zeros(2),
    }
    if style == "namespace":  # 2020: one flat namespace
        return {
            "args": argparse.Namespace(arch=model.pop("_name"), **model, normalize=task["normalize"]),
            "model": state,
        }
    cfg = {"_name": None, "model": model, "task": task, "common": {"seed": 1}}
    if style == "omegaconf":
        omegaconf = pytest.importorskip("omegaconf")
        cfg = omegaconf.OmegaConf.create(cfg)
    if style == "namespace inside":
        cfg["model"] = argparse.Namespace(**model)
    return {"args": None, "cfg": cfg, "model": state, "optimizer_history": [{"num_updates": 4}]}


@pytest.mark.parametrize("style", ["namespace", "plain", "omegaconf", "namespace inside"])
@pytest.mark.parametrize("name", ["hubert_base", "wav2vec2_large", "data2vec_base"])
def test_fairseqs_own_checkpoints_are_read_without_fairseq(name, style, tmp_path):
    config = SHAPES[name]
    torch.save(fairseq_checkpoint(config, style=style), tmp_path / "fairseq.pt")
    read = registry.read(tmp_path / "fairseq.pt", shape=config).encoder.state_dict()
    state = random_encoder(config, seed=1).state_dict()
    assert all(torch.equal(state[key], read[key]) for key in state)


def test_the_old_file_format_of_torch_is_read_too(tmp_path):
    config = SHAPES["hubert_base"]
    torch.save(fairseq_checkpoint(config, style="namespace"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "old.pt")
    assert registry.read(tmp_path / "old.pt", shape=config).encoder.config.family == "hubert"


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch /tmp/owned')",
        "[(512, 10, 5)] + open('/etc/passwd').read()",
        "[(512, 10, 5)] * 999999999",
        "[(512, 10, 5)] * 99 * 99 * 99 * 99",
        "[(512, 10, 5)] * (9 ** 9 ** 9)",
        "[(512, 10)]",
        "[(512, 10, 'a')]",
        "[(512, 10, -5)]",
        "[(512, 10, True)]",
        "[]",
        "'abc' * 3",
        "{1: 2}",
        "5",
        "((((",
        "(" * 5000,
        "\0",
        "",
        7,
        None,
    ],
)
def test_malicious_or_broken_layer_lists_are_refused_without_running(text):
    with pytest.raises(UserError, match="ckpt.pt: `conv_feature_layers` must be a list of"):
        fairseq.parse_conv_layers(text, "ckpt.pt")


def test_layer_lists_have_the_value_that_python_gives():
    text = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
    assert fairseq.parse_conv_layers(text, "here") == tuple(eval(text)) == families.wavlm_base().conv_layers
    assert fairseq.parse_conv_layers("[[8, 10, 5], (9, 3, 2)]", "here") == ((8, 10, 5), (9, 3, 2))
