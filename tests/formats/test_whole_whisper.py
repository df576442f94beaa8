"""A pruned Whisper encoder put back into a whole model: the same function in OpenAI's shapes."""

import json

import pytest
import torch

from s3prl_pruned.commands.convert import main
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.registry import read, write
from s3prl_pruned.formats.whole_whisper import put_back
from s3prl_pruned.models.accelerate.int8 import quantize_int8
from s3prl_pruned.models.compact import compact, whole
from s3prl_pruned.models.dummies import (
    random_encoder,
    random_spec,
    tiny_base,
    tiny_large,
    tiny_peculiar,
    tiny_whisper,
)
from s3prl_pruned.models.spec import CompactSpec, LayerSpec, Ranks
from tests.whisper_files import openai_checkpoint, write_huggingface

CONFIG = tiny_whisper(ffn_dim=96)
WAV = 0.1 * torch.randn(1, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def states(encoder):
    with torch.no_grad():
        return encoder.double()(WAV).hidden_states


def originals(folder):
    """A whole model of each kind, with other weights."""
    torch.save(openai_checkpoint(random_encoder(CONFIG, seed=8)), folder / "whole.pt")
    write_huggingface(folder / "whole", random_encoder(CONFIG, seed=8))
    (folder / "whole" / "tokenizer.json").write_text("{}")
    return folder / "whole.pt", folder / "whole"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["whisper", "base", "large", "without norm"])
def test_a_padded_encoder_has_the_same_states_and_is_cut_back_to_the_same_weights(name, seed):
    configs = {"whisper": CONFIG, "base": tiny_base(), "large": tiny_large()}
    config = configs.get(name, tiny_peculiar()["without_norm"])
    spec = random_spec(config, seed=seed, channels=name in ("whisper", "without norm"))
    encoder = random_encoder(config, seed=seed, spec=spec).double()
    filled = whole(encoder)
    assert filled.spec == CompactSpec.dense(config)
    for x, y in zip(states(filled), states(encoder), strict=True):
        torch.testing.assert_close(x, y, atol=1e-9, rtol=1e-9)
    again = compact(filled, spec)
    assert all(torch.equal(x, again.state_dict()[k]) for k, x in encoder.state_dict().items())
    with torch.no_grad():
        filled.layers[0].final_layer_norm.bias += 1
    assert max((x - y).abs().max() for x, y in zip(states(filled), states(encoder), strict=True)) > 1e-3


def test_an_encoder_that_cannot_be_padded_is_refused_with_the_reason():
    layer = CompactSpec.dense(CONFIG).layers[0]
    factors = LayerSpec(**{**vars(layer), "ranks": Ranks(fc1=3)})
    with pytest.raises(UserError, match="layer 1 holds linear maps as two factors"):
        whole(random_encoder(CONFIG, seed=1, spec=CompactSpec(layers=(layer, factors, layer))))
    with pytest.raises(UserError, match="channels are gone that a LayerNorm counts"):
        whole(random_encoder(tiny_base(), seed=1, spec=random_spec(tiny_base(), seed=1, channels=True)))


def test_the_command_puts_a_pruned_encoder_into_a_whole_model(tmp_path, capsys):
    pruned = random_encoder(CONFIG, seed=1, spec=random_spec(CONFIG, seed=2, channels=True))
    write(tmp_path / "export", "folder", pruned)
    for original in originals(tmp_path):
        made = tmp_path / f"made-{original.name}"
        main([str(tmp_path / "export"), str(made), "--into", str(original)])
        assert f"{pruned.num_parameters():,} parameters in a whole model: written to" in capsys.readouterr().out
        found = read(made).encoder
        assert found.config == CONFIG
        for x, y in zip(states(found), states(pruned), strict=True):
            torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-6)
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "made-whole.pt"))
    assert before["dims"] == after["dims"] and before["model_state_dict"].keys() == after["model_state_dict"].keys()
    decoder = "decoder.token_embedding.weight"
    assert torch.equal(before["model_state_dict"][decoder], after["model_state_dict"][decoder])
    assert (tmp_path / "made-whole" / "tokenizer.json").is_file()


def test_an_encoder_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path):
    original, folder = originals(tmp_path)
    encoder = random_encoder(CONFIG, seed=1)
    for wrong, message in (
        (random_encoder(tiny_base(), seed=1), "only Whisper's fp32 encoder .* but this is a wavlm one"),
        (quantize_int8(encoder), "this is an int8 one"),
        (random_encoder(tiny_whisper(ffn_dim=96, num_layers=2), seed=1), "`encoder.*2.* must be in both this file and"),
        (random_encoder(tiny_whisper(ffn_dim=96, max_frames=30), seed=1), "must have shape .30, 24. for this encoder"),
    ):
        for each in (original, folder):
            with pytest.raises(UserError, match=message):
                put_back(tmp_path / "made", wrong, each)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="must be OpenAI's Whisper checkpoint or a Hugging Face folder"):
        put_back(tmp_path / "made", encoder, tmp_path)
    assert not (tmp_path / "made").exists()
