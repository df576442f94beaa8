"""DPHuBERT's format: the encoder has the states of its authors' model, in all variants of the format."""

import json
from dataclasses import replace

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.formats.dphubert_structure import HEADS
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import tiny_base
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.sparsity.counts import parameters
from tests.dphubert_checkpoints import Authors, checkpoint, configuration, shapes_of, with_gates
from tests.formats.dphubert_states import found, saved, waveforms, worst

KINDS = {
    "wavlm": {},
    "wavlm large": {"large": True},
    "hubert": {"family": "hubert"},
    "hubert large": {"family": "hubert", "large": True},
    "no attention in layer 0": {"heads": [None, [1], [0, 1, 3]]},
    "no attention in layer 0, large": {"heads": [None, [1], [0, 1, 3]], "large": True},
    "sublayers gone": {"heads": [[3], None, None], "encoder_ff_interm_features": [4, 0, 6]},
    "sublayers gone, large": {"heads": [[3], None, None], "encoder_ff_interm_features": [0, 0, 6], "large": True},
    "no attention at all": {"heads": [None] * 3},
    "hubert, sublayers gone": {
        "family": "hubert",
        "heads": [None, [0], [0, 1]],
        "encoder_ff_interm_features": [0, 5, 6],
    },
    "biased convolutions": {"family": "hubert", "large": True, "extractor_conv_bias": True},
    "DiariZen": {"diarizen": True},
    "DiariZen large": {"diarizen": True, "large": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_states_equal_those_of_the_authors_model(kind, tmp_path, relative_differences):
    content = checkpoint(**KINDS[kind])
    loaded = registry.read(saved(tmp_path / "x.pth", content))
    encoder, diarizen = loaded.encoder, "DiariZen" in kind
    assert worst(relative_differences, encoder, content, diarizen=diarizen) <= 1e-9
    assert encoder.config.states == StateRule(first="input" if diarizen else "projection", final_norm=False)
    assert loaded.provenance["method"] == f"converted from {'DiariZen' if diarizen else 'DPHuBERT'}'s format"
    assert len(loaded.sha256) == 64 and not encoder.training
    # the same number of weights, except gates of removed heads and the mask embedding (for pre-training only)
    names = encoder.state_dict()
    gates = sum(value.numel() for key, value in content["state_dict"].items() if "gru_rel_pos" in key)
    ours = sum(value.numel() for key, value in names.items() if ".gate." in key)
    theirs = sum(value.numel() for value in content["state_dict"].values())
    assert encoder.num_parameters() == theirs - gates + ours + 24
    assert "wavlm" in kind or not any("relative" in key for key in names) or encoder.config.family == "wavlm"


@pytest.mark.parametrize("kind", ["wavlm", "hubert large", "no attention in layer 0"])
def test_the_comparison_notices_every_tensor(kind, tmp_path, relative_differences):
    content = checkpoint(**KINDS[kind])
    encoder = registry.read(saved(tmp_path / "x.pth", content)).encoder
    wavs, blind = waveforms((2000,)), []
    expected = found(encoder, wavs)
    for key, value in content["state_dict"].items():
        noise = 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        other = {**content, "state_dict": {**content["state_dict"], key: value + noise}}
        if max(relative_differences(Authors(other).states(wavs), expected)) < 1e-10:
            blind.append(key)
    # a bias of keys adds the same to all scores of a query; the last norm of a pre-norm model comes after all states
    unseen = ("k_proj.bias",)
    if kind == "hubert large":
        unseen += ("encoder.transformer.layer_norm.weight", "encoder.transformer.layer_norm.bias")
    if kind == "no attention in layer 0":
        unseen += ("gru_rel_pos_linear.weight", "gru_rel_pos_linear.bias", "gru_rel_pos_const")
    assert blind == [key for key in content["state_dict"] if key.endswith(unseen)]


def test_without_the_scale_or_with_other_heads_states_are_different(tmp_path, relative_differences):
    content = checkpoint()
    encoder = registry.read(saved(tmp_path / "x.pth", content)).encoder
    plain = {**content["state_dict"], "feature_extractor.dummy_weight": torch.ones(8)}
    assert worst(relative_differences, encoder, {**content, "state_dict": plain}) > 1e-3
    heads = {**content["config"], "encoder_remaining_heads": [[0, 1], [1], [0, 1, 3]]}
    assert worst(relative_differences, encoder, {**content, "config": heads}) > 1e-3
    assert worst(relative_differences, encoder, content) <= 1e-9


# --- structure ------------------------------------------------------------------------------------


def test_the_dense_shape_is_a_public_one_that_fits_or_else_the_smallest(tmp_path):
    content = checkpoint()
    path = saved(tmp_path / "x.pth", content)
    smallest = registry.read(path).encoder
    assert [layer[0] for layer in smallest.config.conv_layers] == [5, 7, 6, 9, 8] and smallest.config.ffn_dim == 20
    assert smallest.spec.channels is None and [len(layer.ffn) for layer in smallest.spec.layers] == [11, 5, 20]
    assert [[head.index for head in layer.heads] for layer in smallest.spec.layers] == [[0, 2], [1], [0, 1, 3]]
    given = registry.read(path, dense=tiny_base(pos_conv_groups=8)).encoder
    assert given.config.conv_layers == tiny_base().conv_layers and given.config.ffn_dim == 20
    assert [len(kept) for kept in given.spec.channels] == [5, 7, 6, 9, 8]
    assert given.config.pos_conv_groups == 4, "the file takes precedence over the hint"
    assert registry.read(path, dense=tiny_base(ffn_dim=19)).encoder.config == smallest.config


S80 = {
    "heads": [*HEADS["wavlm_base_s80_md"][:8], None, None, [4, 7], [5]],
    "encoder_ff_interm_features": [666, 660, 649, 1080, 237, 299, 437, 573, 53, 80, 211, 334],
    "channels": (90, 161, 173, 181, 351, 155, 137),
}
S80_LARGE = {
    "heads": [kept or None for kept in HEADS["wavlm_large_s80_md"]],
    "encoder_ff_interm_features": [
        *(1092, 925, 759, 646, 745, 615, 684, 958, 286, 294, 406, 377),
        *(463, 542, 298, 236, 96, 104, 134, 211, 473, 1011, 1770, 1316),
    ],
    "channels": (512, 153, 224, 255, 302, 368, 211),
}
DENSE = {"heads": [list(range(12))] * 12, "encoder_ff_interm_features": [3072] * 12, "channels": (512,) * 7}
PUBLIC = {
    "encoder_pos_conv_kernel": 128,
    "encoder_pos_conv_groups": 16,
    "encoder_num_buckets": 320,
    "encoder_max_distance": 800,
}


def of_size(size, *, large=False):
    """A whole model whose tensors use no memory."""
    convs = [layer[1:] for layer in families.wavlm_base().conv_layers]
    cfg = configuration(
        large=large,
        diarizen=True,
        encoder_embed_dim=1024 if large else 768,
        total_heads=16 if large else 12,
        extractor_conv_layer_config=[(n, *rest) for n, rest in zip(size["channels"], convs, strict=True)],
        **{name: size[name] for name in ("heads", "encoder_ff_interm_features")},
        **PUBLIC,
    )
    state = {key: torch.ones(1).expand(shape) for key, shape in shapes_of(cfg, diarizen=True).items()}
    return {"state_dict": state, "config": cfg}


@pytest.mark.parametrize(
    "size, large, number",
    [(S80, False, 18_881_683), (DENSE, False, 94_381_680), (S80_LARGE, True, 63_095_530)],
    ids=["base s80", "base dense", "large s80"],
)
def test_published_counts(size, large, number, tmp_path):
    """Counts as in DiariZen: without mask embedding, with gates of removed heads. `s80`: 80 % are removed."""
    content = of_size(size, large=large)
    assert sum(value.numel() for value in content["state_dict"].values()) == number
    assert number / (315_452_608 if large else 94_381_680) == pytest.approx(1.0 if size is DENSE else 0.2, abs=5e-4)
    encoder = registry.read(saved(tmp_path / "x.bin", content)).encoder
    heads = encoder.config.num_heads
    gates_gone = sum(heads - len(layer.heads) for layer in encoder.spec.layers if layer.attention)
    assert encoder.num_parameters() == number - gates_gone + encoder.config.embed_dim
    assert sum(parameters(encoder.config, encoder.spec).values()) == encoder.num_parameters()
    own = {"channel_scale": True, "padding_rule": "convolution", "states": StateRule(final_norm=False)}
    whole = families.wavlm_large() if large else families.wavlm_base()
    assert encoder.config == replace(whole, **own)
    assert (encoder.spec.channels is None) == (size is DENSE)


# --- other variants -------------------------------------------------------------------------------


def diarizer(folder, content, *, source):
    """DiariZen's folder on the Hub: the encoder is part of a diarizer, and no file gives its shape."""
    folder.mkdir()
    state = {f"wavlm_model.{key}": value for key, value in content["state_dict"].items()}
    more = {"weight_sum.weight": (1, 4), "proj.weight": (2, 24), "conformer.x.weight": (2, 2), "classifier.bias": (2,)}
    torch.save({**state, **{key: torch.zeros(shape) for key, shape in more.items()}}, folder / "pytorch_model.bin")
    (folder / "config.toml").write_text(f'[model]\npath = "x.Model"\n[model.args]\nwavlm_src = "{source}"\nn = 4\n')
    return folder


def test_diarizens_folders_with_a_configuration(tmp_path, relative_differences):
    content = checkpoint(diarizen=True)
    cfg = {**content["config"], "wavlm_current_params": "18.8 M"}
    for name, held in (
        ("pytorch_model.bin", content),
        ("wavlm-base-converted.bin", content),
        ("whole_pytorch_model.bin", {f"frontend.upstream.{k}": v for k, v in content["state_dict"].items()}),
    ):
        folder = tmp_path / name.replace(".bin", "")
        folder.mkdir()
        torch.save(held, folder / name)
        (folder / "pruned_config.json").write_text(json.dumps(cfg))
        for path in (folder, folder / name):
            loaded = registry.read(path)
            assert worst(relative_differences, loaded.encoder, content, diarizen=True) <= 1e-9
            assert loaded.sha256 == registry.read(folder).sha256


def test_a_diarizer_whose_encoder_is_known_by_name(tmp_path, relative_differences, monkeypatch):
    content = checkpoint(diarizen=True)
    monkeypatch.setitem(HEADS, "wavlm_tiny_s80", [[0, 2], [1], [0, 1, 3]])
    folder = diarizer(tmp_path / "x", content, source="wavlm_tiny_s80")
    for path in (folder, folder / "pytorch_model.bin"):
        encoder = registry.read(path).encoder
        # no file gives the distance of the last bucket; it is that of the public models
        assert encoder.config == replace(encoder.config, max_distance=800, num_heads=4)
        known = {**content["config"], "encoder_max_distance": 800}
        assert worst(relative_differences, encoder, {**content, "config": known}, diarizen=True) <= 1e-9


def test_a_diarizer_with_an_unknown_encoder_is_refused(tmp_path):
    folder = diarizer(tmp_path / "x", checkpoint(diarizen=True), source="wavlm_base_s90")
    with pytest.raises(
        UserError,
        match="layer 0 has 2 of 4 heads, but the file does not say which. Put the pruned_config.json of this model "
        "beside it .*Known without this file are wavlm_base_s80_md, wavlm_large_s80_md",
    ):
        registry.read(folder)
    whole = checkpoint(diarizen=True, heads=[[0, 1, 2, 3]] * 3)
    encoder = registry.read(diarizer(tmp_path / "whole", whole, source="somewhere/WavLM.pt")).encoder
    assert [len(layer.heads) for layer in encoder.spec.layers] == [4, 4, 4]


# --- students in training -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["wavlm", "hubert"])
@pytest.mark.parametrize("seed", range(3))
def test_gates_of_layers_become_their_masks(family, seed, tmp_path, relative_differences):
    content = checkpoint(family, heads=[[0, 1, 2, 3]] * 3, seed=seed)
    state, masks = with_gates(content, kinds=("heads", "layer", "intermediate"), seed=seed)
    flags = {name: True for name in content["config"] if "_prune_" in name and "conv" not in name}
    path = saved(tmp_path / "x.pth", {"state_dict": state, "config": {**content["config"], **flags}})
    encoder = registry.read(path).encoder
    assert worst(relative_differences, encoder, content, masks=masks) <= 1e-6  # masks are in fp32
    for i, layer in enumerate(encoder.spec.layers):
        name = f"encoder.transformer.layers.{i}.attention.hard_concrete_for_heads"
        if family == "wavlm" and layer.attention:
            assert [head.index for head in layer.heads] == masks[name].nonzero().flatten().tolist()
    assert encoder.num_parameters() < sum(value.numel() for value in content["state_dict"].values())


def test_gates_of_channels_cut_the_cnn(tmp_path, relative_differences):
    """Cut by hand here: then the norm before the projection is over the kept channels, as after `prune.py`."""
    content = checkpoint("hubert", heads=[[0, 1, 2, 3]] * 3)
    state, masks = with_gates(content, kinds=("hard_concrete",))
    lightning = {f"student_model.{key}": value for key, value in state.items()}
    lightning |= {f"teacher_model.{key}": value + 1 for key, value in content["state_dict"].items()}
    lightning["distill_linear_projs.0.weight"] = torch.zeros(24, 24)
    path = saved(tmp_path / "epoch=1.ckpt", {"state_dict": lightning, "epoch": 1, "pytorch-lightning_version": "1.8"})
    cut, before = dict(content["state_dict"]), torch.ones(1)
    for c in range(5):
        part = f"feature_extractor.conv_layers.{c}."
        z = masks[part + "hard_concrete"]
        kept, heard = z.nonzero().flatten(), before.nonzero().flatten()
        cut[part + "conv.weight"] = (cut[part + "conv.weight"] * before[:, None])[kept][:, heard]
        for key in ("layer_norm.weight", "layer_norm.bias"):
            if part + key in cut:
                cut[part + key] = cut[part + key][kept]
        before = z
    kept = before.nonzero().flatten()
    cut["feature_extractor.dummy_weight"] = (cut["feature_extractor.dummy_weight"] * before)[kept]
    for key in ("layer_norm.weight", "layer_norm.bias"):
        cut[f"encoder.feature_projection.{key}"] = cut[f"encoder.feature_projection.{key}"][kept]
    name = "encoder.feature_projection.projection.weight"
    cut[name] = cut[name][:, kept]
    with pytest.raises(UserError, match="24 dimensions must divide into whole heads, but give 0"):
        registry.read(path)  # without a configuration, heads have the public models' 64 dimensions
    (tmp_path / "pruned_config.json").write_text(json.dumps({"encoder_head_dim": 6}))
    encoder = registry.read(path).encoder
    assert [layer.conv.out_channels for layer in encoder.feature_extractor.layers] == [
        int((masks[f"feature_extractor.conv_layers.{c}.hard_concrete"] != 0).sum()) for c in range(5)
    ]
    assert worst(relative_differences, encoder, {**content, "state_dict": cut}) <= 1e-6
