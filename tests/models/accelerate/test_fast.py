"""The fast paths of inference compute what the modules' own forward passes compute, on every structure and length."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.models import families
from s3prl_pruned.models.accelerate import FAST_FORMS, accelerate, cnn, paths
from s3prl_pruned.models.accelerate.cnn import extract_features, product
from s3prl_pruned.models.accelerate.paths import Derived, Path, path_for
from s3prl_pruned.models.accelerate.positions import convolve
from s3prl_pruned.models.dummies import random_encoder, random_masks, random_spec, tiny_base, tiny_families, tiny_large
from s3prl_pruned.models.encoder import SpeechEncoder

# Small pieces, so that tiny inputs are cut into many: the last one shorter than the others.
PIECES = dict.fromkeys(
    [("cpu", torch.float32), ("cpu", torch.float64)], (Path(max_frames=None, cnn_frames=4, block=16, queries=5),)
)
SHAPES = tiny_families()


def fast_encoder(config, *, seed, spec=None):
    """A random encoder with its fast forms."""
    return accelerate(random_encoder(config, seed=seed, spec=spec))


def both_paths(encoder, wavs, lengths, pieces=PIECES):
    """All hidden states of the fast and of the reference path."""
    results = []
    for table in (pieces, {}):
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(paths, "PATHS", table)
            patch.setattr(cnn, "WIDE", 1)  # by threes, however narrow
            results.append(encoder(wavs, lengths).hidden_states)
    return results


def worst(found, expected):
    """The largest difference, relative to the state's largest value or 1."""
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(found, expected, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from(sorted(SHAPES)),
    samples=st.integers(200, 3000),
    padded=st.booleans(),
)
def test_every_structure_and_length_in_float64(seed, shape, samples, padded):
    config = SHAPES[shape]
    spec = random_spec(config, seed=seed, channels=seed % 2 == 1, positions=seed % 3 > 0)
    encoder = fast_encoder(config, seed=seed, spec=spec).double()
    lengths = torch.tensor([samples, max(150, samples // 2)]) if padded else None
    wavs = torch.randn(2, samples, generator=torch.Generator().manual_seed(seed)).double()
    assert worst(*both_paths(encoder, wavs, lengths)) < 1e-9


@pytest.mark.parametrize("pieces", [PIECES, paths.PATHS], ids=["small pieces", "the committed table"])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_float32_stays_within_the_tolerance(shape, pieces):
    encoder = fast_encoder(SHAPES[shape], seed=3)
    found, expected = both_paths(encoder, torch.randn(2, 4000), torch.tensor([4000, 2500]), pieces)
    assert worst(found, expected) < 2e-5
    assert any(not torch.equal(a, b) for a, b in zip(found, expected)), "the reference was compared with itself"


@pytest.mark.parametrize("shape", [shape for shape in sorted(SHAPES) if shape.endswith("base")])
def test_bf16_rounds_as_much_as_the_reference_does(shape):
    # Both round every product to 8 bits (2^-9 relative), about 20 of them one after the other.
    encoder = fast_encoder(SHAPES[shape], seed=3, spec=random_spec(SHAPES[shape], seed=3, channels=True))
    wavs, lengths = torch.randn(2, 4000), torch.tensor([4000, 2500])
    exact = both_paths(encoder, wavs, lengths, {})[0]
    halved = copy.deepcopy(encoder).bfloat16()
    committed = {("cpu", torch.bfloat16): paths.PATHS[("cpu", torch.bfloat16)]}
    found, expected = both_paths(halved, wavs.bfloat16(), lengths, committed)
    assert any(not torch.equal(a, b) for a, b in zip(found, expected, strict=True)), "the path was not taken"
    assert worst_share(found, exact) < 1.5 * worst_share(expected, exact) < 0.2
    with torch.no_grad():
        halved.layers[-1].final_layer_norm.weight.mul_(1.5)
        halved.layer_norm.weight.mul_(1.5)
    assert worst_share(both_paths(halved, wavs.bfloat16(), lengths, committed)[0], exact) > 0.25


def worst_share(found, expected):
    """The largest error of a state, as a share of the state's norm."""
    return max(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def test_the_smallest_change_of_a_bf16_weight_is_noticed():
    weight = torch.randn(4, 300, dtype=torch.bfloat16)
    weight[2, 17] = 1.0
    derived = Derived()
    first = derived.get("sum", [weight], lambda: weight.clone())
    assert derived.get("sum", [weight], lambda: None) is first
    weight.data[2, 17] = 1 + 2**-7  # the next number; the sum of its row would round it away
    assert derived.get("sum", [weight], lambda: "made anew") == "made anew"
    weight.data[1, [3, 4]] = weight.data[1, [4, 3]]
    assert derived.get("sum", [weight], lambda: "again") == "again"


def test_a_perturbed_weight_is_noticed():
    encoder = fast_encoder(tiny_base(), seed=3).double()
    other = copy.deepcopy(encoder)
    for name in (
        "feature_extractor.layers.0.conv.weight",
        "positional_convolution.conv.bias",
        "layers.1.attention.gate.scale",
    ):
        with torch.no_grad():
            before = other.get_parameter(name).clone()
            other.get_parameter(name).mul_(1.001).add_(1e-4)
        wavs = torch.randn(1, 3000).double()
        found, expected = both_paths(encoder, wavs, None)[0], both_paths(other, wavs, None)[1]
        assert worst(found, expected) > 1e-7, name
        with torch.no_grad():
            other.get_parameter(name).copy_(before)


@pytest.mark.parametrize("seconds", [0.025, 0.3, 1.0, 1.4, 5.2])
def test_true_kernels_at_lengths_on_both_sides_of_the_table(seconds):
    config = families.embedded_size("wavlm")
    encoder = accelerate(SpeechEncoder(config, random_spec(config, seed=1, channels=seconds < 1)).double().eval())
    torch.nn.init.normal_(encoder.positional_convolution.conv.bias)
    wavs = torch.randn(1, round(16000 * seconds)).double()
    assert worst(*both_paths(encoder, wavs, None, paths.PATHS)) < 1e-9


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(3, 2), (2, 2), (4, 2), (3, 1), (5, 5)]),
    threes=st.integers(1, 9),
    channels=st.tuples(st.integers(2, 6), st.integers(1, 6)),
    bias=st.booleans(),
    wide=st.sampled_from([1, 100]),
)
def test_products_are_the_convolution_for_every_kernel_and_width(shape, threes, channels, bias, wide):
    kernel, stride = shape
    conv = torch.nn.Conv1d(*channels, kernel, stride=stride, bias=bias).double()
    x = torch.randn(
        (3 * threes - 1) * stride + kernel, channels[0]
    ).double()  # as many frames as 3 x threes windows take
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(cnn, "WIDE", wide)
        found, expected = product(conv)(x), conv(x.T).T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 20), block=st.integers(2, 40), frames=st.integers(1, 70), groups=st.sampled_from([1, 2, 4])
)
def test_transforms_are_the_convolution_for_every_kernel_block_and_length(kernel, block, frames, groups):
    conv = torch.nn.Conv1d(8, 8, kernel, padding=kernel // 2, groups=groups).double()
    x = torch.randn(3, frames, 8).double()
    with torch.no_grad():
        found = convolve(conv, x, Derived(), Path(max_frames=None, cnn_frames=0, block=block))
        expected = conv(x.transpose(1, 2))[..., :frames].transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_padding_far_from_speech_is_exactly_the_bias():
    conv = torch.nn.Conv1d(8, 8, 6, padding=3)
    x = torch.zeros(1, 50, 8)
    x[:, :10] = torch.randn(10, 8)
    with torch.no_grad():
        y = convolve(conv, x, Derived(), Path(max_frames=None, cnn_frames=0, block=16))
    assert torch.equal(y[:, 13:], conv.bias.expand(1, 37, 8))
    assert not torch.equal(y[:, 12], conv.bias.expand(1, 8))


def test_silence_and_an_offset_leave_the_norm_over_time_finite():
    encoder = fast_encoder(tiny_base(), seed=0).double()
    for wavs in (torch.zeros(1, 2000), torch.full((1, 2000), 0.7), 5 + 1e-3 * torch.randn(1, 2000)):
        found, expected = both_paths(encoder, wavs.double(), None)
        assert all(state.isfinite().all() for state in found)
        assert worst(found, expected) < 1e-7  # the variance of almost nothing: 1e-16 relative to the offset's square


def test_the_convolutions_own_bias_counts():
    config = tiny_large(conv_bias=True)
    encoder = fast_encoder(config, seed=0).double()
    for layer in encoder.feature_extractor.layers:
        torch.nn.init.normal_(layer.conv.bias)
    assert worst(*both_paths(encoder, torch.randn(1, 2000).double(), None)) < 1e-9


def change_in_place(encoder):
    torch.optim.SGD(encoder.parameters(), lr=0.1).step()


def load_others(encoder):
    encoder.load_state_dict(random_encoder(encoder.config, seed=99).state_dict())


def widen(encoder):
    encoder.double()


def replace_one_bias(encoder):
    conv = encoder.feature_extractor.layers[2].conv
    conv.bias = torch.nn.Parameter(conv.bias + 1)


def average_through_data(encoder):
    """A moving average, as s3prl's optimisers write: neither an address nor a version changes."""
    for parameter in encoder.parameters():
        parameter.data.mul_(0.9).add_(0.1)


def write_a_row_through_data(encoder):
    encoder.feature_extractor.layers[1].conv.weight.data[3] *= -1


def write_one_element_through_data(encoder):
    encoder.feature_extractor.layers[3].conv.weight.data[5, 4, 1] += 1


def exchange_rows_through_data(encoder):
    """No sum over the weights changes."""
    weight = encoder.feature_extractor.layers[0].conv.weight.data
    weight[[0, 1]] = weight[[1, 0]]


def exchange_elements_through_data(encoder):
    weight = encoder.positional_convolution.conv.parametrizations.weight.original1.data
    weight[2, 0] = weight[2, 0].flip(0)


def write_a_small_number_through_data(encoder):
    """A step of a late optimiser: 1e-5 of the weights."""
    for parameter in encoder.positional_convolution.parameters():
        parameter.data.mul_(1 + 1e-5)


@pytest.mark.parametrize(
    "change",
    [average_through_data, write_a_row_through_data, write_one_element_through_data, exchange_rows_through_data,
     exchange_elements_through_data, write_a_small_number_through_data],
)  # fmt: skip
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_weights_written_through_data_are_seen(change, mode):
    encoder, wavs = fast_encoder(tiny_base(), seed=1).double(), torch.randn(1, 2000).double()
    with mode():
        before = encoder(wavs).hidden_states
        change(encoder)
        after, copied = encoder(wavs).hidden_states, copy.deepcopy(encoder)(wavs).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(after, copied, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_values_of_unchanged_weights_come_from_the_cache(monkeypatch):
    encoder, wavs = fast_encoder(tiny_base(), seed=1), torch.randn(1, 2000)
    with torch.no_grad():
        first = encoder(wavs).hidden_states
        monkeypatch.setattr("s3prl_pruned.models.accelerate.cnn.rows_of", lambda conv: pytest.fail("derived anew"))
        monkeypatch.setattr(
            "s3prl_pruned.models.accelerate.positions._spectrum", lambda *_: pytest.fail("derived anew")
        )
        assert all(torch.equal(a, b) for a, b in zip(first, encoder(wavs).hidden_states, strict=True))


@pytest.mark.parametrize("change", [change_in_place, load_others, widen, replace_one_bias])
def test_cached_values_follow_the_weights(change):
    encoder = fast_encoder(tiny_base(conv_bias=True), seed=1)
    wavs = torch.randn(1, 2000)
    both_paths(encoder, wavs, None)  # fills the memory
    encoder(wavs).hidden_states[-1].square().mean().backward()
    with torch.no_grad():
        change(encoder)
    dtype = next(encoder.parameters()).dtype
    assert worst(*both_paths(encoder, wavs.to(dtype), None)) < 2e-5


def test_copies_and_pickles_start_with_an_empty_cache():
    encoder = fast_encoder(tiny_base(), seed=1)
    with torch.no_grad():
        encoder(torch.randn(1, 2000))
    assert encoder.feature_extractor.derived._kept
    extractor = encoder.feature_extractor
    for other in (copy.deepcopy(encoder).feature_extractor, pickle.loads(pickle.dumps(extractor))):
        assert not other.derived._kept
    assert not [name for name in encoder.state_dict() if "derived" in name]


def test_weights_made_in_inference_mode_are_derived_anew():
    with torch.inference_mode():
        encoder = fast_encoder(tiny_base(), seed=1)
        wavs = torch.randn(1, 2000)
        before = encoder(wavs).hidden_states[-1]
        encoder.feature_extractor.layers[0].conv.weight.mul_(-1)
        assert not torch.allclose(before, encoder(wavs).hidden_states[-1])


def test_training_gradients_and_exports_take_the_reference(monkeypatch):
    encoder, x = fast_encoder(tiny_base(), seed=1), torch.zeros(1, 20, 24)
    assert path_for(encoder, x, 20) is None  # gradients are on
    with torch.no_grad():
        assert path_for(encoder.train(), x, 20) is None
        assert path_for(encoder.eval(), x, 20) is not None
        for question in ("torch.compiler.is_compiling", "torch.compiler.is_exporting", "torch.jit.is_tracing"):
            with monkeypatch.context() as patch:
                patch.setattr(question, lambda: True, raising=False)
                assert path_for(encoder, x, 20) is None, question
        assert path_for(encoder, x.half(), 20) is None
        assert path_for(encoder, x.to("meta"), 20) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert path_for(encoder, x, 20) is None


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_masks_of_a_checkpoint_are_used(shape):
    encoder = fast_encoder(SHAPES[shape], seed=1).double()
    wavs, lengths = torch.randn(2, 2000).double(), torch.tensor([2000, 1100])
    encoder.set_masks(random_masks(encoder.spec, seed=0))
    found, expected = both_paths(encoder, wavs, lengths)
    assert worst(found, expected) < 1e-9
    encoder.set_masks(None)
    assert worst(both_paths(encoder, wavs, lengths)[0], expected) > 1e-3


def test_memory_is_that_of_a_stretch_and_not_of_the_utterance():
    encoder = fast_encoder(tiny_base(), seed=1)
    sizes = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("s3prl_pruned.models.accelerate.cnn.gelu_", lambda x: (sizes.append(x.numel()), F.gelu(x))[1])
        extract_features(encoder.feature_extractor.layers, torch.randn(1, 20_000), Derived(), frames_at_a_time=4)
        longest = max(sizes)
        sizes.clear()
        extract_features(encoder.feature_extractor.layers, torch.randn(1, 40_000), Derived(), frames_at_a_time=4)
    assert max(sizes) == longest


def test_without_accelerate_no_fast_form_runs(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a fast path ran")

    plain = random_encoder(tiny_base(), seed=1)
    monkeypatch.setattr("s3prl_pruned.models.accelerate.attention.attend_by_head", refuse)
    with torch.no_grad():
        plain(torch.randn(1, 2000))
        with pytest.raises(AssertionError, match="a fast path ran"):
            accelerate(plain)(torch.randn(1, 2000))


def test_accelerate_changes_classes_only_and_once():
    plain = random_encoder(tiny_base(), seed=1)
    fast = accelerate(copy.deepcopy(plain))
    every = [*fast.modules(), *accelerate(random_encoder(SHAPES["data2vec_base"], seed=1)).modules()]
    assert {type(module) for module in every} >= set(FAST_FORMS.values())
    assert not {type(module) for module in every} & set(FAST_FORMS)
    assert all(torch.equal(value, fast.state_dict()[name]) for name, value in plain.state_dict().items())
    kept = fast.feature_extractor.derived
    assert accelerate(fast) is fast and fast.feature_extractor.derived is kept
    assert isinstance(fast, SpeechEncoder)
