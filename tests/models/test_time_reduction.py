"""A lower frame rate in the upper layers: computed by hand, in every format, and in counts."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.formats import onnx, registry
from s3prl_pruned.formats.folder import save_encoder
from s3prl_pruned.formats.huggingface_code import save_huggingface
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.components import RelativePosition, toeplitz
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_families, tiny_large, tiny_whisper
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.time_reduction import TimeReduction, merge_frames, repeat_frames, thin_position_bias
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.memory import Batch, memory_of_step
from s3prl_pruned.sparsity.counts import EncoderCounts, LayerCounts, counted_macs, macs
from s3prl_pruned.timing.latency import measure_table
from s3prl_pruned.timing.runs import TimingSetting
from tests.latency_tables import table_of
from tests.pretrain.test_memory import setting
from tests.sparsity.test_counts import counted_by_torch

SHAPES = {**tiny_families(), "whisper": tiny_whisper(max_frames=100)}


def pruned(config: EncoderConfig, *, after: int = 1, factor: int = 2):
    config = replace(config, time_reduction=TimeReduction(after=after, factor=factor))
    return random_encoder(config, seed=1, spec=random_spec(config, seed=4))


def by_hand(encoder, wav, *, average=True):
    """The hidden states (T, D) of one utterance (S,), by loops over frames, from the encoder's modules."""
    after, factor = encoder.config.time_reduction.after, encoder.config.time_reduction.factor
    x = encoder.feature_projection(encoder.feature_extractor(wav[None]))
    frames = x.shape[1]
    x = x + encoder.positional_convolution(x)
    x = x if encoder.config.norm_first else encoder.layer_norm(x)
    starts, states, bias = list(range(frames)), [], None
    for i, layer in enumerate(encoder.layers):
        states.append(x)
        if i == after:
            starts = list(range(0, frames, factor))
            groups = [x[0, start : start + factor] for start in starts]
            x = torch.stack([group.mean(0) if average else group[0] for group in groups])[None]
        if encoder.relative_position is not None:
            distances = torch.tensor([[key - query for key in starts] for query in starts])
            relative = encoder.relative_position
            bias = relative.embedding(relative.buckets(distances)).permute(2, 0, 1)
        x = layer(x, bias, None)
    states.append(encoder.layer_norm(x) if encoder.config.norm_first else x)
    every = [frame // factor for frame in range(frames)]
    return [state[0] if i <= after else state[0, every] for i, state in enumerate(states)]


@pytest.mark.parametrize("name", SHAPES)
def test_states_are_those_computed_by_hand(name):
    torch.manual_seed(0)
    for after, factor, samples in ((1, 2, 2000), (0, 3, 2161), (2, 2, 1933)):
        encoder = pruned(SHAPES[name], after=after, factor=factor).double()
        wav = torch.randn(samples, dtype=torch.float64)
        with torch.no_grad():
            found, expected = encoder(wav[None]).hidden_states, by_hand(encoder, wav)
            other = by_hand(encoder, wav, average=False)
        for state, wanted in zip(found, expected, strict=True):
            assert torch.allclose(state[0], wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()))
        assert not torch.allclose(found[-1][0], other[-1], atol=1e-3), "one frame of each group is not their mean"


@pytest.mark.parametrize("name", ["wavlm_base", "wavlm_large", "wav2vec2_base"])
def test_padding_changes_nothing(name):
    torch.manual_seed(0)
    encoder = pruned(replace(SHAPES[name], padding_rule="convolution", extractor_mode="layer_norm"), factor=3).double()
    wavs = [torch.randn(samples, dtype=torch.float64) for samples in (2400, 1700, 900)]
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    with torch.no_grad():
        together = encoder(batch, torch.tensor([len(wav) for wav in wavs]))
        for i, wav in enumerate(wavs):
            for state, alone in zip(together.hidden_states, encoder(wav[None]).hidden_states, strict=True):
                assert torch.allclose(state[i, : together.frame_lengths[i]], alone[0], atol=1e-9)


@given(frames=st.integers(1, 40), factor=st.integers(2, 7))
def test_both_forms_of_the_position_bias_have_the_distances_of_the_first_frames(frames, factor):
    relative = RelativePosition(tiny_base())
    by_distance = relative.by_distance(frames)
    starts = torch.arange(0, frames, factor)
    expected = relative.embedding(relative.buckets(starts - starts[:, None])).permute(2, 0, 1)
    assert torch.equal(thin_position_bias(toeplitz(by_distance), factor), expected)
    assert torch.equal(toeplitz(thin_position_bias(by_distance, factor)), expected)


@given(frames=st.integers(1, 30), factor=st.integers(2, 7), data=st.data())
def test_merged_frames_are_means_of_what_is_not_padding(frames, factor, data):
    length = data.draw(st.integers(1, frames))
    x = torch.randn(1, frames, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(frames))
    merged, padding = merge_frames(x, torch.arange(frames)[None] >= length, factor)
    for group, start in enumerate(range(0, frames, factor)):
        heard = x[0, start : min(start + factor, length)]
        assert bool(padding[0, group]) == (len(heard) == 0)
        assert torch.allclose(merged[0, group], heard.mean(0) if len(heard) else torch.zeros(2, dtype=x.dtype))
    assert repeat_frames(merged, factor, frames).shape == x.shape


def test_the_fast_form_computes_the_same(relative_differences):
    encoder, wavs = pruned(tiny_base()), torch.randn(2, 2000)
    lengths = torch.tensor([2000, 1500])
    with torch.no_grad():
        expected = encoder(wavs, lengths).hidden_states
        found = accelerate(encoder)(wavs, lengths).hidden_states
    assert max(relative_differences(found, expected)) < 1e-5


def test_folders_keep_it_and_other_formats_refuse_it(tmp_path, relative_differences):
    encoder, wav = pruned(tiny_base()), torch.randn(1, 2000)
    save_encoder(tmp_path / "own", encoder, {})
    again = registry.read(tmp_path / "own").encoder
    assert again.config.time_reduction == TimeReduction(after=1)
    with torch.no_grad():
        assert torch.equal(again(wav).hidden_states[-1], encoder(wav).hidden_states[-1])
    dense = random_encoder(encoder.config, seed=1)
    for name in ("microsoft", "torchaudio", "dphubert"):
        with pytest.raises(UserError, match="time_reduction|lower frame rate"):
            registry.write(tmp_path / name, name, dense)


@pytest.mark.slow
def test_onnx_runtime_and_transformers_compute_it(tmp_path, relative_differences):
    pytest.importorskip("onnxruntime")
    transformers = pytest.importorskip("transformers")
    encoder = pruned(replace(tiny_base(), num_layers=2))
    onnx.save_onnx(tmp_path / "x.onnx", encoder)  # compares three lengths, odd numbers of frames among them
    save_huggingface(tmp_path / "folder", encoder, {})
    model = transformers.AutoModel.from_pretrained(tmp_path / "folder", trust_remote_code=True)
    wav = torch.randn(1, 2161)
    with torch.no_grad():
        found = model(wav, output_hidden_states=True).hidden_states
        assert max(relative_differences(found, encoder.encode_raw(wav).hidden_states)) < 1e-5


def test_macs_of_the_upper_layers_are_those_of_fewer_frames():
    encoder = pruned(tiny_base(), after=1, factor=2)
    config, spec = encoder.config, encoder.spec
    full = macs(replace(config, time_reduction=None), spec, 2000)
    found = macs(config, spec, 2000)
    assert found == counted_by_torch(encoder, 2000)
    assert found["attention"] < full["attention"] and found["feed_forward"] < full["feed_forward"]
    assert found["cnn"] == full["cnn"]
    names, counts = ("qk", "vo", "ffn", "heads", "products"), [LayerCounts.of(layer) for layer in spec.layers]
    columns = {name: torch.tensor([getattr(c, name) for c in counts], dtype=torch.float64) for name in names}
    together = LayerCounts(**columns)
    expectation = counted_macs(config, replace(EncoderCounts.of(config, spec), layers=[together]), 2000)
    assert {name: int(value) for name, value in expectation.items()} == found


def test_memory_of_a_step_is_less():
    base = setting("wavlm_base", 12)
    low = replace(base, shape=replace(base.shape, time_reduction=TimeReduction(after=6)))
    batch = Batch(24, 249_600)
    assert memory_of_step(low, batch).layers < 0.85 * memory_of_step(base, batch).layers
    assert memory_of_step(low, batch).cnn == memory_of_step(base, batch).cnn


def test_wrong_values_are_refused_and_files_without_it_stay_as_they_were():
    for after, factor in ((3, 2), (-1, 2), (1, 1), (1, 17)):
        with pytest.raises(UserError, match="time_reduction"):
            replace(tiny_base(), time_reduction=TimeReduction(after=after, factor=factor)).validate()
    assert "time_reduction" not in to_dict(tiny_large())
    config = replace(tiny_large(), time_reduction=TimeReduction(after=2))
    assert from_dict(EncoderConfig, to_dict(config), "here") == config


def test_latency_tables_and_second_stages_refuse_it():
    low = replace(tiny_base(), time_reduction=TimeReduction(after=1))
    with pytest.raises(UserError, match="one frame rate for all layers"):
        measure_table(low, TimingSetting(baseline="", repeats=1))
    with pytest.raises(UserError, match="one frame rate for all layers"):
        table_of(tiny_base()).check(low)
    with pytest.raises(UserError, match="`student.time_reduction` would have no effect"):
        from_dict(ModelConfig, {"student_export": "export", "student": {"time_reduction": {"after": 1}}}, "recipe")
    with pytest.raises(UserError, match="`time_reduction.factor` must be from 2 to 16, but is 0"):
        from_dict(ModelConfig, {"student": {"time_reduction": {"after": 1, "factor": 0}}}, "recipe")
