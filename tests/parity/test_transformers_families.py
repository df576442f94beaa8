"""transformers' models and our encoder hold the same weights and compute the same states, for all four families.

Hugging Face determines padding by the feature extractor's own frame count in every family; s3prl and we do so only for
wav2vec 2.0 and data2vec. So on padded batches WavLM and HuBERT are compared under Hugging Face's rule.
"""

from dataclasses import replace

import pytest
import torch

from s3prl_pruned.formats import registry
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, tiny_families

transformers = pytest.importorskip("transformers", reason="only the extras `transformers` and `test` install it")

TOLERANCE = 2e-5
SHAPES = tiny_families()


def hugging_face(config, seed=0):
    """transformers' own randomly initialised model with our configuration."""
    from transformers import Data2VecAudioConfig, HubertConfig, Wav2Vec2Config, WavLMConfig

    channels, kernels, strides = zip(*config.conv_layers)
    shape = {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_dim,
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": config.conv_bias,
        "num_feat_extract_layers": len(channels),
        "num_conv_pos_embedding_groups": config.pos_conv_groups,
    }
    if config.family == "data2vec":
        positions = {
            "conv_pos_kernel_size": config.pos_conv_kernel,
            "num_conv_pos_embeddings": config.pos_conv_depth,
        }
        cfg = Data2VecAudioConfig(**shape, **positions)
    else:
        shape |= {
            "feat_extract_norm": "layer" if config.extractor_mode == "layer_norm" else "group",
            "do_stable_layer_norm": config.norm_first,
            "num_conv_pos_embeddings": config.pos_conv_kernel,
        }
        if config.family == "wavlm":
            shape |= {"num_buckets": config.num_buckets, "max_bucket_distance": config.max_distance}
        cfg = {"wavlm": WavLMConfig, "hubert": HubertConfig, "wav2vec2": Wav2Vec2Config}[config.family](**shape)
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(cfg).eval()
    with torch.no_grad():  # the initialisation has nearly uniform attention
        for parameter in model.parameters():
            parameter += (0.02 if parameter.shape[-1] > 100 else 0.3) * torch.randn(parameter.shape)
    return model


def saved(model, config, folder):
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=config.normalize_waveform).save_pretrained(folder)
    return folder


@torch.no_grad()
def both(encoder, model, wavs, lengths=None):
    """Hidden states of both for one batch, neither of them normalises the waveforms."""
    encoder.config = replace(encoder.config, padding_rule="convolution")  # see the module's docstring
    mask = None if lengths is None else (torch.arange(wavs.shape[1]) < lengths[:, None]).long()
    output = model(wavs, attention_mask=mask, output_hidden_states=True)
    # transformers 5 lists the last state before the encoder's LayerNorm in the large models, earlier ones after it.
    return encoder(wavs, lengths).hidden_states, [*output.hidden_states[:-1], output.last_hidden_state]


def padded(waveforms):
    wavs, lengths = torch.stack(waveforms(4000, 4000)), torch.tensor([4000, 3111])
    wavs[1, 3111:] = 0
    return wavs, lengths


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_all_states_equal_transformers_with_its_folder(config, tmp_path, waveforms, relative_differences):
    model = hugging_face(config)
    encoder = registry.read(saved(model, config, tmp_path), shape=config).encoder
    (wav,) = waveforms(4000)
    for batch in ((wav[None],), padded(waveforms)):
        ours, theirs = both(encoder, model, *batch)
        assert len(ours) == config.num_layers + 1
        assert max(relative_differences(ours, theirs)) <= TOLERANCE


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_our_folder_equals_transformers_own(config, tmp_path, waveforms, relative_differences):
    encoder = random_encoder(config, seed=3)
    registry.write(tmp_path / "hf", "huggingface", encoder)
    model, info = transformers.AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info.values()), info
    assert transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hf").do_normalize == config.normalize_waveform
    assert max(relative_differences(*both(encoder, model.eval(), *padded(waveforms)))) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in SHAPES if not name.startswith("wavlm")])  # WavLM has its own file
def test_the_comparison_sees_every_parameter(name, tmp_path, waveforms, relative_differences):
    model = hugging_face(SHAPES[name])
    encoder = registry.read(saved(model, SHAPES[name], tmp_path)).encoder
    wavs = torch.stack(waveforms(4000))
    invisible = [n for n, _ in model.named_parameters() if n == "masked_spec_embed" or n.endswith("k_proj.bias")]
    blind = []
    for parameter_name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter += 0.5 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
            if max(relative_differences(*both(encoder, model, wavs))) < 5 * TOLERANCE:
                blind.append(parameter_name)
            parameter.copy_(kept)
    assert blind == invisible


def test_the_pre_training_model_and_its_bin_file_are_read_without_heads(tmp_path):
    """`facebook/wav2vec2-base` is such a folder: it has a prefix, a quantizer and projections."""
    config = SHAPES["wav2vec2_base"]
    inner = hugging_face(config)
    outer = transformers.Wav2Vec2ForPreTraining(inner.config)
    outer.wav2vec2.load_state_dict(inner.state_dict())
    safe, binary = saved(outer, config, tmp_path / "safe"), saved(outer, config, tmp_path / "bin")
    (binary / "model.safetensors").unlink()
    prefix = "wav2vec2.encoder.pos_conv_embed.conv."
    state = outer.state_dict()
    for new, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        state[prefix + old] = state.pop(prefix + new)  # as older transformers wrote it
    torch.save(state, binary / "pytorch_model.bin")
    reference = registry.read(saved(inner, config, tmp_path / "inner"), shape=config).encoder.state_dict()
    for folder in (safe, binary):
        read = registry.read(folder, shape=config).encoder.state_dict()
        assert all(torch.equal(read[name], reference[name]) for name in reference)


def test_a_folder_whose_weights_transformers_wrote_in_parts_is_read(tmp_path):
    encoder = random_encoder(SHAPES["hubert_large"], seed=3)
    registry.write(tmp_path / "one", "huggingface", encoder)
    model = transformers.AutoModel.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    read = registry.read(tmp_path / "parts").encoder.state_dict()
    assert all(torch.equal(value, read[name]) for name, value in encoder.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        families.hubert_base,
        families.wav2vec2_base,
        families.data2vec_base,
        families.hubert_large,
        families.wav2vec2_large,
        families.wav2vec2_large_960,
        families.data2vec_large,
    ],
)
def test_the_true_sizes_equal_transformers(build, tmp_path, waveforms, relative_differences):
    config = build()
    model = hugging_face(config)
    encoder = registry.read(saved(model, config, tmp_path), shape=config).encoder
    assert sum(p.numel() for p in model.parameters()) == encoder.num_parameters()
    wavs, lengths = torch.stack(waveforms(32_000, 32_000)), torch.tensor([32_000, 21_111])
    wavs[1, 21_111:] = 0
    for batch in ((wavs[:1],), (wavs, lengths)):
        assert max(relative_differences(*both(encoder, model, *batch))) <= TOLERANCE
