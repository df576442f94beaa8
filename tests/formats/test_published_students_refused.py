"""Damaged files of other papers' students, and unsupported students, give one clear error."""

import os

import pytest
import torch
import yaml

from s3prl_pruned.commands import convert
from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.models.dummies import random_encoder, tiny_peculiar
from tests.formats import fairseq_student as students
from tests.formats.fairseq_student import LIGHT, TINY

WRITERS = {"starhubert": students.star, "maskhubert": students.mask, "distilhubert": students.distil}
WEIGHTS = {
    "starhubert": lambda content: content["state_dict"],
    "maskhubert": lambda content: content["state_dict"],
    "distilhubert": lambda content: content["Distiller"],
    "lighthubert": lambda content: content["model"],
}
PREFIX = {"starhubert": "student_model.", "maskhubert": "student_model.", "distilhubert": "", "lighthubert": ""}
WHOLE = {**TINY, "_name": "student_hubert"}


@pytest.fixture(params=WEIGHTS)
def damaged(request, tmp_path):
    """A file of each format, with one weight changed by a function of its dict and its name."""
    name, path = request.param, tmp_path / "model.ckpt"
    if name == "lighthubert":
        students.light(path, cfg=WHOLE)
    else:
        WRITERS[name](path)

    def damage(key, change):
        content = torch.load(path, weights_only=True)
        change(WEIGHTS[name](content), PREFIX[name] + key)
        torch.save(content, path)
        return path

    return damage


KEY = "encoder.layers.1.fc1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, key: state.pop(key), rf"missing keys \['{KEY}'\] \(1 in all\)"),
        (lambda state, key: state.update({f"{key}x": state[key]}), rf"unknown keys \['{KEY}x'\] \(1 in all\)"),
        (lambda state, key: state.update({key: state[key][:-1]}), rf"`{KEY}` must have shape \(24, 16\), but has"),
        (lambda state, key: state.update({key: 3}), rf"`{KEY}` must be a tensor, but is a int"),
    ],
    ids=["missing", "unknown", "shape", "no tensor"],
)
def test_a_damaged_weight_is_named(damaged, change, message):
    with pytest.raises(UserError, match=f"model.ckpt: .*{message}"):
        registry.read(damaged(KEY, change))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoder_layers": 2}, "unknown keys .*encoder.layers.2"),
        ({"encoder_embed_dim": 24}, "must have shape|missing keys"),
        ({"encoder_attention_heads": 5}, "`embed_dim` must be a multiple of `num_heads`"),
        ({"activation_fn": "relu"}, "`activation_fn` must be 'gelu' for this encoder, but is 'relu'"),
        ({"extractor_mode": "batch"}, "`extractor_mode` must be one of"),
        ({"layer_norm_first": "no"}, "norm_first: must be true or false"),
        ({"conv_feature_layers": "exit()", "extractor_conv_feature_layers": "exit()"}, "must be a list of .channels"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(name, changed, message, tmp_path):
    path = tmp_path / "model.ckpt"
    WRITERS[name](path)
    if name == "distilhubert":
        content = torch.load(path, weights_only=True)
        content["Config"]["distiller"] |= changed
        torch.save(content, path)
    else:
        document = yaml.safe_load((tmp_path / "model.yaml").read_text())
        document["distiller"] |= changed
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match=f"model.(ckpt|yaml): .*{message}"):
        registry.read(path)


def test_the_yaml_file_is_found_beside_the_checkpoint(tmp_path):
    students.star(tmp_path / "star.ckpt")
    (tmp_path / "other.yaml").write_text("a: 1\n")  # no shape in it
    (tmp_path / "star.yaml").rename(tmp_path / "2023-05-01.yml")  # as named by their program
    assert registry.read(tmp_path / "star.ckpt").encoder.config.num_layers == 3


def test_the_checkpoints_own_hyperparameters_need_no_file(tmp_path):
    students.star(tmp_path / "star.ckpt", inside=True)
    assert registry.read(tmp_path / "star.ckpt").encoder.config.num_layers == 3
    assert [path.name for path in tmp_path.iterdir()] == ["star.ckpt"]


def test_of_several_yaml_files_only_the_one_with_its_name_is_used(tmp_path):
    other = {**TINY, "encoder_layers": 2}
    students.star(tmp_path / "a.ckpt")
    students.star(tmp_path / "b.ckpt", cfg=other)
    assert registry.read(tmp_path / "b.ckpt").encoder.config.num_layers == 2
    (tmp_path / "b.ckpt").rename(tmp_path / "c.ckpt")
    with pytest.raises(UserError, match=r"c.ckpt: does not say its shape.*\['a.yaml', 'b.yaml'\] all have.*c.yaml"):
        registry.read(tmp_path / "c.ckpt")


def test_without_a_yaml_file_the_message_says_where_to_put_it(tmp_path):
    students.mask(tmp_path / "MaskHuBERT-960h.ckpt")
    (tmp_path / "MaskHuBERT-960h.yaml").unlink()
    with pytest.raises(UserError, match="section `distiller`.*none has.* as MaskHuBERT-960h.yaml"):
        registry.read(tmp_path / "MaskHuBERT-960h.ckpt")
    (tmp_path / "MaskHuBERT-960h.yaml").write_text("a: [")
    with pytest.raises(UserError, match="MaskHuBERT-960h.yaml: "):
        registry.read(tmp_path / "MaskHuBERT-960h.ckpt")


def test_armhubert_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "ARMHuBERT-960h.ckpt"
    students.mask(path)
    content = torch.load(path, weights_only=True)
    for key in list(content["state_dict"]):
        if key.startswith("student_model.encoder.layers.1.self_attn.") and ("q_proj" in key or "k_proj" in key):
            del content["state_dict"][key]
    torch.save(content, path)
    path.with_suffix(".yaml").unlink()  # not needed, since the weights show the reason
    reason = r"is an ARMHuBERT or ARMwavLM: 1 of its 3 layers \(encoder.layers.1, ...\) have no queries and keys"
    with pytest.raises(UserError, match=reason):
        registry.read(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layerwise_proj": False}, "`layerwise_proj` must be true .one linear map per layer., but is False"),
        ({"enable_tr_layer": True}, "`enable_tr_layer` must be False for this encoder, but is True"),
        ({"pred_head_final_dim": 0}, "x.yaml: projections: `dim` must be from 1 to 65536, but is 0"),
    ],
)
def test_other_students_of_the_same_program_are_refused(changed, message, tmp_path):
    students.mask(tmp_path / "x.ckpt")
    document = yaml.safe_load((tmp_path / "x.yaml").read_text())
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"distiller": document["distiller"] | changed}))
    with pytest.raises(UserError, match=message):
        registry.read(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task_emb_type": "self-hidden"}, "`task_emb_type` must be 'expand-last'"),
        ({"attention_type": "dynamic"}, "`attention_type` must be 'original'"),
        ({"n_tasks": 0}, "predictions: `number` must be from 1 to 65536, but is 0"),
        ({"n_tasks": "3"}, "predictions: number: must be a whole number"),
    ],
)
def test_other_distillers_are_refused(changed, message, tmp_path):
    students.distil(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    content["Config"]["distiller"] |= changed
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=f"x.ckpt: .*{message}"):
        registry.read(tmp_path / "x.ckpt")


def test_predictions_of_another_width_are_left_out_with_a_warning(tmp_path, caplog):
    students.distil(tmp_path / "x.ckpt", final_dim=20)
    encoder = registry.read(tmp_path / "x.ckpt").encoder
    assert encoder.config.num_states == 1 + 3 and encoder.state_heads is None
    assert "left out: output_layer" in caplog.text


class Scheduler:
    """Represents an object of a module that only its writer has."""


class Payload(Scheduler):
    """When unpickled, it writes a file."""

    target = ""

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_objects_that_s3prls_runner_pickled_with_distilhubert_are_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(Scheduler, "__module__", "optimizers")
    monkeypatch.setitem(
        __import__("sys").modules, "optimizers", __import__("types").SimpleNamespace(Scheduler=Scheduler)
    )
    schedule = Scheduler()
    schedule.warmup = 0.07
    extra = {"Optimizer": {"state": {}, "param_groups": [{"schedule": schedule}]}, "Scheduler": Scheduler}
    students.distil(tmp_path / "x.ckpt", extra=extra)
    monkeypatch.undo()
    with pytest.raises(Exception, match="optimizers"):
        torch.load(tmp_path / "x.ckpt", weights_only=False)
    assert registry.read(tmp_path / "x.ckpt").encoder.config.num_layers == 3


def test_no_code_of_a_malicious_distilhubert_file_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(Payload, "target", str(tmp_path / "written"))
    students.distil(tmp_path / "x.ckpt", extra={"Scheduler": Payload()})
    with pytest.raises(UserError, match="asks for posix.system.*Nothing of the file was run"):
        registry.read(tmp_path / "x.ckpt")
    assert not (tmp_path / "written").exists()


def test_a_supernet_that_names_no_subnet_needs_the_option(tmp_path, capsys):
    cfg = {**LIGHT, "pruner_supernet": "mine.yaml", "encoder_layers": 1}
    students.light(tmp_path / "x.pt", cfg=cfg)
    with pytest.raises(UserError, match="`pruner_supernet` must end in small.yaml or base.yaml, but is 'mine.yaml'"):
        registry.read(tmp_path / "x.pt")
    line = [str(tmp_path / "x.pt"), str(tmp_path / "out"), "--to", "folder", "--subnet"]
    convert.main([*line, "128/2/300"])
    encoder, provenance = load_encoder(tmp_path / "out")
    assert (encoder.config.embed_dim, encoder.config.num_heads, encoder.config.ffn_dim) == (128, 2, 300)
    assert provenance["subnet"] == {"embed_dim": 128, "num_heads": 2, "ffn_dim": 300, "chosen": "as requested"}
    line[1] = str(tmp_path / "other")
    for subnet, message in (
        ("tiny", "`subnet` must be one of .'small', 'base', 'whole'., or widths such as 384/6/1536"),
        ("128/3/300", "has no subnet 128/3/300: the embedding must be heads of 64 and at most 448"),
        ("512/8/300", "has no subnet 512/8/300"),
        ("128/2/513", "has no subnet 128/2/513: .*the feed-forward at most 4 times as wide"),
        ("base", "has no subnet 640/10/2560"),
    ):
        with pytest.raises(UserError, match=message):
            convert.main([*line, subnet])
    assert not (tmp_path / "other").exists()


def test_the_chosen_subnet_is_recorded(tmp_path, caplog):
    students.light(tmp_path / "lighthubert_small.pt", cfg={**LIGHT, "encoder_layers": 1})
    taken = registry.read(tmp_path / "lighthubert_small.pt").provenance["subnet"]
    assert taken["embed_dim"] == 384 and "small" in taken["chosen"]
    assert "the subnet 384/6/1536 of its supernet is read" in caplog.text


def test_only_a_supernet_has_subnets(tmp_path):
    students.distil(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="x.ckpt: is DistilHuBERT's .*, which has no subnets"):
        registry.read(tmp_path / "x.ckpt", subnet="small")


def test_a_supernet_as_wide_as_its_cnn_has_no_narrower_subnet(tmp_path):
    cfg = {**LIGHT, "encoder_layers": 1, "encoder_embed_dim": 128, "encoder_attention_heads": 2}
    cfg |= {"encoder_ffn_embed_dim": 512, "conv_feature_layers": "[(8, 10, 5)] + [(128, 64, 64)] * 1"}
    students.light(tmp_path / "x.pt", cfg=cfg)
    with pytest.raises(UserError, match="has no projection, and so no narrower subnet than its own 128"):
        registry.read(tmp_path / "x.pt", subnet="64/1/256")


def test_dphuberts_format_cannot_hold_heads(tmp_path):
    encoder = random_encoder(tiny_peculiar()["mapped"], seed=0)
    with pytest.raises(UserError, match="has no name for 'state_heads.maps.0.bias'"):
        registry.write(tmp_path / "x", "dphubert", encoder)
    assert not any(tmp_path.iterdir())


class Whole(torch.nn.Module):
    """Represents a model of another program."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_refused_with_advice(wrapped, zipped, tmp_path):
    content = {"model": Whole(), "args": {}} if wrapped else Whole()
    torch.save(content, tmp_path / "pruned.pth", _use_new_zipfile_serialization=zipped)
    message = (
        r"pruned.pth: is a whole model, pickled .*asks for .*Whole.*Torch-Pruning.*nothing of it was run.*state dict"
    )
    with pytest.raises(UserError, match=message):
        registry.read(tmp_path / "pruned.pth")
