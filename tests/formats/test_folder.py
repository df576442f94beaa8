"""An exported folder is the same when loaded, is complete or absent, and is refused with its name if damaged."""

import errno
import hashlib
import json
import re

import pytest
import safetensors.torch
import torch

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import load_encoder, model_hash, save_encoder
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_large
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.sparsity.counts import macs, prunable_weights, realised_sparsity

PROVENANCE = {"teacher": {"name": "random", "sha256": None}, "teacher_note": "random teacher", "step": 3}


@pytest.fixture
def encoder():
    return random_encoder(tiny_base(), seed=0, spec=random_spec(tiny_base(), seed=5))


@pytest.fixture
def folder(encoder, tmp_path):
    save_encoder(tmp_path / "export", encoder, PROVENANCE)
    return tmp_path / "export"


NOTHING = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())


PRUNED_CNN = random_spec(tiny_large(), seed=2, channels=True)


@pytest.mark.parametrize(
    "spec",
    [
        *(None, random_spec(tiny_large(), seed=1), CompactSpec(layers=(NOTHING,) * 3), PRUNED_CNN),
        *(CompactSpec(layers=(NOTHING,) * 3, position_groups=kept) for kept in ((), (1, 3))),
    ],
)
def test_a_saved_encoder_is_loaded_bit_for_bit(spec, tmp_path):
    encoder = random_encoder(tiny_large(), seed=0, spec=spec)
    save_encoder(tmp_path / "export", encoder, PROVENANCE)
    back, provenance = load_encoder(tmp_path / "export")
    assert (back.config, back.spec, provenance) == (encoder.config, encoder.spec, PROVENANCE)
    assert back.state_dict().keys() == encoder.state_dict().keys()
    assert all(torch.equal(p, back.state_dict()[name]) for name, p in encoder.state_dict().items())
    assert not back.training


def test_a_half_precision_export_is_loaded_in_fp32(folder, encoder):
    path = folder / "model.safetensors"
    half = {name: p.half() for name, p in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(half, path)
    back, _ = load_encoder(folder)
    assert {p.dtype for p in back.parameters()} == {torch.float32}


def test_the_folder_holds_these_files_and_no_gate(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["export"]
    assert not [name for name in safetensors.torch.load_file(folder / "model.safetensors") if "z_" in name]


def test_the_card_describes_the_model(folder, encoder):
    card = (folder / "README.md").read_text()
    config, spec, dense = encoder.config, encoder.spec, CompactSpec.dense(encoder.config)
    title = card.splitlines()[0]
    assert f"{100 * realised_sparsity(config, spec):.1f} % pruned" in title and "(random teacher)" in title
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == model_hash(folder)
    assert model_hash(folder) in card
    row = next(line for line in card.splitlines() if line.startswith("| parameters (all"))
    assert row.split("|")[3].strip() == f"{sum(p.numel() for p in load_encoder(folder)[0].parameters()):,}"
    row = next(line for line in card.splitlines() if line.startswith("| prunable weights"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == [f"{prunable_weights(config, s):,}" for s in (dense, spec)]
    row = next(line for line in card.splitlines() if line.startswith("| MACs for 5 s"))
    assert f"{sum(macs(config, spec, 80_000).values()) / 1e9:.3f} G" in row
    layers = [line for line in card.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(layers) == config.num_layers
    for line, layer in zip(layers, spec.layers):
        heads, qk, vo, ffn = (cell.strip() for cell in line.split("|")[2:6])
        assert heads == (str(len(layer.heads)) if layer.attention else "-")
        assert (int(qk), int(vo)) == (sum(len(h.qk) for h in layer.heads), sum(len(h.vo) for h in layer.heads))
        assert int(ffn) == len(layer.ffn)
    assert "- teacher.name: random" in card and "- step: 3" in card
    assert f"- host: {compat.host()}" in card


def test_the_card_of_a_pruned_cnn_counts_it(tmp_path):
    encoder = random_encoder(tiny_large(), seed=0, spec=PRUNED_CNN)
    save_encoder(tmp_path / "export", encoder, PROVENANCE)
    card = (tmp_path / "export" / "README.md").read_text()
    kept = ", ".join(f"{len(k)} of {c}" for k, (c, _, _) in zip(PRUNED_CNN.channels, encoder.config.conv_layers))
    assert f"Channels of the CNN's layers: {kept}." in card and "matrices and of the CNN." in card
    state = encoder.state_dict()
    names = [
        n for n in state if re.search(r"(q_proj|k_proj|v_proj|out_proj|fc1|fc2|conv|projection.projection)\.weight$", n)
    ]
    names = [n for n in names if not n.startswith("positional")]
    row = next(line for line in card.splitlines() if line.startswith("| prunable weights"))
    assert row.split("|")[3].strip() == f"{sum(state[n].numel() for n in names):,}"


def test_exports_with_a_dense_cnn_have_the_same_config_as_before_pruned_cnns(folder):
    assert json.loads((folder / "config.json").read_text())["spec"].keys() == {"layers"}


def test_an_export_is_never_overwritten(folder, encoder):
    before = model_hash(folder)
    with pytest.raises(UserError, match="exists already, and an export never overwrites"):
        save_encoder(folder, random_encoder(tiny_base(), seed=9), PROVENANCE)
    assert model_hash(folder) == before


def test_a_full_disk_leaves_nothing(encoder, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="could not be written .*No space left"):
        save_encoder(tmp_path / "export", encoder, PROVENANCE)
    assert list(tmp_path.iterdir()) == []


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("format"), "`format` must be 's3prl_pruned.encoder'"),
        (lambda c: c.update(format_version=2), "`format_version` must be 1, but is 2"),
        (lambda c: c.pop("spec"), r"lacks \['spec'\]"),
        (lambda c: c["encoder"].update(num_layer=3), "num_layer: unknown key. Did you mean `num_layers`"),
        (lambda c: c["encoder"].update(num_heads=0), "`num_heads` must be at least 1, but is 0"),
        (lambda c: c["spec"]["layers"].pop(), "the spec has 2 layers, but the encoder has 3"),
        (lambda c: c["spec"]["layers"][0].update(ffn="all"), r"layers\[0\].ffn: must be a list"),
        (lambda c: c["encoder"].update(ffn_dim=10), "ffn of the spec must be ascending indices below 10"),
        (lambda c: c["encoder"].update(pos_conv_kernel=9), "model.safetensors does not fit config.json"),
        (lambda c: c["spec"].update(channels=[[0, 1]] * 5), "model.safetensors does not fit config.json"),
        (lambda c: c["spec"].update(channels=[[0], [1]]), "the spec has 2 CNN layers, but the encoder has 5"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, message, folder):
    edit(folder, change)
    with pytest.raises(UserError, match=message):
        load_encoder(folder)


def test_damaged_or_missing_files_are_refused(folder):
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="model.safetensors: is missing or damaged"):
        load_encoder(folder)
    weights.unlink()
    with pytest.raises(UserError, match="model.safetensors: is missing or damaged"):
        load_encoder(folder)
    weights.write_bytes(whole)
    config.write_text(config.read_text()[:-20])
    with pytest.raises(UserError, match="config.json: is damaged, not JSON"):
        load_encoder(folder)
    config.unlink()
    with pytest.raises(UserError, match="is not an exported encoder: config.json cannot be read"):
        load_encoder(folder)
