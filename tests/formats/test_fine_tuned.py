"""An encoder inside a larger, fine-tuned model is extracted from it, whatever the prefix of its names."""

import builtins
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import fairseq, registry
from s3prl_pruned.formats.folder import load_encoder, save_encoder
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families

SHAPES = tiny_families()
PREFIXES = ("module.", "_orig_mod.", "model.", "module._orig_mod.wav2vec2.", "model.upstream.model.")


def states_equal(read, encoder):
    pairs = zip(read.state_dict().values(), encoder.state_dict().values(), strict=True)
    return all(torch.equal(found, expected) for found, expected in pairs)


def inside(state, prefix):
    """A model that contains the encoder, with a head and a counter of a trainer; torch.compile adds nothing."""
    if prefix == "_orig_mod.":
        return {prefix + name: value for name, value in state.items()}
    head = {"lm_head.weight": torch.ones(3, 24), "feature_extractor.weight": torch.ones(2), "steps": torch.tensor(7)}
    return {**{prefix + name: value for name, value in state.items()}, **head}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("fmt", ["folder", "huggingface", "fairseq", "s3prl", "torchaudio"])
def test_a_wrapped_encoder_is_found_and_the_rest_is_named_in_a_warning(fmt, prefix, tmp_path, caplog):
    encoder, file = random_encoder(SHAPES["hubert_base"], seed=1), tmp_path / "x"
    registry.write(file, fmt, encoder)
    if fmt in ("folder", "huggingface"):
        state = safetensors.torch.load_file(file / "model.safetensors")
        safetensors.torch.save_file(inside(state, prefix), file / "model.safetensors")
    else:
        content = torch.load(file, weights_only=True)
        key = {"fairseq": "model", "s3prl": "model_weight"}.get(fmt)
        state = inside(content if key is None else content[key], prefix)
        torch.save(state if key is None else {**content, key: state}, file)
    with torch.no_grad():
        encoder.mask_embedding.zero_() if fmt == "torchaudio" else None
    assert states_equal(registry.read(file, shape=SHAPES["hubert_base"]).encoder, encoder)
    said = "only the encoder is read; left out: feature_extractor, lm_head, steps." in caplog.text
    assert said == (prefix != "_orig_mod.")


def test_torch_compiles_prefix_is_removed_at_any_place(tmp_path):
    encoder = random_encoder(SHAPES["wavlm_base"], seed=1, spec=random_spec(SHAPES["wavlm_base"], seed=2))
    save_encoder(tmp_path / "x", encoder, {})
    state = {name.replace("layers.1.", "layers.1._orig_mod."): value for name, value in encoder.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "x" / "model.safetensors")
    assert states_equal(load_encoder(tmp_path / "x")[0], encoder)


@pytest.mark.parametrize("fmt", ["folder", "huggingface"])
def test_a_lightning_checkpoint_beside_the_configuration_is_read(fmt, tmp_path):
    encoder = random_encoder(SHAPES["hubert_large"], seed=1)
    registry.write(tmp_path / "x", fmt, encoder)
    state = safetensors.torch.load_file(tmp_path / "x" / "model.safetensors")
    content = {"epoch": 3, "state_dict": inside(state, "model."), "optimizer_states": [], "hyper_parameters": {"lr": 1}}
    torch.save(content, tmp_path / "x" / "last.ckpt")
    loaded = registry.read(tmp_path / "x" / "last.ckpt")
    assert states_equal(loaded.encoder, encoder) and loaded.path.name == "last.ckpt"
    (tmp_path / "x" / "model.safetensors").unlink()
    (tmp_path / "x" / "last.ckpt").rename(tmp_path / "x" / "pytorch_model.bin")
    assert states_equal(registry.read(tmp_path / "x").encoder, encoder)


def test_a_moving_average_beside_the_model_is_ignored_and_two_models_are_refused(tmp_path):
    encoder, other = (random_encoder(SHAPES["wavlm_large"], seed=seed) for seed in (1, 2))
    registry.write(tmp_path / "x", "huggingface", encoder)
    file = tmp_path / "x" / "model.safetensors"
    state = {name: value.clone() for name, value in safetensors.torch.load_file(file).items()}  # not mapped
    registry.write(tmp_path / "other", "huggingface", other)
    average = safetensors.torch.load_file(tmp_path / "other" / "model.safetensors")
    for of_model, of_average in (("model.", "ema_model."), ("", "ema."), ("wavlm.", "model_ema.module.")):
        both = {of_model + name: value for name, value in state.items()}
        both |= {of_average + name: value for name, value in average.items()}
        safetensors.torch.save_file(both, file)
        assert states_equal(registry.read(tmp_path / "x").encoder, encoder)
    alone = {"ema." + name: value for name, value in average.items()}
    safetensors.torch.save_file(alone, file)
    assert states_equal(registry.read(tmp_path / "x").encoder, other)
    both = {f"{part}.{name}": value.clone() for part in ("generator", "critic") for name, value in state.items()}
    safetensors.torch.save_file(both, file)
    with pytest.raises(UserError, match=r"holds several encoders, under \['critic.', 'generator.'\]. Save only one"):
        registry.read(tmp_path / "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_our_folder_in_several_files_and_half_precision_is_read(suffix, dtype, tmp_path):
    encoder = random_encoder(SHAPES["wavlm_base"], seed=1, spec=random_spec(SHAPES["wavlm_base"], seed=2))
    save_encoder(tmp_path / "x", encoder, {})
    (tmp_path / "x" / "model.safetensors").unlink()
    state = {f"encoder.{name}": value.to(dtype) for name, value in encoder.state_dict().items()}
    name, write = "model", safetensors.torch.save_file
    if suffix == "bin":
        name, write = "pytorch_model", torch.save
    places = {}
    for i in range(3):
        keys = sorted(state)[i::3]
        write({key: state[key] for key in keys}, tmp_path / "x" / f"{name}-{i}.{suffix}")
        places |= dict.fromkeys(keys, f"{name}-{i}.{suffix}")
    (tmp_path / "x" / f"{name}.{suffix}.index.json").write_text(json.dumps({"weight_map": places}))
    read = registry.read(tmp_path / "x")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(parameter.to(dtype))
    assert states_equal(read.encoder, encoder) and len(read.sha256) == 64
    assert {parameter.dtype for parameter in read.encoder.parameters()} == {torch.float32}


def test_a_missing_mask_embedding_is_set_to_zeros(tmp_path):
    """As in wav2vec2-base-960h, whose configuration declares a mask embedding (only pre-training uses it)."""
    registry.write(tmp_path / "x", "huggingface", random_encoder(SHAPES["hubert_base"], seed=1))
    state = safetensors.torch.load_file(tmp_path / "x" / "model.safetensors")
    del state["masked_spec_embed"]
    safetensors.torch.save_file(state, tmp_path / "x" / "model.safetensors")
    assert not registry.read(tmp_path / "x").encoder.mask_embedding.any()


def test_fairseqs_fine_tuned_checkpoint_holds_its_pre_training_configuration(tmp_path):
    encoder = random_encoder(SHAPES["wav2vec2_large"], seed=1)
    model, task = fairseq.to_cfg(encoder.config)
    state = fairseq.state_with_heads(encoder)
    fine_tuned = {f"w2v_encoder.w2v_model.{name}": value for name, value in state.items()}
    fine_tuned["w2v_encoder.proj.weight"] = torch.ones(4, 24)
    cfg = {"_name": "wav2vec_ctc", "w2v_args": {"model": model, "task": task}}
    content = {"cfg": {"model": cfg, "task": {"_name": "audio_finetuning", "normalize": True}}, "model": fine_tuned}
    torch.save(content, tmp_path / "x.pt")
    read = registry.read(tmp_path / "x.pt").encoder
    assert states_equal(read, encoder) and read.config.normalize_waveform


@pytest.mark.parametrize("fmt", ["folder", "huggingface", "s3prl"])
def test_a_file_without_read_permission_is_not_called_damaged(fmt, tmp_path, monkeypatch):
    registry.write(tmp_path / "x", fmt, random_encoder(SHAPES["hubert_base"], seed=1))
    file = tmp_path / "x" if fmt == "s3prl" else tmp_path / "x" / "model.safetensors"
    usual = builtins.open

    def forbidden(path, *args, **kwargs):  # tests may run as root, for whom permissions have no effect
        if isinstance(path, (str, Path)) and Path(path) == file:
            raise PermissionError(13, "Permission denied")
        return usual(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", forbidden)
    with pytest.raises(UserError, match=f"{file}: cannot be opened .Permission denied.") as error:
        registry.read(tmp_path / "x")
    assert "truncated" not in str(error.value) and "damaged" not in str(error.value)
