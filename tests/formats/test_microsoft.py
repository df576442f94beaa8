"""Microsoft's format: read if it fits, refused with the reason if not, never evaluated."""

import json
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import huggingface, microsoft
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_large
from s3prl_pruned.models.encoder import SpeechEncoder

CONFIG = tiny_base()


@pytest.fixture
def checkpoint():
    return microsoft.checkpoint(random_encoder(CONFIG, seed=0))


@pytest.fixture
def load(tmp_path):
    """Load through a file, as users do."""

    def through_file(content):
        path = tmp_path / "WavLM-Tiny.pt"
        torch.save(content, path)
        return read(path).encoder

    return through_file


def same(a, b):
    return a.config == b.config and all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("config", [tiny_base(), tiny_large(conv_bias=True)], ids=["base", "large"])
def test_a_saved_encoder_is_loaded_bit_for_bit(config, load):
    encoder = random_encoder(config, seed=0)
    back = load(microsoft.checkpoint(encoder))
    assert same(back, encoder) and not back.training


def test_a_half_precision_checkpoint_is_loaded_in_fp32(checkpoint, load):
    checkpoint["model"] = {key: value.half() for key, value in checkpoint["model"].items()}
    assert {p.dtype for p in load(checkpoint).parameters()} == {torch.float32}


@pytest.mark.parametrize("head", ["final_proj.weight", "label_embs_concat", "target_glu.0.bias", "quantizer.vars"])
def test_known_pretraining_heads_are_left_out(head, checkpoint, load):
    checkpoint["model"][head] = torch.zeros(3)
    assert same(load(checkpoint), random_encoder(CONFIG, seed=0))


def test_an_unknown_key_stops_the_load_and_is_named(checkpoint, load):
    checkpoint["model"]["encoder.layers.0.adapter.weight"] = torch.zeros(3)
    with pytest.raises(
        UserError, match=r"WavLM-Tiny.pt.*unknown keys \['encoder.layers.0.adapter.weight'\] \(1 in all\)"
    ):
        load(checkpoint)


def test_a_missing_key_stops_the_load_and_is_named(checkpoint, load):
    del checkpoint["model"]["encoder.layers.1.self_attn.grep_a"]
    with pytest.raises(UserError, match=r"missing keys \['encoder.layers.1.self_attn.grep_a'\] \(1 in all\)"):
        load(checkpoint)


@pytest.mark.parametrize("key", ["encoder.layers.2.fc1.weight", "encoder.layers.2.self_attn.grep_a"])
def test_a_wrong_shape_stops_the_load_and_is_named(key, checkpoint, load):
    good = checkpoint["model"][key]
    checkpoint["model"][key] = torch.cat([good, good], dim=1)
    with pytest.raises(UserError, match=rf"`{key}` must have shape .* but has "):
        load(checkpoint)


def test_another_architecture_is_refused_by_its_keys(checkpoint, load):
    checkpoint["model"] = {k: v for k, v in checkpoint["model"].items() if "grep" not in k and "relative" not in k}
    with pytest.raises(UserError, match=r"not a wavlm checkpoint.*missing keys .*\(10 in all\)"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_fn": "relu"}, "`activation_fn` must be gelu, but is 'relu'"),
        (
            {"extractor_mode": "batch_norm"},
            r"`extractor_mode` must be one of \['default', 'layer_norm'\], but is 'batch_norm'",
        ),
        ({"encoder_layers": "3"}, "num_layers: must be a whole number written in digits, but is '3'"),
        ({"layer_norm_first": "False"}, "norm_first: must be true or false, but is 'False'"),
        ({"encoder_attention_heads": 5}, "`embed_dim` must be a multiple of `num_heads`, but they are 24 and 5"),
        ({"encoder_attention_heads": 0}, "`num_heads` must be at least 1, but is 0"),
        ({"encoder_layers": 4}, "missing keys .*encoder.layers.3"),
    ],
)
def test_an_impossible_configuration_is_refused_with_the_name_of_the_file(change, message, checkpoint, load):
    checkpoint["cfg"].update(change)
    with pytest.raises(UserError, match=f"WavLM-Tiny.pt.*{message}"):
        load(checkpoint)


def test_a_checkpoint_of_another_kind_is_refused(checkpoint, load):
    for content, message in (
        ({"state_dict": {}}, r"is in no known format; it holds \['state_dict'\]"),
        ([1, 2], "must hold a dict, but holds a list"),
        ({**checkpoint, "cfg": None}, "`cfg` must be a dict, but is a NoneType"),
        ({**checkpoint, "model": [1]}, "`model` must be a dict, but is a list"),
        ({**checkpoint, "model": {**checkpoint["model"], "mask_emb": 3}}, "`mask_emb` must be a tensor, but is a int"),
    ):
        with pytest.raises(UserError, match=message):
            load(content)


def test_a_truncated_file_is_refused(checkpoint, tmp_path):
    path = tmp_path / "cut.pt"
    torch.save(checkpoint, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="cut.pt: is truncated"):
        read(path)


class Foreign:
    """Represents a class whose creation would run code from the file."""

    made: ClassVar[list] = []

    def __reduce__(self):
        return Foreign.made.append, ("run",)


def test_a_foreign_class_is_refused_and_never_created(checkpoint, load):
    with pytest.raises(UserError, match="asks for .*getattr.*Nothing of the file was run"):
        load({**checkpoint, "extra": Foreign()})
    assert Foreign.made == []


@pytest.mark.parametrize("name", ["wavlm_base", "wavlm_large", "wavlm_embedded"])
def test_official_configurations_are_the_same_after_conversion_and_back(name):
    config = getattr(families, name)()
    assert microsoft.from_cfg(microsoft.to_cfg(config), "here") == config


def test_the_public_configurations_are_the_published_ones():
    base, large = families.wavlm_base(), families.wavlm_large()
    assert (base.num_layers, base.embed_dim, base.num_heads, base.ffn_dim) == (12, 768, 12, 3072)
    assert (large.num_layers, large.embed_dim, large.num_heads, large.ffn_dim) == (24, 1024, 16, 4096)
    assert (base.norm_first, base.extractor_mode, base.normalize_waveform) == (False, "group_norm", False)
    assert (large.norm_first, large.extractor_mode, large.normalize_waveform) == (True, "layer_norm", True)


def test_absent_keys_of_cfg_have_s3prls_defaults():
    from s3prl_pruned import compat

    compat.apply()
    from s3prl.upstream.wavlm.WavLM import WavLMConfig

    theirs = microsoft.from_cfg(dict(vars(WavLMConfig())), "s3prl's defaults")
    assert microsoft.from_cfg({}, "nothing given") == theirs


def test_the_key_tables_cover_every_parameter_once():
    for config in (tiny_base(), tiny_large(conv_bias=True)):
        names = set(SpeechEncoder(config).state_dict())
        for keys in (microsoft.KEYS, huggingface.KEYS):
            table = keys.keys(config)
            assert set(table.values()) == names and len(table) == len(names)


def test_safetensors_with_official_names_are_loaded(tmp_path):
    encoder, path = random_encoder(tiny_large(), seed=0), tmp_path / "model.safetensors"
    microsoft.save_safetensors(encoder, path, dtype=torch.float32)
    assert same(read(path).encoder, encoder)
    microsoft.save_safetensors(encoder, path, dtype=torch.float16)
    half = read(path).encoder
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert all(torch.equal(x, half.state_dict()[name].half().float()) for name, x in half.state_dict().items())
    assert not same(half, encoder)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_damaged_or_foreign_safetensors_are_refused(checkpoint, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {key: value.contiguous() for key, value in checkpoint["model"].items()}
    for metadata, message in (
        (None, "is in no known format; it holds"),
        ({"cfg": "null"}, "`cfg` must be a dict, but is a NoneType"),
        ({"cfg": "{'a': 1}"}, "the metadata `cfg` is not JSON"),
        ({"cfg": "[1]"}, "`cfg` must be a dict, but is a list"),
        ({"cfg": json.dumps({**checkpoint["cfg"], "encoder_layers": 2})}, "unknown keys"),
    ):
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(UserError, match=f"model.safetensors: .*{message}"):
            read(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors: is truncated"):
        read(path)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.safetensors")


def test_a_pruned_encoder_is_not_written_as_a_dense_one(tmp_path):
    pruned = random_encoder(CONFIG, seed=0, spec=random_spec(CONFIG, seed=0))
    with pytest.raises(UserError, match="dense encoders only"):
        microsoft.save_safetensors(pruned, tmp_path / "model.safetensors", dtype=torch.float32)


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "none" / "model.safetensors"
    with pytest.raises(UserError, match="could not be written"):
        microsoft.save_safetensors(random_encoder(CONFIG, seed=0), path, dtype=torch.float32)
