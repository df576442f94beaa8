"""fairseq's own models, if fairseq is installed (extra `fairseq`): its checkpoints, and its hidden states."""

import pytest
import torch

from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.dummies import tiny_families

pytest.importorskip("fairseq", reason="the extra `fairseq` installs it")

TOLERANCE = 2e-5
SHAPES = {name: config for name, config in tiny_families().items() if config.family != "wavlm"}


def fairseq_model(config):
    """fairseq's own random model, and the configuration in its checkpoints."""
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
    from omegaconf import OmegaConf

    shape = {
        "encoder_layers": config.num_layers,
        "encoder_embed_dim": config.embed_dim,
        "encoder_attention_heads": config.num_heads,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "layer_norm_first": config.norm_first,
        "extractor_mode": "layer_norm" if config.extractor_mode == "layer_norm" else "default",
        "conv_bias": config.conv_bias,
        "conv_feature_layers": str([tuple(layer) for layer in config.conv_layers]),
        "conv_pos": config.pos_conv_kernel * config.pos_conv_depth,
        "conv_pos_groups": config.pos_conv_groups,
    }
    torch.manual_seed(1)
    if config.family == "hubert":
        cfg = OmegaConf.merge(OmegaConf.structured(HubertConfig), {**shape, "label_rate": 50.0, "final_dim": 6})
        task = OmegaConf.merge(OmegaConf.structured(HubertPretrainingConfig), {"data": "/nowhere", "labels": ["km"]})
        model = HubertModel(cfg, task, [range(5)])
    elif config.family == "wav2vec2":
        cfg = OmegaConf.merge(OmegaConf.structured(Wav2Vec2Config), {**shape, "quantize_targets": True, "final_dim": 6})
        model = Wav2Vec2Model(cfg)
    else:
        data2vec = pytest.importorskip("fairseq.models.wav2vec.wav2vec2", reason="this fairseq has no data2vec")
        if not hasattr(data2vec.Wav2Vec2Config, "pos_conv_depth"):
            pytest.skip("this fairseq has no stacked positional convolution")
        # data2vec's encoder is wav2vec 2.0's class with that stack
        cfg = OmegaConf.merge(OmegaConf.structured(Wav2Vec2Config), {**shape, "pos_conv_depth": config.pos_conv_depth})
        model = Wav2Vec2Model(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    name = {"data2vec": "data2vec_audio"}.get(config.family, config.family)
    content = OmegaConf.to_container(cfg, enum_to_str=True, resolve=False)
    return model.eval(), {**content, "_name": name}


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_all_states_equal_fairseqs_on_its_own_checkpoint(config, tmp_path, waveforms, relative_differences):
    from fairseq.data import Dictionary
    from omegaconf import OmegaConf

    model, model_cfg = fairseq_model(config)
    cfg = OmegaConf.create({"model": model_cfg, "task": {"normalize": config.normalize_waveform}})
    others = {"task_state": {"dictionaries": [Dictionary()]}, "extra_state": {"epoch": 1}}
    torch.save({"args": None, "cfg": cfg, "model": model.state_dict(), **others}, tmp_path / "fairseq.pt")
    encoder = read(tmp_path / "fairseq.pt", shape=config).encoder
    states = []
    hooks = [
        layer.register_forward_hook(lambda m, given, out: states.append(given[0].transpose(0, 1)))
        for layer in model.encoder.layers
    ]
    (wav,) = waveforms(4000)
    with torch.no_grad():
        result = model.extract_features(wav[None], None)
        ours = encoder(wav[None]).hidden_states
    for hook in hooks:
        hook.remove()
    last = result["x"] if isinstance(result, dict) else result[0]
    frames = last.shape[1]  # fairseq pads internally to a multiple of 2
    assert max(relative_differences(ours, [*(state[:, :frames] for state in states), last])) <= TOLERANCE
