"""Files that we write in DPHuBERT's and DiariZen's formats have the same states in their programs."""

import json
from dataclasses import replace

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.models.dummies import random_encoder, tiny_base, tiny_families
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec, Ranks
from tests.dphubert_checkpoints import checkpoint, shapes_of, with_gates
from tests.formats.dphubert_states import saved, worst

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
