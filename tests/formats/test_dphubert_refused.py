"""Files in DPHuBERT's and DiariZen's formats that are damaged, or of another kind: one clear error."""

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from tests.dphubert_checkpoints import checkpoint, random_state, with_gates
from tests.formats.dphubert_states import saved, worst


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
