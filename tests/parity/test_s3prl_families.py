"""All hidden states equal those of s3prl's own experts for HuBERT, wav2vec 2.0 and data2vec (WavLM has its own file).

The checkpoints are written here from s3prl's own classes, including pre-training heads, in the layout of its
converters, and read by s3prl's expert and by us; then the other way round.
"""

import dataclasses
import warnings

import pytest
import torch

from s3prl_pruned.formats.registry import read, write
from s3prl_pruned.models import families
from s3prl_pruned.models.dummies import random_encoder, tiny_families

TOLERANCE = 2e-5
SHAPES = {name: config for name, config in tiny_families().items() if config.family != "wavlm"}
BATCHES = {
    "one utterance": (4000,),
    "padded batch": (4000, 3111, 250),
    "even batch": (3000, 3000),
    "odd frames": (3930, 3110),
}


def s3prl_checkpoint(config, path, seed=1):
    """Write a random model of s3prl's own class."""
    from s3prl.upstream.data2vec.data2vec_model import Data2VecAudioConfig, Data2VecAudioModel
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig
    from s3prl.upstream.wav2vec2.wav2vec2_model import AudioPretrainingConfig, Wav2Vec2Config, Wav2Vec2Model

    shape = {
        "encoder_layers": config.num_layers,
        "encoder_embed_dim": config.embed_dim,
        "encoder_attention_heads": config.num_heads,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "layer_norm_first": config.norm_first,
        "extractor_mode": "layer_norm" if config.extractor_mode == "layer_norm" else "default",
        "conv_bias": config.conv_bias,
        "conv_feature_layers": "[(8,10,5)] + [(10,3,2)] * 2 + [(12,2,2)] * 2"
        if config.conv_layers == tiny_families()["wavlm_base"].conv_layers
        else "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        "conv_pos": config.pos_conv_kernel * config.pos_conv_depth,
        "conv_pos_groups": config.pos_conv_groups,
    }
    torch.manual_seed(seed)
    extra = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's old weight_norm
        if config.family == "hubert":
            cfg = HubertConfig(**shape, label_rate=50.0, final_dim=6)
            task = HubertPretrainingConfig(normalize=config.normalize_waveform)
            extra["dictionaries_symbols"] = [["a", "b", "c"]]
            model = HubertModel(cfg, task, extra["dictionaries_symbols"])
        else:
            task = AudioPretrainingConfig(normalize=config.normalize_waveform)
            if config.family == "wav2vec2":
                cfg = Wav2Vec2Config(**shape, quantize_targets=True, final_dim=6, latent_vars=8, latent_dim=4)
                model = Wav2Vec2Model(cfg)
            else:
                cfg = Data2VecAudioConfig(**shape, pos_conv_depth=config.pos_conv_depth)
                model = Data2VecAudioModel(cfg)
                model.remove_pretraining_modules()
    with torch.no_grad():  # the initialisation has nearly uniform attention
        for parameter in model.parameters():
            parameter += (0.02 if parameter.shape[-1] > 100 else 0.3) * torch.randn(parameter.shape)
    state = dict(model.state_dict())
    if config.family == "data2vec":
        state["_ema"] = {"layers.0.fc1.weight": torch.zeros(2)}
    task_cfg, model_cfg = dataclasses.asdict(task), dataclasses.asdict(cfg)
    torch.save({"task_cfg": task_cfg, "model_cfg": model_cfg, "model_weight": state, **extra}, path)


def s3prl_expert(family, path):
    from importlib import import_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return import_module(f"s3prl.upstream.{family}.expert").UpstreamExpert(str(path)).eval()


@torch.no_grad()
def s3prl_states(expert, wavs):
    return expert([wav.clone() for wav in wavs])["hidden_states"]


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def pair(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "random.pt"
    s3prl_checkpoint(request.param, path)
    return read(path, shape=request.param).encoder, s3prl_expert(request.param.family, path)


@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
def test_all_states_equal_s3prls(pair, lengths, encode, waveforms, relative_differences):
    encoder, expert = pair
    wavs = waveforms(*lengths)
    ours, theirs = encode(encoder, wavs), s3prl_states(expert, wavs)
    assert len(ours) == encoder.config.num_layers + 1
    assert max(relative_differences(ours, theirs)) <= TOLERANCE


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_s3prls_expert_reads_what_we_write(config, tmp_path, encode, waveforms, relative_differences):
    encoder = random_encoder(config, seed=2)
    write(tmp_path / "ours.pt", "s3prl", encoder)
    expert, wavs = s3prl_expert(config.family, tmp_path / "ours.pt"), waveforms(4000, 3111)
    assert max(relative_differences(encode(encoder, wavs), s3prl_states(expert, wavs))) <= TOLERANCE


@pytest.mark.parametrize("name", SHAPES)
def test_the_comparison_sees_every_parameter(name, tmp_path, encode, waveforms, relative_differences):
    config = SHAPES[name]
    path = tmp_path / "random.pt"
    encoder = random_encoder(config, seed=1)
    write(path, "s3prl", encoder)
    wavs = waveforms(4000, 3111)
    theirs = s3prl_states(s3prl_expert(config.family, path), wavs)
    invisible = [n for n, _ in encoder.named_parameters() if n == "mask_embedding" or n.endswith("k_proj.bias")]
    blind = []
    for parameter_name, parameter in encoder.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter += 0.1 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
            if max(relative_differences(encode(encoder, wavs), theirs)) < 5 * TOLERANCE:
                blind.append(parameter_name)
            parameter.copy_(kept)
    assert blind == invisible


@pytest.mark.parametrize("name", ["hubert_base", "wav2vec2_base"])
def test_the_families_padding_rules_differ_and_each_is_s3prls(name, tmp_path, encode, waveforms, relative_differences):
    """The batch's second utterance has 38 frames alone, and 39 by its share of the padded batch."""
    from dataclasses import replace

    config = SHAPES[name]
    encoder = random_encoder(config, seed=1)
    write(tmp_path / "ours.pt", "s3prl", encoder)
    wavs = waveforms(4000, 3111)
    theirs = s3prl_states(s3prl_expert(config.family, tmp_path / "ours.pt"), wavs)
    other = {"chunks": "convolution", "convolution": "chunks"}[config.padding_rule]
    encoder.config = replace(config, padding_rule=other)
    assert max(relative_differences(encode(encoder, wavs), theirs)) > 100 * TOLERANCE


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
def test_the_true_sizes_equal_s3prls(build, tmp_path, encode, waveforms, relative_differences):
    config, path = build(), tmp_path / "random.pt"
    s3prl_checkpoint(config, path)
    encoder, expert = read(path, shape=config).encoder, s3prl_expert(config.family, path)
    expert.model.remove_pretraining_modules()
    heads = sum(p.numel() for n, p in expert.model.named_parameters() if n == "label_embs_concat")
    assert encoder.num_parameters() == sum(p.numel() for p in expert.parameters()) - heads
    wavs = waveforms(32_000, 21_111)
    for batch in (wavs[:1], wavs):
        differences = relative_differences(encode(encoder, batch), s3prl_states(expert, batch))
        assert len(differences) == config.num_layers + 1
        assert max(differences) <= TOLERANCE
