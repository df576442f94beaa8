"""Dense checkpoints: recognised by what they declare, kept bit for bit, and nothing in a file ever runs."""

import argparse
import json
import os
import zipfile

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.models.convert import save_official_safetensors
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families
from s3prl_pruned.models.foreign_configs import to_fairseq
from s3prl_pruned.models.keys import to_theirs
from s3prl_pruned.models.load import load_dense, named_config
from s3prl_pruned.models.save import FORMATS, save_dense
from s3prl_pruned.models.tensor_files import write_safetensors

SHAPES = tiny_families()
CANNOT = {"microsoft": {"hubert", "wav2vec2", "data2vec"}, "fairseq": {"wavlm"}, "torchaudio": {"data2vec"}}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_there_and_back_keeps_every_bit_and_the_configuration(config, fmt, tmp_path):
    encoder = random_encoder(config, seed=1)
    if config.family in CANNOT.get(fmt, ()):
        with pytest.raises(UserError, match="holds WavLM only|fairseq has no wavlm|torchaudio format has no name"):
            save_dense(encoder, tmp_path / "x", fmt)
        assert not any(tmp_path.iterdir())
        return
    save_dense(encoder, tmp_path / "x", fmt)
    back = load_dense(tmp_path / "x", config=config)
    assert back.config == config
    state, read = encoder.state_dict(), back.state_dict()
    if fmt == "torchaudio":  # torchaudio's encoder has no mask embedding; only masked pre-training uses it
        assert not read.pop("mask_embedding").any() and state.pop("mask_embedding").any()
    assert state.keys() == read.keys()
    assert all(torch.equal(state[name], read[name]) for name in state)


@pytest.mark.parametrize("fmt", ["s3prl", "huggingface"])
def test_the_declared_configuration_is_enough_where_the_format_declares_it(fmt, tmp_path):
    for name, config in SHAPES.items():
        save_dense(random_encoder(config, seed=1), tmp_path / name, fmt)
        read = load_dense(tmp_path / name).config
        # without position bias nothing says, or needs, these two
        assert {k: v for k, v in vars(read).items() if config.relative_position or k not in ("num_buckets", "max_distance")} == {
            k: v for k, v in vars(config).items() if config.relative_position or k not in ("num_buckets", "max_distance")
        }


def fairseq_checkpoint(config, *, style):
    """As fairseq writes it, with everything that `weights_only` refuses: namespaces, omegaconf nodes, dictionaries."""
    model, task = to_fairseq(config)
    state = to_theirs(random_encoder(config, seed=1).state_dict(), config, "official")
    state |= {"quantizer.vars": torch.zeros(1, 4, 2), "project_q.weight": torch.zeros(2, 2), "final_proj.bias": torch.zeros(2)}
    if style == "namespace":  # 2020: one flat namespace
        return {"args": argparse.Namespace(arch=model.pop("_name"), **model, normalize=task["normalize"]), "model": state}
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
    read = load_dense(tmp_path / "fairseq.pt", config=config).state_dict()
    state = random_encoder(config, seed=1).state_dict()
    assert all(torch.equal(state[key], read[key]) for key in state)


def test_the_old_file_format_of_torch_is_read_too(tmp_path):
    config = SHAPES["hubert_base"]
    torch.save(fairseq_checkpoint(config, style="namespace"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "old.pt")
    assert load_dense(tmp_path / "old.pt", config=config).config.family == "hubert"


class Payload:
    """Pickled, it asks whoever loads it to write a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class Subtle(Payload):
    """The same by way of a module whose other names are known to be harmless."""

    def __reduce__(self):
        import numpy.testing

        return numpy.testing.runstring, (f"open({self.target!r}, 'w')", {})


@pytest.mark.parametrize("payload", [Payload, Subtle])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["evil.pt", "folder/pytorch_model.bin"])
def test_nothing_of_a_malicious_file_runs(name, zipped, payload, tmp_path):
    config, target, path = SHAPES["hubert_base"], tmp_path / "written", tmp_path / name
    content = fairseq_checkpoint(config, style="plain")
    if "folder" in name:
        save_dense(random_encoder(config, seed=1), path.parent, "huggingface")
        (path.parent / "model.safetensors").unlink()
        content = to_theirs(random_encoder(config, seed=1).state_dict(), config, "huggingface")
    torch.save({**content, "zzz": payload(target)}, path, _use_new_zipfile_serialization=zipped)
    try:
        load_dense(path)  # where the payload's module is known, the call makes an empty shell beside the weights
    except UserError as error:
        assert "Nothing of the file was run" in str(error) or "unknown keys ['zzz']" in str(error)
    else:
        assert payload is Subtle
    assert not target.exists()
    torch.load(path, weights_only=False)  # the payload is real: whoever trusts the file runs it
    assert target.exists()


def test_a_class_that_no_checkpoint_needs_is_named(tmp_path):
    torch.save({"cfg": {}, "model": {}, "extra": Payload(tmp_path / "written")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil.pt: asks for posix.system, which no checkpoint .* needs\. Nothing of the file was run"):
        load_dense(tmp_path / "evil.pt")


@pytest.mark.parametrize("fmt", ["s3prl", "fairseq", "huggingface", "torchaudio"])
def test_a_half_downloaded_checkpoint_is_called_truncated(fmt, tmp_path):
    config = SHAPES["hubert_base"]
    save_dense(random_encoder(config, seed=1), tmp_path / "x", fmt)
    file = tmp_path / "x" / "model.safetensors" if fmt == "huggingface" else tmp_path / "x"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="is truncated, or is no (torch checkpoint|safetensors file)"):
        load_dense(tmp_path / "x", config=config)


@pytest.mark.parametrize("fmt", ["s3prl", "fairseq", "huggingface"])
def test_another_family_or_size_than_expected_is_refused(fmt, tmp_path):
    save_dense(random_encoder(SHAPES["hubert_base"], seed=1), tmp_path / "x", fmt)
    with pytest.raises(UserError, match="is another model than the one named: `family` is 'hubert' and must be 'wav2vec2'"):
        load_dense(tmp_path / "x", config=SHAPES["wav2vec2_base"])
    with pytest.raises(UserError, match="`extractor_mode` is 'group_norm' and must be 'layer_norm'"):
        load_dense(tmp_path / "x", config=SHAPES["hubert_large"])


def test_weights_of_another_size_than_declared_are_named(tmp_path):
    save_dense(random_encoder(SHAPES["hubert_base"], seed=1), tmp_path / "x", "s3prl")
    content = torch.load(tmp_path / "x", weights_only=True)
    content["model_cfg"]["encoder_embed_dim"] = 48
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(UserError, match=r"wrong.pt: `\S+` must have shape .*48.*, but has .*24"):
        load_dense(tmp_path / "wrong.pt")


@pytest.mark.parametrize("change", ["unknown", "missing"])
def test_an_unknown_or_missing_key_is_named(change, tmp_path):
    save_dense(random_encoder(SHAPES["wav2vec2_base"], seed=1), tmp_path / "x", "s3prl")
    content = torch.load(tmp_path / "x", weights_only=True)
    if change == "unknown":
        content["model_weight"]["encoder.novel"] = torch.zeros(1)
    else:
        del content["model_weight"]["encoder.layers.1.fc1.bias"]
    torch.save(content, tmp_path / "wrong.pt")
    key = {"unknown": r"unknown keys \['encoder.novel'\]", "missing": r"missing keys \['encoder.layers.1.fc1.bias'\]"}[change]
    with pytest.raises(UserError, match=key):
        load_dense(tmp_path / "wrong.pt")


OLD, NEW = ("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")


@pytest.mark.parametrize("fmt", ["s3prl", "fairseq", "torchaudio"])
def test_weight_norms_old_and_new_names_are_read_and_not_both(fmt, tmp_path):
    encoder = random_encoder(SHAPES["hubert_base"], seed=1)
    save_dense(encoder, tmp_path / "x", fmt)
    content = torch.load(tmp_path / "x", weights_only=True)
    state = {"s3prl": content.get("model_weight"), "fairseq": content.get("model"), "torchaudio": content}[fmt]
    written, other = (NEW, OLD) if fmt == "torchaudio" else (OLD, NEW)
    for ours, theirs in zip(written, other):
        (key,) = (key for key in state if "pos_conv" in key and key.endswith(ours))
        state[key.removesuffix(ours) + theirs] = state.pop(key)
    torch.save(content, tmp_path / "other.pt")
    read, original = load_dense(tmp_path / "other.pt", config=encoder.config), load_dense(tmp_path / "x", config=encoder.config)
    assert all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), original.state_dict().values(), strict=True))
    state[key] = state[key.removesuffix(ours) + theirs]
    torch.save(content, tmp_path / "both.pt")
    with pytest.raises(UserError, match="both.pt: holds `.*pos_conv.*` twice, under an old and a new name. Keep one"):
        load_dense(tmp_path / "both.pt", config=encoder.config)


def hugging_face_folder(tmp_path, **changes):
    save_dense(random_encoder(SHAPES["hubert_large"], seed=1), tmp_path / "x", "huggingface")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps({**config, **changes}))
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, r"`model_type` must be one of \['data2vec-audio', 'hubert', 'wav2vec2', 'wavlm'\], but is 'bert'"),
        ({"hidden_act": "relu"}, "`hidden_act` must be 'gelu' for this encoder, but is 'relu'"),
        ({"feat_proj_layer_norm": False}, "`feat_proj_layer_norm` must be True"),
        ({"conv_kernel": [3]}, "`conv_dim`, `conv_kernel` and `conv_stride` must be lists of one length"),
        ({"hidden_size": "many"}, "embed_dim: must be a whole number"),
        ({"num_hidden_layers": 7}, "missing keys"),
        ({"num_hidden_layers": 10**9}, "`num_layers` must be at most 1000"),
        ({"intermediate_size": 2**40}, "`ffn_dim` must be at most 1048576"),
    ],
)
def test_a_hugging_face_folder_of_another_architecture_is_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_dense(hugging_face_folder(tmp_path, **changes))


def test_a_folder_that_declares_no_mask_embedding_needs_none(tmp_path):
    folder = hugging_face_folder(tmp_path, mask_time_prob=0.0)
    with pytest.raises(UserError, match=r"unknown keys \['masked_spec_embed'\]"):
        load_dense(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "is in no known format; it holds .'state_dict'"),
        ({"cfg": 3, "model": {}}, "`cfg` must be a dict, but is a int"),
        ({"cfg": {"model": {"_name": "wav2vec_ctc"}, "task": {}}, "model": {}}, "declares the fairseq model 'wav2vec_ctc'.*not a fine-tuned"),
        ({"task_cfg": {}, "model_cfg": {}, "model_weight": {}}, "declares the fairseq model None"),
        ({"task_cfg": {}, "model_cfg": {"_name": "hubert", "layer_type": "conformer"}, "model_weight": {}}, "`layer_type` must be 'transformer'"),
        ({"task_cfg": {}, "model_cfg": {"_name": "hubert", "conv_feature_layers": "__import__('os')"}, "model_weight": {}}, "`conv_feature_layers` must be a list"),
        ({"task_cfg": {}, "model_cfg": {"_name": "hubert"}, "model_weight": [1]}, "model must be a dict, but is a list"),
    ],
)  # fmt: skip
def test_other_contents_get_one_clear_error(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        load_dense(tmp_path / "x.pt")


def test_a_torchscript_program_is_not_loaded(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    with pytest.raises(UserError, match="is a TorchScript program"):
        load_dense(tmp_path / "script.pt")


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        load_dense(tmp_path / "nowhere")


def test_half_precision_files_become_fp32(tmp_path):
    save_official_safetensors(random_encoder(SHAPES["wavlm_base"], seed=1), tmp_path / "half.safetensors", dtype=torch.float16)
    encoder = load_dense(tmp_path / "half.safetensors")
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in encoder.parameters()) and not encoder.training


def test_a_loaded_encoder_trains_without_touching_its_file(tmp_path):
    save_dense(random_encoder(SHAPES["hubert_base"], seed=1), tmp_path / "x", "s3prl")
    before = (tmp_path / "x").read_bytes()
    encoder = load_dense(tmp_path / "x")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 1
    assert (tmp_path / "x").read_bytes() == before


def test_a_pruned_encoder_and_an_existing_path_are_refused(tmp_path):
    config = SHAPES["wavlm_base"]
    with pytest.raises(UserError, match="dense encoders only, but this one is pruned"):
        save_dense(random_encoder(config, seed=1, spec=random_spec(config, seed=1)), tmp_path / "x", "huggingface")
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match="exists already, and a conversion never overwrites"):
        save_dense(random_encoder(config, seed=1), tmp_path / "x", "microsoft")
    assert (tmp_path / "x").read_text() == "mine"


def test_our_safetensors_writer_writes_what_the_library_reads(tmp_path):
    from safetensors.torch import load_file

    state = {"a": torch.randn(3, 4).T, "b": torch.zeros(0, 5), "c": torch.tensor(2.5), "d": torch.randn(7).half()}
    written = []
    write_safetensors(tmp_path / "x.safetensors", state, progress=written.append)
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)
    assert sum(written) == (tmp_path / "x.safetensors").stat().st_size


def test_public_shapes_are_found_by_name():
    assert named_config("data2vec_base").pos_conv_depth == 5
    with pytest.raises(UserError, match="must be one of .*hubert_large.* but is 'hubert_huge'"):
        named_config("hubert_huge")
