"""s3prl 0.4.18's expectations of an upstream, checked by s3prl's own code."""

import copy
import os

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import load_encoder, model_hash, save_encoder
from s3prl_pruned.models.dummies import random_encoder
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.upstream.load import load_model
from s3prl_pruned.upstream.register import NAMES, register
from tests.tiny_run import tiny_wavlm

NUM_STATES = tiny_wavlm().num_layers + 1


def noise(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator) * 0.1 for length in lengths]


def states_of(expert, wavs):
    with torch.no_grad():
        return expert.eval()(wavs)["hidden_states"]


def assert_close(states, others):
    """fp32 rounding: 2e-5 of max(1, largest value) per hidden state."""
    assert len(states) == len(others) == NUM_STATES
    for a, b in zip(states, others, strict=True):
        assert float((a - b).abs().max()) <= 2e-5 * max(1.0, float(b.abs().max()))


@pytest.fixture
def expert(hub, exported):
    """An expert, built with exactly the arguments of s3prl's downstream runner."""
    return hub.wavlm_pruned_local(ckpt=str(exported), model_config=None, refresh=False)


def test_registering_twice_is_harmless_and_all_names_are_listed(hub):
    first = {name: getattr(hub, name) for name in NAMES}
    register()
    assert {name: getattr(hub, name) for name in NAMES} == first
    assert set(NAMES) <= set(hub.options())
    assert "wavlm_base" in hub.options(), "s3prl's own names are still listed"


def test_hidden_states_have_the_shape_and_rate_that_s3prl_expects(expert):
    (wav,) = noise(16_000)
    output = expert([wav])
    assert len(output["hidden_states"]) == NUM_STATES
    assert expert.get_downsample_rates("hidden_states") == 320
    assert output["last_hidden_state"] is output["hidden_states"][-1]
    for state in output["hidden_states"]:
        assert state.shape == (1, 49, 24) and state.dtype == torch.float32


@pytest.mark.parametrize("length", [400, 799, 16_000, 16_319, 40_123])
def test_frame_count_is_within_5_of_length_over_320(expert, length):
    for state in states_of(expert, noise(length)):
        assert abs(state.shape[1] - length / 320) <= 5


def test_utterances_of_different_lengths_share_a_batch(expert):
    batch = states_of(expert, noise(16_000, 9_000, 12_345))
    assert all(state.shape == (3, 49, 24) for state in batch)
    assert all(state.isfinite().all() for state in batch)
    again = states_of(expert, noise(16_000, 9_000, 12_345))
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


def test_an_utterance_of_a_batch_does_not_depend_on_the_others(expert):
    """The two have the same padded length, since padding changes the first convolution's GroupNorm, as in s3prl."""
    longest, short, other = noise(16_000, 9_000, 9_000)
    one, two = states_of(expert, [longest, short]), states_of(expert, [longest, short, other])
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["get_BertAdam_with_schedule", "get_AdamW", "get_Lamb_with_schedule"])
def test_after_steps_of_s3prls_optimisers_it_equals_its_copy(expert, name):
    """These optimisers write through `.data`, and downstream runs evaluate between steps."""
    from s3prl import optimizers

    options = {} if name == "get_AdamW" else {"total_steps": 10}
    optimizer, (wav,) = getattr(optimizers, name)([expert], lr=1e-2, **options), noise(4_000)
    before = states_of(expert, [wav])
    for _ in range(2):
        optimizer.zero_grad()
        sum(state.square().mean() for state in expert.train()([wav])["hidden_states"]).backward()
        optimizer.step()
    after = states_of(expert, [wav])
    assert all(torch.equal(a, b) for a, b in zip(after, states_of(copy.deepcopy(expert), [wav]), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("lengths", [(16_000, 399), (399, 16_000, 1), (16_000, 0), (399,), (300, 300), (399, 7), (1,)])
def test_an_utterance_shorter_than_a_frame_has_one_and_does_not_change_the_others(expert, lengths):
    wavs = noise(*lengths)
    found = states_of(expert, wavs)
    for state in found:
        assert state.shape[:2] == (len(lengths), max(1, (max(lengths) - 80) // 320)) and state.isfinite().all()
    padded = [torch.nn.functional.pad(wav, (0, max(0, 400 - len(wav)))) for wav in wavs]
    same = [place for place, length in enumerate(lengths) if length >= 400 or max(lengths) < 400]
    for state, other in zip(found, states_of(expert, padded), strict=True):
        torch.testing.assert_close(state[same], other[same], rtol=1e-4, atol=1e-5)


def test_the_number_of_states_is_constant_when_all_layers_and_positions_are_pruned_away(hub, tmp_path):
    empty = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())
    spec = CompactSpec(layers=(empty,) * tiny_wavlm().num_layers, position_groups=())
    save_encoder(tmp_path / "empty", random_encoder(tiny_wavlm(), seed=3, spec=spec), {"teacher_note": None})
    upstream = hub.wavlm_pruned_local(ckpt=str(tmp_path / "empty"))
    assert len(states_of(upstream, noise(16_000, 8_000))) == NUM_STATES


def test_s3prls_upstream_and_featurizer_take_it(hub, exported):
    from s3prl.nn import Featurizer, S3PRLUpstream

    model = S3PRLUpstream("wavlm_pruned_local", str(exported)).eval()
    assert model.num_layers == NUM_STATES and model.hidden_sizes == [24] * NUM_STATES
    assert model.downsample_rates == [320] * NUM_STATES
    lengths = torch.tensor([16_000, 9_000])
    with torch.no_grad():
        states, frames = model(torch.nn.utils.rnn.pad_sequence(noise(16_000, 9_000), batch_first=True), lengths)
        mixed, mixed_frames = Featurizer(model)(states, frames)
    assert mixed.shape == (2, 50, 24) and mixed_frames.tolist() == [50, 29]
    ours = states_of(hub.wavlm_pruned_local(ckpt=str(exported)), noise(16_000, 9_000))
    for theirs, state in zip(states, ours, strict=True):
        torch.testing.assert_close(theirs[:, :49], state, msg="S3PRLUpstream only repeats the last frame")


def test_the_runners_featurizer_takes_it(expert):
    from s3prl.upstream.interfaces import Featurizer

    featurizer = Featurizer(expert, feature_selection="hidden_states", upstream_device="cpu")
    assert featurizer.layer_num == NUM_STATES and featurizer.downsample_rate == 320 and featurizer.output_dim == 24
    wavs = noise(16_000, 9_000)
    features = featurizer(wavs, expert(wavs))
    assert [tuple(feature.shape) for feature in features] == [(49, 24), (28, 24)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_fp32(hub, exported, dtype):
    full = states_of(hub.wavlm_pruned_local(ckpt=str(exported)), noise(16_000, 9_000))
    half = states_of(
        hub.wavlm_pruned_local(ckpt=str(exported)).to(dtype), [wav.to(dtype) for wav in noise(16_000, 9_000)]
    )
    steps = 20 * torch.finfo(dtype).eps  # rounding errors of layers add up
    for a, b in zip(half, full, strict=True):
        assert a.dtype == dtype
        assert float((a.float() - b).norm() / b.norm()) < steps


def test_gradients_reach_all_kept_weights_in_fine_tuning(hub, exported):
    expert = hub.wavlm_pruned_local(ckpt=str(exported)).train()
    assert expert.model.num_parameters() < random_encoder(tiny_wavlm(), seed=0).num_parameters()
    generator = torch.Generator().manual_seed(0)
    states = expert(noise(16_000, 9_000))["hidden_states"]
    # random weights, because the plain sum of a LayerNorm's output is constant
    sum((state * torch.randn(state.shape, generator=generator)).sum() for state in states).backward()
    without = {
        name for name, p in expert.model.named_parameters() if p.numel() and (p.grad is None or not bool(p.grad.any()))
    }
    frozen = {name for name, _ in expert.model.named_parameters() if name.startswith("feature_extractor.")}
    # s3prl's WavLM freezes its CNN too; mask_embedding is used in masked pre-training only; a bias of keys shifts all
    # scores of a query by the same amount
    exempt = {name for name in without if name.endswith("k_proj.bias")}
    assert without - exempt == frozen | {"mask_embedding"}


def test_the_export_equals_the_masked_checkpoint(hub, exported, pruned_checkpoint, caplog):
    masked = hub.wavlm_pruned_local(ckpt=str(pruned_checkpoint), model_config=None, refresh=False)
    assert "masks are applied" in caplog.text and "states-3.ckpt" in caplog.text
    caplog.clear()
    small = hub.wavlm_pruned_local(ckpt=str(exported), model_config=None, refresh=False)
    assert "masks are applied" not in caplog.text
    assert small.model.num_parameters() < masked.model.num_parameters()
    wavs = noise(16_000, 9_000, 5_000)
    assert_close(states_of(small, wavs), states_of(masked, wavs))


def test_the_comparison_above_notices_one_wrong_weight(hub, exported, pruned_checkpoint):
    small = hub.wavlm_pruned_local(ckpt=str(exported))
    masked = states_of(hub.wavlm_pruned_local(ckpt=str(pruned_checkpoint)), noise(16_000))
    weight = next(p for name, p in small.model.named_parameters() if name.endswith("fc2.weight") and p.numel())
    with torch.no_grad():
        weight[0, 0] += 0.01
    with pytest.raises(AssertionError):
        assert_close(states_of(small, noise(16_000)), masked)


def test_an_export_is_named_by_its_folder_or_by_either_of_its_files(hub, exported):
    states = [
        states_of(hub.wavlm_pruned_local(ckpt=str(path)), noise(16_000))
        for path in (exported, exported / "model.safetensors", exported / "config.json")
    ]
    for other in states[1:]:
        assert_close(other, states[0])


def test_a_dense_checkpoint_in_microsofts_format_is_accepted(hub, recipe):
    upstream = hub.wavlm_pruned_local(ckpt=str(recipe.teacher))
    dense = random_encoder(tiny_wavlm(), seed=0)
    with torch.no_grad():
        (wav,) = noise(16_000)
        expected = dense(wav[None]).hidden_states
    assert_close(states_of(upstream, [wav]), expected)


def test_without_k_the_newest_finished_export_is_used(hub, trained, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = trained / "export"
    # newest first; what --force moved aside does not count
    for age, (name, source) in enumerate([("new.old-20260101-000000", old), ("new", exported), ("old", old)]):
        folder = tmp_path / "result" / "pretrain" / "wavlm_pruned_distill" / name
        encoder, provenance = load_encoder(source)
        save_encoder(folder / "export", encoder, provenance)
        stamp = (folder / "export" / "config.json").stat().st_mtime - 100 * age
        os.utime(folder / "export" / "config.json", (stamp, stamp))
    unfinished = tmp_path / "result" / "pretrain" / "wavlm_pruned_distill" / "unfinished"
    checkpoint.save_checkpoint(unfinished / "states-1.ckpt", {"Step": 1})
    upstream = hub.wavlm_pruned(ckpt=None, model_config=None, refresh=False)
    assert upstream.model_path.endswith("new/export")
    assert upstream.model_hash == model_hash(exported)


def test_results_can_name_the_model_exactly(expert, exported):
    assert expert.model_path == str(exported) and expert.model_hash == model_hash(exported)


def test_the_note_of_a_random_teacher_is_kept_with_the_model(hub, tmp_path):
    save_encoder(tmp_path / "e", random_encoder(tiny_wavlm(), seed=0), {"teacher_note": "random teacher"})
    assert hub.wavlm_pruned_local(ckpt=str(tmp_path / "e")).teacher_note == "random teacher"


def test_without_any_export_the_message_says_how_to_make_one(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="holds no finished export.*run_pretrain.py -u wavlm_pruned_distill.*-k"):
        hub.wavlm_pruned(ckpt=None, model_config=None, refresh=False)


def test_wrong_paths_are_named(hub, exported, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such model"):
        hub.wavlm_pruned_local(ckpt=str(tmp_path / "nowhere"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        UserError, match=r"folder: is in no known format; it holds \[\]. Readable are: .* training check"
    ):
        hub.wavlm_pruned_local(ckpt=str(tmp_path / "folder"))
    checkpoint.save_checkpoint(tmp_path / "states-1.ckpt", {"Step": 1})
    with pytest.raises(UserError, match=r"states-1.ckpt: is in no known format; it holds \['Step'\]"):
        hub.wavlm_pruned_local(ckpt=str(tmp_path / "states-1.ckpt"))
    checkpoint.save_checkpoint(tmp_path / "states-2.ckpt", {"Step": 1, "Student": {}, "Encoder_Config": {}})
    with pytest.raises(UserError, match=r"states-2.ckpt: is not a training checkpoint .* it lacks \['Gates'"):
        hub.wavlm_pruned_local(ckpt=str(tmp_path / "states-2.ckpt"))
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="text.pt: is truncated, or is no torch checkpoint"):
        hub.wavlm_pruned_local(ckpt=str(tmp_path / "text.pt"))


def test_damaged_exports_are_named(exported, tmp_path):
    def copy(name):
        encoder, provenance = load_encoder(exported)
        save_encoder(tmp_path / name, encoder, provenance)
        return tmp_path / name

    folder = copy("truncated")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated/model.safetensors: is missing or damaged"):
        load_model(folder)
    folder = copy("foreign")
    (folder / "config.json").write_text('{"format": "another"}')
    with pytest.raises(UserError, match=r"foreign: is in no known format; it holds \['"):
        load_model(folder)


def test_an_argument_that_s3prl_does_not_pass_is_an_error_that_names_it(hub, exported):
    for entry in (hub.wavlm_pruned, hub.wavlm_pruned_local, hub.wavlm_pruned_url, hub.wavlm_embedded, hub.wavlm_random):
        with pytest.raises(TypeError, match="'layer_drop'"):
            entry(ckpt=str(exported), model_config=None, refresh=False, layer_drop=0.1)
