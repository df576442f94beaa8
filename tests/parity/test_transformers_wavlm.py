"""Hugging Face's WavLMModel and our encoder hold the same weights and compute the same states, both ways."""

import pytest
import torch

from s3prl_pruned.formats import fairseq, huggingface
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, tiny_base, tiny_large
from s3prl_pruned.models.encoder import SpeechEncoder

pytest.importorskip("transformers", reason="only the extras `transformers` and `test` install it")

TOLERANCE = 2e-5
SHAPES = {
    "base": tiny_base(),
    "large": tiny_large(),
    "biased convolutions, odd positional kernel": tiny_large(conv_bias=True, pos_conv_kernel=5),
}


def hugging_face(config, seed=0):
    """A randomly initialised WavLMModel with our configuration."""
    from transformers import WavLMConfig, WavLMModel

    channels, kernels, strides = zip(*config.conv_layers)
    torch.manual_seed(seed)
    return WavLMModel(
        WavLMConfig(
            hidden_size=config.embed_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_dim,
            conv_dim=channels,
            conv_kernel=kernels,
            conv_stride=strides,
            conv_bias=config.conv_bias,
            num_feat_extract_layers=len(channels),
            feat_extract_norm="layer" if config.extractor_mode == "layer_norm" else "group",
            do_stable_layer_norm=config.norm_first,
            num_conv_pos_embeddings=config.pos_conv_kernel,
            num_conv_pos_embedding_groups=config.pos_conv_groups,
            num_buckets=config.num_buckets,
            max_bucket_distance=config.max_distance,
        )
    ).eval()


def ours_from(model, config):
    encoder = SpeechEncoder(config).eval()
    encoder.load_state_dict(huggingface.KEYS.to_ours(model.state_dict(), config, "WavLMModel"))
    return encoder


def theirs_from(encoder):
    model = hugging_face(encoder.config, seed=1)
    model.load_state_dict(huggingface.KEYS.to_theirs(encoder.state_dict(), encoder.config))
    return model


@torch.no_grad()
def their_states(model, wavs, lengths=None):
    mask = None if lengths is None else (torch.arange(wavs.shape[1]) < lengths[:, None]).long()
    output = model(wavs, attention_mask=mask, output_hidden_states=True)
    # transformers 5 lists the last state before the encoder's LayerNorm in the large models, earlier ones after it.
    return [*output.hidden_states[:-1], output.last_hidden_state]


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_all_states_equal_transformers_with_its_weights(config, encode, waveforms, relative_differences):
    model = hugging_face(config)
    with torch.no_grad():  # the initialisation has nearly uniform attention
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    (wav,) = waveforms(4000)
    encoder = ours_from(model, config)
    with torch.no_grad():
        ours = encoder(wav[None]).hidden_states
    assert len(ours) == config.num_layers + 1
    assert max(relative_differences(ours, their_states(model, wav[None]))) <= TOLERANCE


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_all_states_equal_transformers_with_our_weights(config, waveforms, relative_differences):
    encoder = random_encoder(config, seed=3)
    wavs = torch.stack(waveforms(4000, 4000))
    # Here both rules, s3prl's chunks of the padded batch and Hugging Face's frame count, give 49 and 39 frames.
    lengths = torch.tensor([4000, 3159])
    wavs[1, 3159:] = 0
    with torch.no_grad():
        output = encoder(wavs, lengths)
    assert output.frame_lengths.tolist() == [49, 39]
    model = theirs_from(encoder)
    assert model._get_feat_extract_output_lengths(lengths).tolist() == [49, 39]
    assert max(relative_differences(output.hidden_states, their_states(model, wavs, lengths))) <= TOLERANCE


@pytest.mark.parametrize("config", [tiny_base(), tiny_large()], ids=["base", "large"])
def test_the_comparison_sees_every_parameter(config, waveforms, relative_differences):
    encoder = random_encoder(config, seed=3)
    wavs = torch.stack(waveforms(4000))
    with torch.no_grad():
        ours = encoder(wavs).hidden_states
    model = theirs_from(encoder)
    invisible = [n for n, _ in model.named_parameters() if n == "masked_spec_embed" or n.endswith("k_proj.bias")]
    blind = []
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter += 0.1 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
            if max(relative_differences(ours, their_states(model, wavs))) < 5 * TOLERANCE:
                blind.append(name)
            parameter.copy_(kept)
    assert blind == invisible


@pytest.mark.parametrize("keys", [fairseq.KEYS, huggingface.KEYS], ids=lambda keys: keys.name)
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_converting_there_and_back_keeps_every_bit(config, keys):
    state = random_encoder(config, seed=4).state_dict()
    back = keys.to_ours(keys.to_theirs(state, config), config, "there and back")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_every_key_and_shape_is_transformers_own(config):
    theirs = {key: value.shape for key, value in hugging_face(config).state_dict().items()}
    state = random_encoder(config, seed=4).state_dict()
    assert {k: v.shape for k, v in huggingface.KEYS.to_theirs(state, config).items()} == theirs


def test_the_old_names_of_weight_norm_are_read():
    config = tiny_base()
    state = hugging_face(config).state_dict()
    prefix = "encoder.pos_conv_embed.conv."
    old = dict(state)
    old[prefix + "weight_g"] = old.pop(prefix + "parametrizations.weight.original0")
    old[prefix + "weight_v"] = old.pop(prefix + "parametrizations.weight.original1")
    ours = [huggingface.KEYS.to_ours(s, config, "test") for s in (state, old)]
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])


@pytest.mark.slow
@pytest.mark.parametrize("config", [families.wavlm_base(), families.wavlm_large()], ids=["base", "large"])
def test_the_true_sizes_equal_transformers(config, waveforms, relative_differences):
    encoder = random_encoder(config, seed=3)
    model = theirs_from(encoder)
    assert sum(p.numel() for p in model.parameters()) == encoder.num_parameters()
    wavs = torch.stack(waveforms(32_000))
    with torch.no_grad():
        ours = encoder(wavs).hidden_states
    assert max(relative_differences(ours, their_states(model, wavs))) <= TOLERANCE
