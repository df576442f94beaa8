"""Every format: recognised by its declaration and by no other, preserved bit for bit, refused with one clear error."""

import json
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import torch

from s3prl_pruned.checkpoint import save_checkpoint
from s3prl_pruned.commands import convert, export
from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.formats import WRITES, microsoft, registry
from s3prl_pruned.formats.format import Format, Source, dense_model
from s3prl_pruned.models.accelerate.int8 import quantize_int8
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_families, tiny_whisper
from s3prl_pruned.pretrain.training_checkpoint import CUT
from tests.dphubert_checkpoints import checkpoint
from tests.formats import fairseq_student
from tests.test_import_direction import PACKAGE, modules_imported_by
from tests.whisper_files import openai_checkpoint, write_huggingface

SHAPES = tiny_families()
DENSE = ("microsoft", "s3prl", "fairseq", "huggingface", "torchaudio")
STUDENTS = {
    "distilhubert": fairseq_student.distil,
    "lighthubert": partial(fairseq_student.light, cfg={**fairseq_student.TINY, "_name": "student_hubert"}),
    "maskhubert": fairseq_student.mask,
    "starhubert": fairseq_student.star,
}
CANNOT = {"microsoft": {"hubert", "wav2vec2", "data2vec"}, "fairseq": {"wavlm"}, "torchaudio": {"data2vec"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files and folders of every format, by name of the format."""
    root = tmp_path_factory.mktemp("formats")
    wavlm, hubert = (random_encoder(SHAPES[name], seed=1) for name in ("wavlm_base", "hubert_base"))
    pruned = random_encoder(SHAPES["wavlm_base"], seed=1, spec=random_spec(SHAPES["wavlm_base"], seed=2))
    found = {}

    def add(name, encoder, fmt=None):
        path = root / f"{name}-{len(found.setdefault(name, []))}"
        registry.write(path, fmt or name, encoder, {"teacher_note": None})
        found[name].append(path)

    for encoder in (wavlm, pruned, quantize_int8(random_encoder(tiny_base(embed_dim=64, ffn_dim=96), seed=0))):
        add("folder", encoder)
    add("folder", pruned, "huggingface")  # with its code; also our own folder
    add("microsoft", wavlm)
    add("microsoft", wavlm, "s3prl")  # the same format for WavLM
    for name in ("huggingface", "s3prl", "fairseq", "torchaudio"):
        add(name, hubert)
    microsoft.save_safetensors(wavlm, root / "x.safetensors", dtype=torch.float16)
    found["microsoft"].append(root / "x.safetensors")
    whisper = random_encoder(tiny_whisper(ffn_dim=96), seed=1)
    torch.save(openai_checkpoint(whisper), root / "whisper.pt")
    write_huggingface(root / "huggingface_whisper", whisper)
    found["whisper"], found["huggingface_whisper"] = [root / "whisper.pt"], [root / "huggingface_whisper"]
    for number, kind in enumerate(({}, {"family": "hubert", "large": True}, {"diarizen": True})):
        name = "diarizen" if "diarizen" in kind else "dphubert"
        torch.save(checkpoint(**kind), root / f"peer-{number}")
        found.setdefault(name, []).append(root / f"peer-{number}")
    for name in ("state dict alone", "in training", "folder"):
        content = checkpoint(diarizen=name == "folder")
        parts = {"state dict alone": content["state_dict"], "folder": content}
        lightning = {f"student_model.{key}": value for key, value in content["state_dict"].items()}
        path = root / name
        if name == "folder":
            path.mkdir()
            (path / "pruned_config.json").write_text(json.dumps(content["config"]))
            path = path / "pytorch_model.bin"
            found["diarizen"].append(path)
        torch.save(parts.get(name, {"state_dict": lightning}), path)
        found["diarizen" if name == "folder" else "dphubert"].append(root / name)
    (root / "x.onnx").write_bytes(b"\x08\x0a")  # the exporter takes seconds, and the format is recognised by the suffix
    found["onnx"] = [root / "x.onnx"]
    parts = {"Student": wavlm.state_dict(), "Gates": {}, "Encoder_Config": to_dict(wavlm.config), "Step": 1}
    save_checkpoint(root / "states-1.ckpt", parts)
    found["checkpoint"] = [root / "states-1.ckpt"]
    for name, write_student in STUDENTS.items():
        (root / name).mkdir()
        write_student(root / name / "x.ckpt")
        found[name] = [root / name / "x.ckpt"]
    found["none"] = [root / "lightning.ckpt", root / "weights.safetensors", root / "other", root / "empty"]
    torch.save({"state_dict": {}, "epoch": 1}, found["none"][0])
    safetensors.torch.save_file({"a": torch.zeros(1)}, found["none"][1])
    found["none"][2].mkdir()
    (found["none"][2] / "config.json").write_text('{"architectures": []}')
    found["none"][3].mkdir()
    return found


@pytest.mark.parametrize("fmt", (*registry.FORMATS, CUT), ids=lambda fmt: fmt.name)
def test_a_format_recognises_its_own_files_and_no_others(fmt, files):
    assert files[fmt.name], "this format has no example here"
    for name, paths in files.items():
        for path in paths:
            assert fmt.recognise(Source(path)) == (name == fmt.name), path


def test_a_file_is_opened_once_for_all_formats(files, monkeypatch):
    from s3prl_pruned.formats import format as format_module

    opened, read = [], format_module.read_torch_file
    monkeypatch.setattr(format_module, "read_torch_file", lambda path: opened.append(path) or read(path))
    registry.read(files["fairseq"][0])
    assert opened == [files["fairseq"][0]]


@pytest.mark.parametrize("name", ["none", "onnx"])
def test_the_error_for_an_unreadable_file_lists_readable_formats(name, files):
    for path in files[name]:
        with pytest.raises(UserError, match=f"{path.name}: is .*Readable are: .*") as error:
            registry.read(path)
        assert ("is in no known format; it holds [" in str(error.value)) == (name == "none")
        assert all(fmt.about in str(error.value) for fmt in registry.FORMATS if fmt.read)


def test_a_new_format_is_a_line_in_the_list(files, tmp_path, monkeypatch):
    """Two files: weights with our own names, and the shape beside them."""

    def read(source, options):
        config = replace(SHAPES["wavlm_base"], **source.json("toy.json"))
        return dense_model(source, config, source.content["toy"])

    def write(path, encoder, options):
        torch.save({"toy": encoder.state_dict()}, path)
        (path.parent / "toy.json").write_text(json.dumps({"num_layers": encoder.config.num_layers}))

    toy = Format("toy", "a toy", recognise=lambda source: "toy" in source.content, read=read, write=write)
    monkeypatch.setattr(registry, "FORMATS", (*registry.FORMATS, toy))
    encoder = random_encoder(replace(SHAPES["wavlm_base"], num_layers=2), seed=1)
    registry.write(tmp_path / "x.pt", "toy", encoder)
    loaded = registry.read(tmp_path / "x.pt")
    assert loaded.encoder.config == encoder.config and len(loaded.sha256) == 64
    assert loaded.provenance["source"] == {"name": "x.pt", "sha256": loaded.sha256}
    assert not any(toy.recognise(Source(path)) for paths in files.values() for path in paths)
    with pytest.raises(UserError, match="Readable are: .*; a toy"):
        registry.read(files["none"][0])


def test_formats_have_different_names_and_the_commands_know_those_that_are_written():
    names = [fmt.name for fmt in registry.FORMATS]
    assert len(set(names)) == len(names)
    assert names == list(WRITES)
    assert set(convert.TARGETS) == {fmt.name for fmt in registry.FORMATS if fmt.write}
    assert set(export.TARGETS) == {fmt.name for fmt in registry.FORMATS if fmt.write and fmt.holds_pruned}
    with pytest.raises(UserError, match=r"the format must be one of \[.*'folder'.*\], but is 'fairsec'"):
        registry.writable("fairsec")


def test_no_format_imports_the_registry():
    """The test for circular imports does not see imports by name."""
    for name in WRITES:
        text = (PACKAGE / "formats" / f"{name}.py").read_text(encoding="utf-8")
        imported = [found for _, found in modules_imported_by(text, f"s3prl_pruned.formats.{name}")]
        assert imported and not any(f"{found}.".startswith("s3prl_pruned.formats.registry.") for found in imported)


@pytest.mark.parametrize("fmt", DENSE)
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_writing_and_reading_keeps_every_bit_and_the_configuration(config, fmt, tmp_path):
    encoder = random_encoder(config, seed=1)
    if config.family in CANNOT.get(fmt, ()):
        with pytest.raises(UserError, match="holds WavLM only|fairseq has no wavlm|torchaudio format has no name"):
            registry.write(tmp_path / "x", fmt, encoder)
        assert not any(tmp_path.iterdir())
        return
    registry.write(tmp_path / "x", fmt, encoder)
    back = registry.read(tmp_path / "x", shape=config).encoder
    assert back.config == config
    state, read = encoder.state_dict(), back.state_dict()
    if fmt == "torchaudio":  # torchaudio's encoder has no mask embedding (used in masked pre-training only)
        assert not read.pop("mask_embedding").any() and state.pop("mask_embedding").any()
    assert state.keys() == read.keys()
    assert all(torch.equal(state[name], read[name]) for name in state)


@pytest.mark.parametrize("fmt", ["s3prl", "huggingface"])
def test_formats_that_declare_a_configuration_need_no_shape(fmt, tmp_path):
    for name, config in SHAPES.items():
        registry.write(tmp_path / name, fmt, random_encoder(config, seed=1))
        read = registry.read(tmp_path / name).encoder.config
        # without position bias, these two are neither stored nor needed
        assert {
            k: v for k, v in vars(read).items() if config.relative_position or k not in ("num_buckets", "max_distance")
        } == {
            k: v
            for k, v in vars(config).items()
            if config.relative_position or k not in ("num_buckets", "max_distance")
        }


@pytest.mark.parametrize("fmt", ["s3prl", "fairseq", "huggingface", "torchaudio"])
def test_a_half_downloaded_checkpoint_is_called_truncated(fmt, tmp_path):
    config = SHAPES["hubert_base"]
    registry.write(tmp_path / "x", fmt, random_encoder(config, seed=1))
    file = tmp_path / "x" / "model.safetensors" if fmt == "huggingface" else tmp_path / "x"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="is truncated, or is no (torch checkpoint|safetensors file)"):
        registry.read(tmp_path / "x", shape=config)


@pytest.mark.parametrize("fmt", ["s3prl", "fairseq", "huggingface"])
def test_another_family_or_size_than_expected_is_refused(fmt, tmp_path):
    registry.write(tmp_path / "x", fmt, random_encoder(SHAPES["hubert_base"], seed=1))
    with pytest.raises(UserError, match="is not the named model: `family` is 'hubert' and must be 'wav2vec2'"):
        registry.read(tmp_path / "x", shape=SHAPES["wav2vec2_base"])
    with pytest.raises(UserError, match="`extractor_mode` is 'group_norm' and must be 'layer_norm'"):
        registry.read(tmp_path / "x", shape=SHAPES["hubert_large"])


OLD, NEW = ("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")


@pytest.mark.parametrize("fmt", ["s3prl", "fairseq", "torchaudio"])
def test_old_or_new_names_of_weight_norm_are_read_but_not_both(fmt, tmp_path):
    encoder = random_encoder(SHAPES["hubert_base"], seed=1)
    registry.write(tmp_path / "x", fmt, encoder)
    content = torch.load(tmp_path / "x", weights_only=True)
    state = {"s3prl": content.get("model_weight"), "fairseq": content.get("model"), "torchaudio": content}[fmt]
    written, other = (NEW, OLD) if fmt == "torchaudio" else (OLD, NEW)
    for ours, theirs in zip(written, other):
        (key,) = (key for key in state if "pos_conv" in key and key.endswith(ours))
        state[key.removesuffix(ours) + theirs] = state.pop(key)
    torch.save(content, tmp_path / "other.pt")
    read, original = (
        registry.read(tmp_path / "other.pt", shape=encoder.config).encoder,
        registry.read(tmp_path / "x", shape=encoder.config).encoder,
    )
    assert all(
        torch.equal(a, b) for a, b in zip(read.state_dict().values(), original.state_dict().values(), strict=True)
    )
    state[key] = state[key.removesuffix(ours) + theirs]
    torch.save(content, tmp_path / "both.pt")
    with pytest.raises(UserError, match="both.pt: holds `.*pos_conv.*` twice, under an old and a new name. Keep one"):
        registry.read(tmp_path / "both.pt", shape=encoder.config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "is in no known format; it holds .'state_dict'"),
        ({"cfg": 3, "model": {}}, "`cfg` must be a dict, but is a int"),
        (
            {"cfg": {"model": {"_name": "wav2vec_ctc"}, "task": {}}, "model": {}},
            "declares the fairseq model 'wav2vec_ctc'.*not a fine-tuned",
        ),
        ({"task_cfg": {}, "model_cfg": {}, "model_weight": {}}, "declares the fairseq model None"),
        (
            {"task_cfg": {}, "model_cfg": {"_name": "hubert", "layer_type": "conformer"}, "model_weight": {}},
            "`layer_type` must be 'transformer'",
        ),
        (
            {
                "task_cfg": {},
                "model_cfg": {"_name": "hubert", "conv_feature_layers": "__import__('os')"},
                "model_weight": {},
            },
            "`conv_feature_layers` must be a list",
        ),
        (
            {"task_cfg": {}, "model_cfg": {"_name": "hubert"}, "model_weight": [1]},
            "model must be a dict, but is a list",
        ),
    ],
)
def test_other_contents_get_one_clear_error(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        registry.read(tmp_path / "x.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        registry.read(tmp_path / "nowhere")


def test_half_precision_files_become_fp32(tmp_path):
    microsoft.save_safetensors(
        random_encoder(SHAPES["wavlm_base"], seed=1), tmp_path / "half.safetensors", dtype=torch.float16
    )
    encoder = registry.read(tmp_path / "half.safetensors").encoder
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in encoder.parameters()) and not encoder.training


def test_training_a_loaded_encoder_does_not_change_its_file(tmp_path):
    registry.write(tmp_path / "x", "s3prl", random_encoder(SHAPES["hubert_base"], seed=1))
    before = (tmp_path / "x").read_bytes()
    encoder = registry.read(tmp_path / "x").encoder
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 1
    assert (tmp_path / "x").read_bytes() == before


def test_a_pruned_encoder_and_an_existing_path_are_refused(tmp_path):
    config = SHAPES["wavlm_base"]
    with pytest.raises(UserError, match="dense encoders only, but this one is pruned"):
        registry.write(tmp_path / "x", "s3prl", random_encoder(config, seed=1, spec=random_spec(config, seed=1)))
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match="exists already, and an export never overwrites"):
        registry.write(tmp_path / "x", "microsoft", random_encoder(config, seed=1))
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize("name", ["microsoft", "fairseq", "huggingface", "torchaudio", "whisper"])
def test_a_bug_of_ours_is_not_reported_as_a_damaged_file(name, files, monkeypatch):
    def fault(*_):
        raise TypeError("a fault of ours")

    monkeypatch.setattr("s3prl_pruned.formats.format.file_sha256", fault)
    shape = SHAPES["hubert_base"] if name == "torchaudio" else None
    with pytest.raises(TypeError, match="a fault of ours"):
        registry.read(files[name][-1], shape=shape)
