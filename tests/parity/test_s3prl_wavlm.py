"""All hidden states equal those of s3prl's own WavLM expert on the same random-weight checkpoint."""

import copy
import warnings

import pytest
import torch

from s3prl_pruned.formats import microsoft
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models import families
from s3prl_pruned.models.components import RelativePosition
from s3prl_pruned.models.dummies import random_encoder, tiny_base, tiny_large

TOLERANCE = 2e-5
SHAPES = {
    "base": tiny_base(),
    "large": tiny_large(),
    "standard buckets": tiny_base(num_buckets=320, max_distance=800),
    "biased convolutions, odd positional kernel": tiny_large(conv_bias=True, pos_conv_kernel=5),
    "no projection": tiny_base(embed_dim=12, num_heads=2),
    "no gate": tiny_base(gated_position=False),
    "no relative position": tiny_large(gated_position=False, relative_position=False),
}
BATCHES = {"one utterance": (4000,), "padded batch": (4000, 3111, 250), "even batch": (3000, 3000)}


def s3prl_expert(path):
    from s3prl.upstream.wavlm.expert import UpstreamExpert

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # s3prl uses torch's old weight_norm
        return UpstreamExpert(str(path)).eval()


@torch.no_grad()
def s3prl_states(expert, wavs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # s3prl passes masks of two types
        return expert([wav.clone() for wav in wavs])["hidden_states"]


def both(config, tmp_path, seed=1):
    """Our encoder and s3prl's expert, loaded from the same file."""
    path = tmp_path / "random.pt"
    torch.save(microsoft.checkpoint(random_encoder(config, seed=seed)), path)
    return read(path).encoder, s3prl_expert(path)


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def pair(request, tmp_path_factory):
    return both(request.param, tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
def test_all_states_equal_s3prls(pair, lengths, encode, waveforms, relative_differences):
    encoder, expert = pair
    wavs = waveforms(*lengths)
    ours, theirs = encode(encoder, wavs), s3prl_states(expert, wavs)
    assert len(ours) == encoder.config.num_layers + 1
    assert max(relative_differences(ours, theirs)) <= TOLERANCE


@pytest.mark.parametrize("config", [tiny_base(), tiny_large()], ids=["base", "large"])
def test_the_comparison_sees_every_parameter(config, tmp_path, encode, waveforms, relative_differences):
    encoder, expert = both(config, tmp_path)
    wavs = waveforms(4000, 3111)
    theirs = s3prl_states(expert, wavs)
    # The mask embedding is used in masked pre-training only. A key bias adds the same value to all scores of a query,
    # which does not change the softmax.
    invisible = [n for n, _ in encoder.named_parameters() if n == "mask_embedding" or n.endswith("k_proj.bias")]
    blind = []
    for name, parameter in encoder.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter += 0.1 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
            if max(relative_differences(encode(encoder, wavs), theirs)) < 5 * TOLERANCE:
                blind.append(name)
            parameter.copy_(kept)
    assert blind == invisible


@pytest.mark.parametrize("config", [tiny_base(), tiny_large()], ids=["base", "large"])
def test_bias_gate_and_padding_weigh_much_more_than_the_tolerance(
    config, tmp_path, encode, waveforms, relative_differences
):
    encoder, expert = both(config, tmp_path)
    wavs = waveforms(4000, 3111)
    theirs = s3prl_states(expert, wavs)

    without_bias = copy.deepcopy(encoder)
    without_bias.relative_position = None
    without_gate = copy.deepcopy(encoder)
    for layer in without_gate.layers:
        layer.attention.gate = None
    for changed in (without_bias, without_gate):
        assert min(relative_differences(encode(changed, wavs), theirs)[1:]) > 1000 * TOLERANCE

    alone = encode(encoder, wavs[1:])
    together = [state[1:, : alone[0].shape[1]] for state in theirs]
    assert max(relative_differences(alone, together)) > 1000 * TOLERANCE


def test_relative_position_buckets_are_s3prls_at_every_distance():
    from s3prl.upstream.wavlm.modules import MultiheadAttention

    distance = torch.arange(-3000, 3001)
    for num_buckets, max_distance in ((320, 800), (320, 1280), (32, 24)):
        theirs = MultiheadAttention(
            8, 2, has_relative_attention_bias=True, num_buckets=num_buckets, max_distance=max_distance
        )._relative_positions_bucket(distance)
        ours = RelativePosition(tiny_base(num_buckets=num_buckets, max_distance=max_distance)).buckets(distance)
        assert torch.equal(ours, theirs)
        assert ours.unique().numel() >= num_buckets - 1  # no distance is "0 or more, to the right"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "size"),
    [(families.wavlm_base(), 94_381_936), (families.wavlm_large(), 315_453_120)],
    ids=["base", "large"],
)
def test_the_true_sizes_equal_s3prls(config, size, tmp_path, encode, waveforms, relative_differences):
    encoder, expert = both(config, tmp_path)
    assert encoder.num_parameters() == sum(p.numel() for p in expert.parameters()) == size
    wavs = waveforms(32_000, 21_111)
    for batch in (wavs[:1], wavs):
        differences = relative_differences(encode(encoder, batch), s3prl_states(expert, batch))
        assert len(differences) == config.num_layers + 1
        assert max(differences) <= TOLERANCE
