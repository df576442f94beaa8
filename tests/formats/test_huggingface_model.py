"""The exported model behaves like transformers' speech models: the reference is theirs with the same weights.

transformers' own common tests (`tests/test_modeling_common.py` of 5.23.0, in its source archive) were also run with the
five classes, set up like its WavLM tests, dense and pruned, with labels for every head. All that apply pass. These do
not apply:

- token embeddings and features for text (`test_model_get_set_embeddings`, `test_resize_*`, `test_inputs_embeds*`,
  `test_tied_*`, generation): there are none, and transformers' speech models skip these tests too;
- `test_feed_forward_chunking`, `test_forward_signature`: skipped as for its WavLM;
- `test_attention_outputs` of a pruned encoder: a layer has as many attentions as kept heads. Without any heads they
  are empty, which `test_model_outputs_equivalence` and `test_retain_grad_*` cannot compare;
- tests that need a GPU, FlashAttention, DeepSpeed, tensor parallelism, `kernels`, PEFT, or another kind of model.
"""

import contextlib
import copy
import pickle
import sys

import pytest
import safetensors.torch
import torch

from s3prl_pruned import compat
from s3prl_pruned.config import to_dict
from s3prl_pruned.formats.huggingface import KEYS, to_cfg
from s3prl_pruned.formats.huggingface_code import save_huggingface
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families
from s3prl_pruned.models.encoder import EncoderLayer, SpeechEncoder

transformers = pytest.importorskip("transformers", reason="only the extras `transformers` and `test` install it")
compat.torchaudio_extension()  # transformers' own models import torchaudio

from transformers import AutoConfig, AutoModel  # noqa: E402  # after the line above

from s3prl_pruned.formats import huggingface_heads as heads  # noqa: E402
from s3prl_pruned.formats import huggingface_model  # noqa: E402
from s3prl_pruned.formats.huggingface_config import PrunedSpeechConfig  # noqa: E402
from s3prl_pruned.formats.huggingface_model import PrunedSpeechModel  # noqa: E402

SHAPES = tiny_families()
HEADS = {
    "CTC": heads.PrunedSpeechForCTC,
    "SequenceClassification": heads.PrunedSpeechForSequenceClassification,
    "AudioFrameClassification": heads.PrunedSpeechForAudioFrameClassification,
    "XVector": heads.PrunedSpeechForXVector,
}
LABELS = {"CTC": torch.tensor([[3, 3, 9, 1], [7, 2, -100, -100]])}
SMALL = {"tdnn_dim": [12, 12, 12, 12, 20], "xvector_output_dim": 16, "num_labels": 3, "final_dropout": 0.0}
FRAMES = 49


def speech():
    """Two utterances, (2, 4000), the second with 2500 samples, and their mask."""
    wavs = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    mask = torch.ones(2, 4000, dtype=torch.long)
    wavs[1, 2500:], mask[1, 2500:] = 0, 0
    return wavs, mask


def make(name, *, seed=None, kind=PrunedSpeechModel, **settings):
    """A model in evaluation mode, dense or randomly pruned."""
    shape = SHAPES[name]
    spec = None if seed is None else random_spec(shape, seed=seed, channels=True, positions=True)
    encoder = random_encoder(shape, seed=1, spec=spec)
    settings = {"encoder": to_dict(shape), "spec": encoder.spec.to_dict(), **settings}
    model = kind(PrunedSpeechConfig(**settings)).eval()
    model.base_model.encoder.load_state_dict(encoder.state_dict())
    return model


def theirs(name, kind, **settings):
    """transformers' own model with the weights of `make`."""
    encoder = random_encoder(SHAPES[name], seed=1)
    cfg, _ = to_cfg(encoder.config)
    model = kind(kind.config_class(**{**cfg, "attn_implementation": "eager", **settings})).eval()
    model.base_model.load_state_dict(KEYS.to_theirs(encoder.state_dict(), encoder.config))
    return model


def waiting(model):
    return [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


@contextlib.contextmanager
def kept_calls(module):
    """A list that gets one entry per call of `module`."""
    calls = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def near(found, expected, limit=2e-5):
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1)) <= limit


@pytest.mark.parametrize(
    ("name", "kind"),
    [("wavlm_base", "WavLMModel"), ("wav2vec2_large", "Wav2Vec2Model"), ("hubert_base", "HubertModel")],
)
@torch.no_grad()
def test_outputs_equal_those_of_transformers_own_model(name, kind):
    ours, other = make(name), theirs(name, getattr(transformers, kind))
    wavs, mask = speech()
    inputs = {"attention_mask": mask} if "wav2vec2" in name else {}  # other families pad as in s3prl
    given = wavs
    if ours.encoder.config.normalize_waveform:  # as in transformers' feature extractor
        given = (
            torch.stack(
                [
                    (wav - wav[:n].mean()) / (wav[:n].var(correction=0) + 1e-5).sqrt()
                    for wav, n in zip(wavs, mask.sum(1))
                ]
            )
            * mask
        )
    found = ours(wavs, **inputs, output_hidden_states=True, output_attentions=True)
    expected = other(given, **inputs, output_hidden_states=True, output_attentions=True)
    heard = torch.ones(2, FRAMES) if not inputs else other._get_feature_vector_attention_mask(FRAMES, mask)
    keys = [key for key in expected if key != "extract_features" or kind != "HubertModel"]
    assert list(found) == ["last_hidden_state", "extract_features", "hidden_states", "attentions"]
    for key in keys:
        lists = [[each[key]] if torch.is_tensor(each[key]) else each[key] for each in (found, expected)]
        if key == "hidden_states" and ours.config.do_stable_layer_norm:  # transformers 5: the last is before its norm
            lists = [states[:-1] for states in lists]
        for a, b in zip(*lists, strict=True):
            rows = heard.bool() if a.ndim == 3 else heard.bool()[:, None].expand(a.shape[:3])
            if key == "attentions" and kind == "WavLMModel":  # it returns the mean over heads for each of them
                a = a.mean(1, keepdim=True).expand(b.shape)
            assert a.shape == b.shape and near(a[rows], b[rows]), key
    for ask in ({"output_hidden_states": True}, {}):
        as_tuple, as_dict = ours(wavs, return_dict=False, **ask), ours(wavs, **ask)
        assert isinstance(as_tuple, tuple) and len(as_tuple) == len(as_dict)
    for samples in (101, 4000):
        assert ours._get_feat_extract_output_lengths(samples) == other._get_feat_extract_output_lengths(samples)


def test_settings_come_from_the_configuration_too():
    model, (wavs, _) = make("wavlm_large", seed=3), speech()
    assert model(wavs).hidden_states is None and model(wavs).attentions is None
    model.config.output_hidden_states = True
    assert len(model(wavs).hidden_states) == 4
    model.config.return_dict = False
    assert isinstance(model(wavs), tuple) and isinstance(
        make("wavlm_large", kind=HEADS["CTC"], return_dict=False)(wavs), tuple
    )
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (24, 3, 4)
    assert (config.conv_kernel, config.conv_stride) == ([10, 3, 3, 2, 2], [5, 2, 2, 2, 2])
    assert config.inputs_to_logits_ratio == 80 and config.num_feat_extract_layers == 5
    assert config.conv_dim == [layer.conv.out_channels for layer in model.encoder.feature_extractor.layers]


@torch.no_grad()
def test_eager_and_sdpa_agree_and_attentions_are_those_of_kept_heads():
    wavs, mask = speech()
    for name in ("wavlm_base", "wavlm_large", "data2vec_base"):
        model = make(name, seed=3)
        fast = model(wavs, attention_mask=mask)[0]
        for attn in ("eager", "sdpa"):
            model.set_attn_implementation(attn)
            found = model(wavs, attention_mask=mask, output_attentions=True)
            assert near(found[0], fast) and near(model(wavs, attention_mask=mask)[0], fast)
            left = [len(layer.heads) for layer in model.encoder.spec.layers]
            assert [tuple(weights.shape) for weights in found.attentions] == [(2, n, FRAMES, FRAMES) for n in left]
            for weights in found.attentions:
                torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_gradients_reach_hidden_states_and_attentions():
    model, (wavs, _) = make("wavlm_base", seed=2).train(), speech()
    output = model(wavs, output_attentions=True, output_hidden_states=True)
    kept = [*output.hidden_states, *(weights for weights in output.attentions if weights.numel())]
    for tensor in kept:
        tensor.retain_grad()
    output.last_hidden_state.pow(2).mean().backward()
    assert all(tensor.grad is not None for tensor in kept)


@pytest.mark.parametrize("by", ["layer", "model"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_gradient_checkpointing_gives_the_same_gradients(attn, by, monkeypatch):
    """With transformers' checkpointing layer, or with ours if that is not available."""
    if by == "model":
        monkeypatch.setattr(huggingface_model, "GradientCheckpointingLayer", torch.nn.Module)
        monkeypatch.setattr(huggingface_model, "CheckpointedLayer", EncoderLayer)
    wavs, mask = speech()
    found = []
    for reentrant in (None, True, False):
        model = make("wavlm_base", seed=3, hidden_dropout=0.2, attention_dropout=0.1).train()
        model.set_attn_implementation(attn)
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            assert model.is_gradient_checkpointing
        torch.manual_seed(0)
        with kept_calls(model.encoder.layers[1].attention_layer_norm) as calls:
            model(wavs, attention_mask=mask)[0].pow(2).mean().backward()
        assert len(calls) == (1 if reentrant is None else 2)
        assert not waiting(model)
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert found[0].keys() == found[1].keys() == found[2].keys()
    assert all(near(other[name], grad) for other in found[1:] for name, grad in found[0].items() if grad.numel())


def test_every_second_layer_may_be_checkpointed():
    model, (wavs, _) = make("wavlm_base").train(), speech()
    if not hasattr(model, "activation_checkpointing_enable"):
        pytest.skip("this transformers checkpoints all layers or none")
    model.activation_checkpointing_enable(every_n_layers=2)
    with contextlib.ExitStack() as held:
        calls = [held.enter_context(kept_calls(layer.attention_layer_norm)) for layer in model.encoder.layers]
        model(wavs)[0].pow(2).mean().backward()
    assert sorted(map(len, calls)) == [1, 2, 2]


@pytest.mark.parametrize("name", ["wavlm_large", "wav2vec2_large", "hubert_base"])
def test_weights_that_a_file_lacks_start_like_those_of_a_new_encoder(name):
    """transformers creates models without values: weights that `_init_weights` leaves out would be arbitrary."""
    model = make(name, seed=3)
    encoder = SpeechEncoder(model.encoder.config, model.encoder.spec)
    torch.manual_seed(0)
    found = type(model).from_pretrained(None, config=model.config, state_dict={}).encoder.state_dict()
    assert found.keys() == encoder.state_dict().keys()
    for key, expected in encoder.state_dict().items():
        if not expected.numel():
            continue
        assert found[key].isfinite().all() and found[key].abs().max() < 3 * expected.abs().max() + 1e-9, key
        if expected.numel() > 60 or not expected.std(
            correction=0
        ):  # the deviation of 60 numbers is within a third of the true one
            assert found[key].std(correction=0) == pytest.approx(expected.std(correction=0), rel=0.5), key
    assert torch.equal(found["layer_norm.weight"], torch.ones_like(found["layer_norm.weight"]))


def test_spec_augment_is_only_used_in_training_and_every_trainable_parameter_gets_a_gradient():
    wavs, mask = speech()
    for settings in ({}, {"mask_feature_prob": 0.3, "mask_feature_length": 4}, {"apply_spec_augment": False}):
        for name in ("wavlm_large", "wav2vec2_base"):
            model = make(name, seed=3, **settings).train()
            first, second = (model(wavs, attention_mask=mask)[0] for _ in range(2))
            assert torch.equal(first, second) == (settings == {"apply_spec_augment": False})
            first.pow(2).mean().backward()
            assert not waiting(model)
            model.eval()
            assert torch.equal(model(wavs)[0], model(wavs)[0])
    model = make("wav2vec2_base", mask_time_prob=0.4, mask_time_length=5).train()
    drawn = torch.stack([model._spans([FRAMES, 20, 3], FRAMES, "time") for _ in range(300)]).float()
    assert not drawn[:, 1, 20:].any() and not drawn[:, 2, 3:].any() and drawn[:, 2, :3].all()
    share = float(drawn[:, 0].mean())  # spans may overlap: 1 - (1 - 0.4 / n)^n for n = 49 / 5 spans; less at the edges
    assert 0.28 < share < 0.40
    chosen = torch.zeros(2, FRAMES, dtype=torch.bool)
    chosen[:, 4:9] = True
    with torch.no_grad():
        model.eval()
        given = model(wavs, mask_time_indices=chosen)[0]
        assert near(given, theirs("wav2vec2_base", transformers.Wav2Vec2Model)(wavs, mask_time_indices=chosen)[0])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", HEADS)
def test_a_head_computes_what_transformers_head_computes(task, weighted):
    settings = {**SMALL, "use_weighted_layer_sum": weighted}
    ours = make("wav2vec2_base", kind=HEADS[task], mask_time_prob=0.0, **settings)
    other = theirs("wav2vec2_base", getattr(transformers, f"Wav2Vec2For{task}"), **settings)
    other.wav2vec2 = copy.deepcopy(ours.speech_encoder)  # a copy, since shared weights would have equal gradients
    names = {name for name, _ in other.named_parameters() if not name.startswith("wav2vec2.")}
    if task == "CTC" and weighted:  # transformers' CTC has no weighted sum
        return
    assert names == {name for name, _ in ours.named_parameters() if not name.startswith("speech_encoder.")}
    ours.load_state_dict({name: weight for name, weight in other.state_dict().items() if name in names}, strict=False)
    wavs, mask = speech()
    labels = LABELS.get(task, torch.tensor([2, 0]))
    if task == "AudioFrameClassification":
        labels = torch.nn.functional.one_hot(torch.arange(2 * FRAMES).view(2, -1) % 3, 3)
    for inputs in ({}, {"attention_mask": mask}):
        found, expected = ours(wavs, labels=labels, **inputs), other(wavs, labels=labels, **inputs)
        assert list(found) == list(expected)
        assert all(near(found[key], expected[key]) for key in found), inputs
        found.loss.backward(), expected.loss.backward()
        mine = dict(ours.named_parameters())
        for name, weight in other.named_parameters():
            if weight.grad is not None:
                grad = mine[name.replace("wav2vec2.", "speech_encoder.")].grad
                assert near(grad, weight.grad, 1e-4), name
    assert not waiting(ours.train())


def test_a_label_beyond_the_vocabulary_is_refused():
    model, (wavs, _) = make("wav2vec2_base", kind=HEADS["CTC"], vocab_size=9), speech()
    with pytest.raises(ValueError, match="labels must be below vocab_size, 9, but one is 9"):
        model(wavs, labels=LABELS["CTC"])


def test_frozen_weights_are_not_trained():
    wavs, _ = speech()
    model = make("wavlm_base", seed=3, kind=HEADS["SequenceClassification"], **SMALL).train()
    model.freeze_feature_encoder()
    model(wavs, labels=torch.tensor([0, 1])).loss.backward()
    assert not waiting(model)
    assert all(weight.grad is None for weight in model.speech_encoder.encoder.feature_extractor.parameters())
    model.zero_grad()
    model.freeze_base_model()
    model(wavs, labels=torch.tensor([0, 1])).loss.backward()
    assert {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None} == {
        "projector",
        "classifier",
    }


def test_copies_pickles_traces_and_exported_programs_compute_the_same():
    model, (wavs, mask) = make("wavlm_base", seed=3), speech()
    with torch.no_grad():
        expected = model(wavs, attention_mask=mask)[0]
        for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert torch.equal(again(wavs, attention_mask=mask)[0], expected)
        longer = torch.randn(3, 5100) * 0.1
        traced = torch.jit.trace(model, (wavs,), strict=False, check_trace=False)
        assert near(traced(longer)["last_hidden_state"], model(longer)[0])
        any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        program = torch.export.export(
            model,
            (wavs,),
            {"attention_mask": mask},
            dynamic_shapes={"input_values": any_size, "attention_mask": any_size},
            strict=False,
        )
        whole = torch.ones(3, 5100, dtype=torch.long)
        assert near(program.module()(longer, attention_mask=whole)[0], model(longer, attention_mask=whole)[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pruned export, for `AutoModel`."""
    root = tmp_path_factory.mktemp("hugging_face")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", str(root / "modules"))
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(root / "modules"))
        patch.setattr(sys, "path", [*sys.path])
        encoder = random_encoder(SHAPES["wavlm_large"], seed=1, spec=random_spec(SHAPES["wavlm_large"], seed=3))
        save_huggingface(root / "x", encoder, {"teacher_note": None, "license": "mit"})
        yield root / "x"


def test_a_model_with_a_head_is_found_by_its_auto_class_and_read_as_an_encoder(folder, tmp_path, caplog):
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    named = AutoConfig.from_pretrained(folder, trust_remote_code=True).auto_map
    for auto in ("AutoModelForCTC", "AutoModelForAudioClassification", "AutoModelForAudioFrameClassification"):
        found = get_class_from_dynamic_module(named[auto], folder)
        assert found.__name__ in {head.__name__ for head in HEADS.values()}
    (wavs, mask), auto = speech(), transformers.AutoModelForAudioXVector
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(wavs, attention_mask=mask)[0]
        model = auto.from_pretrained(folder, trust_remote_code=True, use_weighted_layer_sum=True, **SMALL).eval()
        assert torch.equal(model.base_model(wavs, attention_mask=mask)[0], expected)
        torch.testing.assert_close(model.layer_weights, torch.full((4,), 0.25))
        model.save_pretrained(tmp_path / "x", max_shard_size="20KB")
        again = auto.from_pretrained(tmp_path / "x", trust_remote_code=True).eval()
        assert torch.equal(again(wavs, attention_mask=mask).logits, model(wavs, attention_mask=mask).logits)
        base, info = AutoModel.from_pretrained(tmp_path / "x", trust_remote_code=True, output_loading_info=True)
        assert not info["missing_keys"] and torch.equal(base.eval()(wavs, attention_mask=mask)[0], expected)
        back = read(tmp_path / "x").encoder
        assert near(back.encode_raw(wavs, mask.sum(1)).hidden_states[-1], expected)
    assert "only the encoder is read; left out: classifier, feature_extractor, layer_weights" in caplog.text


def test_half_precision_and_settings_by_argument(folder, tmp_path):
    wavs, _ = speech()
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, output_hidden_states=True, hidden_dropout=0.3)
    assert model.config.hidden_dropout == model.encoder.dropout.p == 0.3
    with torch.no_grad():
        expected = model.eval()(wavs)
        assert len(expected.hidden_states) == 4
        model.half().save_pretrained(tmp_path / "half")
        half = AutoModel.from_pretrained(tmp_path / "half", trust_remote_code=True, dtype="auto").eval()
        assert half.dtype == torch.float16
        again = AutoModel.from_pretrained(tmp_path / "half", trust_remote_code=True, dtype=torch.float32).eval()
        for other in (half, again):
            assert near(other(wavs)[0].float(), expected[0], 1e-2)


def test_the_folder_describes_its_model(folder):
    import yaml

    head = (folder / "README.md").read_text().split("---\n")
    card = yaml.safe_load(head[1])
    assert head[0] == "" and card["license"] == "mit" and card["library_name"] == "transformers"
    assert {"wavlm", "speech", "s3prl_pruned"} <= set(card["tags"]) and "# wavlm encoder" in head[2]
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    state = safetensors.torch.load_file(folder / "model.safetensors")
    assert config.hidden_size == len(state["encoder.layer_norm.weight"])
