"""DPHuBERT's format: the encoder has the states of its authors' model, in all variants of the format."""

import json
from dataclasses import replace

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.formats.dphubert_structure import HEADS
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, tiny_base, tiny_families
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec, Ranks
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.sparsity.counts import parameters
from tests.dphubert_checkpoints import Authors, checkpoint, configuration, random_state, shapes_of, with_gates

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
LENGTHS = [(2000,), (2000, 1300, 700)]


def waveforms(lengths):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(length, generator=generator) * 0.3 + 0.05 for length in lengths]


def saved(path, content):
    torch.save(content, path)
    return path


def found(encoder, wavs):
    """Published states in float64."""
    encoder = encoder.double()
    lengths = torch.tensor([len(wav) for wav in wavs])
    batch = torch.nn.utils.rnn.pad_sequence([wav.double() for wav in wavs], batch_first=True)
    with torch.no_grad():
        return encoder.states(encoder.encode_raw(batch, lengths if len(wavs) > 1 else None))


def worst(relative_differences, encoder, content, *, diarizen=False, masks=None):
    return max(
        max(relative_differences(found(encoder, wavs), Authors(content, masks).states(wavs, diarizen=diarizen)))
        for wavs in map(waveforms, LENGTHS)
    )


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


# --- refusals -------------------------------------------------------------------------------------


def changed(**changes):
    return lambda content: content["config"].update(changes)


def without(key):
    return lambda content: content["state_dict"].pop(key)


def put(key, value):
    return lambda content: content["state_dict"].update({key: value})


LAYER = "encoder.transformer.layers.1."


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            changed(encoder_prune_attention_heads=True),
            "`encoder_prune_attention_heads` is true, so that there should ",
        ),
        (
            changed(encoder_ff_interm_features=[11, 6, 20]),
            r"`encoder_ff_interm_features` says \[11, 6, 20\], but",
        ),
        (changed(encoder_use_attention=[True, False, True]), "`encoder_use_attention` says"),
        (changed(encoder_remaining_heads=[[0, 2], [1, 2], [0, 1, 3]]), "layer 1 must have 2 heads, .*weights have 1"),
        (changed(encoder_remaining_heads=[[2, 0], [1], [0, 1, 3]]), "must be ascending indices"),
        (changed(encoder_remaining_heads=[[0, 2], ["1"], [0, 1, 3]]), "must be lists of numbers"),
        (changed(encoder_remaining_heads=[[0, 2]]), "is damaged: its configuration is not valid"),
        (changed(encoder_total_num_heads=[4, 4, 2]), "`encoder_total_num_heads` must be one number"),
        (changed(encoder_total_num_heads=[5, 5, 5]), "24 dimensions must divide into whole heads, but give 5"),
        (changed(extractor_mode="batch_norm"), "`extractor_mode` must be group_norm, layer_norm or none"),
        (changed(extractor_mode="layer_norm"), "missing keys .*conv_layers.1.layer_norm"),
        (changed(extractor_conv_layer_config=[(5, 10, 5)]), "`extractor_conv_layer_config` says"),
        (changed(encoder_layer_norm_first="yes"), "norm_first: must be true or false"),
        (changed(encoder_max_distance=1), "`num_buckets` must be at least 4 and less than"),
        (without("feature_extractor.dummy_weight"), "missing keys .*dummy_weight"),
        (without("feature_extractor.conv_layers.0.conv.weight"), "lacks `feature_extractor.conv_layers.0.conv.weight`"),
        (without("feature_extractor.conv_layers.2.conv.weight"), "`extractor_conv_layer_config` says"),
        (
            without("encoder.feature_projection.projection.weight"),
            "lacks `encoder.feature_projection.projection.wei",
        ),
        (without("encoder.transformer.layers.0.layer_norm.weight"), "lacks `encoder.transformer.layers.0.layer_norm.w"),
        (without("encoder.transformer.layers.0.attention.rel_attn_embed.weight"), "lacks .*rel_attn_embed"),
        (without("encoder.transformer.pos_conv_embed.conv.weight_v"), "lacks .*weight_v"),
        (without(LAYER + "attention.q_proj.weight"), "lacks .*q_proj.weight"),
        (without(LAYER + "attention.out_proj.bias"), "missing keys .*out_proj.bias"),
        (without(LAYER + "attention.gru_rel_pos_const"), "missing keys .*gru_rel_pos_const"),
        (without(LAYER + "final_layer_norm.bias"), "missing keys .*final_layer_norm.bias"),
        (put("encoder.extra.weight", torch.zeros(2)), "unknown keys .*encoder.extra.weight"),
        (put(LAYER + "attention.q_proj.weight", torch.zeros(7, 24)), "layer 1 must have whole heads of 6 dimensions"),
        (
            put(LAYER + "attention.k_proj.weight", torch.zeros(7, 24)),
            r"k_proj.weight` must have shape \(6, 24\), but",
        ),
        (put(LAYER + "feed_forward.output_dense.weight", torch.zeros(24, 4)), r"must have shape \(24, 5\)"),
        (put("feature_extractor.dummy_weight", torch.zeros(7)), r"`.*dummy_weight` must have shape \(8,\)"),
        (put("feature_extractor.dummy_weight", 3), "`.*dummy_weight` must be a tensor, but is a int"),
        (put("encoder.transformer.pos_conv_embed.conv.weight_v", torch.zeros(2)), "must be a tensor of 3 dimensions"),
        (put("feature_extractor.conv_layers.0.hard_concrete.log_alpha", torch.zeros(4)), "must be 5 numbers"),
        (put("feature_extractor.conv_layers.0.hard_concrete.log_alpha", torch.full((5,), -9.0)), "leave no channel"),
        (changed(limit_l=-0.2), None),
    ],
)
def test_a_damaged_file_is_one_clear_error(damage, message, tmp_path):
    content = checkpoint()
    damage(content)
    path = saved(tmp_path / "x.pth", content)
    if message is None:  # the distribution of gates is not used in a finished model
        registry.read(path)
        return
    with pytest.raises(UserError, match=message):
        registry.read(path)


def test_gates_of_another_distribution_are_refused(tmp_path):
    content = checkpoint(heads=[[0, 1, 2, 3]] * 3)
    state, _ = with_gates(content, kinds=("heads",))
    path = saved(tmp_path / "x.pth", {"state_dict": state, "config": {**content["config"], "temperature": 0.5}})
    with pytest.raises(UserError, match="`temperature` must be 0.666.*, but is 0.5"):
        registry.read(path)


def test_a_folder_without_weights_or_with_several_is_refused(tmp_path):
    (tmp_path / "pruned_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no weights, none of pytorch_model.bin"):
        registry.read(tmp_path)
    for name in ("a-converted.bin", "b-converted.bin"):
        saved(tmp_path / name, checkpoint())
    with pytest.raises(UserError, match="Name one of them"):
        registry.read(tmp_path)


def test_a_state_dict_alone_is_read_if_it_has_all_heads(tmp_path, relative_differences):
    content = checkpoint("wavlm", heads=[[0, 1, 2, 3]] * 3, encoder_max_distance=800)
    encoder = registry.read(saved(tmp_path / "x.pth", content["state_dict"])).encoder
    assert worst(relative_differences, encoder, content) <= 1e-9
    assert random_state(content["config"]).keys() == content["state_dict"].keys()


# --- written --------------------------------------------------------------------------------------

WHOLE_HEADS = {
    "wavlm_base": (0, 2),
    "wavlm_large": (1,),
    "hubert_base": (0,),
    "hubert_large": (0, 1, 2),
}
"""Only the first is possible for HuBERT: the file does not say which heads are kept."""


def exported(name, *, gone=(), channels=True):
    """A model with whole heads; a layer in `gone` has no attention."""
    config = tiny_families()[name]
    dims = tuple(range(config.head_dim))
    layers = [
        LayerSpec(
            attention=i not in gone,
            heads=() if i in gone else tuple(HeadSpec(index=h, qk=dims, vo=dims) for h in WHOLE_HEADS[name]),
            feed_forward=i != 1,
            ffn=() if i == 1 else (0, 3, 7),
        )
        for i in range(config.num_layers)
    ]
    kept = ((0, 3), (1, 2), (4,), (0, 1, 9), (2, 3, 5)) if channels else None
    return random_encoder(config, seed=1, spec=CompactSpec(layers=tuple(layers), channels=kept))


def without_position_groups():
    encoder = exported("wavlm_base")
    return random_encoder(encoder.config, seed=1, spec=replace(encoder.spec, position_groups=(0, 2)))


@pytest.mark.parametrize("fmt", ["dphubert", "diarizen"])
@pytest.mark.parametrize("name", WHOLE_HEADS)
@pytest.mark.parametrize("channels", [True, False])
def test_a_written_file_has_the_same_states_in_both_programs(fmt, name, channels, tmp_path, relative_differences):
    encoder = exported(name, gone=(2,), channels=channels)
    if fmt == "diarizen" and not name.startswith("wavlm"):
        with pytest.raises(UserError, match="the diarizen format holds WavLM only, but this is a .*Take dphubert"):
            registry.write(tmp_path / "x", fmt, encoder)
        return
    registry.write(tmp_path / "x", fmt, encoder)
    file = tmp_path / "x" / "pytorch_model.bin" if fmt == "diarizen" else tmp_path / "x"
    content = torch.load(file, weights_only=True)
    read = registry.read(tmp_path / "x").encoder
    assert worst(relative_differences, read, content, diarizen=fmt == "diarizen") <= 1e-9
    expected_keys = shapes_of(content["config"], diarizen=fmt == "diarizen")
    assert {key: tuple(value.shape) for key, value in content["state_dict"].items()} == expected_keys
    if fmt == "diarizen":
        cfg = json.loads((tmp_path / "x" / "pruned_config.json").read_text())
        assert cfg == json.loads(json.dumps(content["config"])) and cfg["use_layerwise_prune"] is False
    # read again with the original shape, it is bit for bit the same, except for parts that the format cannot hold
    again = registry.read(tmp_path / "x", dense=encoder.config).encoder
    ours, read = encoder.state_dict(), again.state_dict()
    assert not read.pop("mask_embedding").any() and ours.pop("mask_embedding").any()
    assert (read.pop("feature_projection.channel_scale") == 1).all() and ours.keys() == read.keys()
    assert all(torch.equal(ours[key], read[key]) for key in ours)
    with torch.no_grad():
        wavs = torch.randn(1, 2000)
        states = [one.encode_raw(wavs).hidden_states for one in (encoder, again)]
    assert max(relative_differences(*states)) <= 2e-5


def test_a_model_of_theirs_is_the_same_after_reading_and_writing(tmp_path):
    for fmt in ("dphubert", "diarizen"):
        content = checkpoint(diarizen=fmt == "diarizen", heads=[None, [1], [0, 1, 3]])
        encoder = registry.read(saved(tmp_path / f"{fmt}.pth", content)).encoder
        registry.write(tmp_path / fmt, fmt, encoder)
        again = registry.read(tmp_path / fmt).encoder
        assert again.config == encoder.config and again.spec == encoder.spec
        pairs = zip(again.state_dict().values(), encoder.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("fmt", ["dphubert", "diarizen"])
def test_a_written_file_with_other_states_is_removed(fmt, tmp_path, monkeypatch):
    content = {}

    def other(path, made, **options):
        content.update(made)
        made["state_dict"]["encoder.transformer.layers.0.layer_norm.bias"][0] += 0.01
        torch.save(made, path)

    monkeypatch.setattr(f"s3prl_pruned.formats.{fmt}.write_torch_file", other)
    with pytest.raises(UserError, match="the written file differs from the encoder by .*please report"):
        registry.write(tmp_path / "x", fmt, exported("wavlm_base"))
    assert content and not any(tmp_path.iterdir())


NO_BIAS = {"gated_position": False, "relative_position": False}


def ragged(**changes):
    encoder = exported("wavlm_base")
    return replace(encoder.spec.layers[1], **changes)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            ragged(heads=(HeadSpec(index=2, qk=(0, 1), vo=(0, 1, 2)),)),
            "holds whole heads of 6 dimensions only, but head 2 of layer 1 has 2 query/key and 3 value/output dim.*"
            "`gates.dims_multiple: head`",
        ),
        (ragged(heads=()), "with only an output bias, as layer 1's attention.*`gates.kinds` with mha and ffn"),
        (ragged(feed_forward=True, ffn=()), "with only an output bias, as layer 1's feed-forward"),
        (ragged(ranks=Ranks(q_proj=3)), "holds no factors, but layer 1 has some"),
    ],
)
@pytest.mark.parametrize("fmt", ["dphubert", "diarizen"])
def test_a_structure_that_the_format_cannot_express_is_one_clear_error(layer, message, fmt, tmp_path):
    encoder = exported("wavlm_base")
    layers = (encoder.spec.layers[0], layer, encoder.spec.layers[2])
    encoder = random_encoder(encoder.config, seed=1, spec=CompactSpec(layers=layers))
    with pytest.raises(UserError, match=message):
        registry.write(tmp_path / "x", fmt, encoder)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda: exported("wavlm_base", gone=(0,)), "a position bias where layer 0 has no attention"),
        (lambda: random_encoder(tiny_families()["data2vec_base"], seed=1), "cannot hold a data2vec"),
        (lambda: without_position_groups(), "a pruned positional convolution"),
        (lambda: random_encoder(tiny_base(gated_position=False), seed=1), "a position bias without a gate"),
        (lambda: random_encoder(tiny_base(**NO_BIAS), seed=1), "a WavLM without a position bias whose layer 0 has att"),
        (lambda: random_encoder(tiny_base(projection_norm=False), seed=1), "without a LayerNorm before its projection"),
        (lambda: random_encoder(tiny_base(embed_dim=12), seed=1), "without a projection behind its CNN"),
    ],
)
def test_an_architecture_that_the_format_cannot_express_is_one_clear_error(encoder, message, tmp_path):
    with pytest.raises(UserError, match=f"the dphubert format cannot hold .*{message.removeprefix('cannot hold ')}"):
        registry.write(tmp_path / "x", "dphubert", encoder())


@pytest.mark.parametrize("name", ["dummy_weight", "out_proj.weight", "output_dense.weight", "projection.weight"])
def test_a_tensor_that_does_not_fit_its_gate_is_one_clear_error(name, tmp_path):
    content = checkpoint("hubert", heads=[[0, 1, 2, 3]] * 3, seed=3)
    state, _ = with_gates(content, kinds=("hard_concrete", "heads", "layer", "intermediate"), seed=3)
    key = next(key for key in state if key.endswith(name))
    flags = {name: True for name in content["config"] if "_prune_" in name}
    damaged = {"state_dict": {**state, key: state[key][..., :-1]}, "config": {**content["config"], **flags}}
    torch.save(damaged, tmp_path / "x.pth")
    with pytest.raises(UserError, match=name.split(".")[0]):
        registry.read(tmp_path / "x.pth")


def test_a_head_without_dimensions_is_one_clear_error(tmp_path):
    content = checkpoint("hubert", seed=3)
    torch.save({**content, "config": {**content["config"], "encoder_head_dim": 0}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="is damaged"):
        registry.read(tmp_path / "x.pth")
