"""Every family is an upstream: s3prl's expectations hold for each, and no family is mistaken for another."""

import re

import pytest
import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import load_encoder, save_encoder
from s3prl_pruned.formats.registry import read, write
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families
from s3prl_pruned.models.families import wavlm_base
from s3prl_pruned.models.shape import FAMILIES
from s3prl_pruned.pretrain.command import main
from s3prl_pruned.pretrain.distill.teachers import _HUB, load_teacher
from s3prl_pruned.pretrain.objectives import OBJECTIVES
from s3prl_pruned.pretrain.recipes import MODEL_FILE, RUNNER_FILE, load_recipe
from s3prl_pruned.pretrain.resolve import RECIPES, UPSTREAMS

SHAPES = tiny_families()
SIZES = {name.split("_")[0] for name in SHAPES}
"""The families that have Base and Large models; Whisper's tests are in `test_whisper.py`."""


def full_rate(config):
    """The public kernels and strides (320 samples per frame), everything else tiny."""
    from dataclasses import replace

    return replace(config, conv_layers=tuple((8, kernel, stride) for _, kernel, stride in wavlm_base().conv_layers))


def noise(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator) * 0.1 for length in lengths]


@pytest.fixture(params=SHAPES, ids=SHAPES)
def upstream(request, hub, tmp_path):
    """A pruned encoder of each family and size class, as s3prl's downstream runner makes it."""
    config = full_rate(SHAPES[request.param])
    save_encoder(
        tmp_path / "export", random_encoder(config, seed=1, spec=random_spec(config, seed=2)), {"teacher_note": None}
    )
    return getattr(hub, f"{config.family}_pruned_local")(
        ckpt=str(tmp_path / "export"), model_config=None, refresh=False
    )


def test_states_rate_and_frames_are_as_s3prl_expects(upstream):
    from s3prl.upstream.interfaces import Featurizer

    number = upstream.model.config.num_layers + 1
    featurizer = Featurizer(upstream, feature_selection="hidden_states", upstream_device="cpu")
    assert featurizer.layer_num == number and featurizer.downsample_rate == 320
    wavs = noise(16_000, 9_000)
    features = featurizer(wavs, upstream(wavs))
    assert [len(feature) for feature in features] == [49, 28]
    for layer in (0, number - 1):  # -l
        chosen = Featurizer(upstream, "hidden_states", upstream_device="cpu", layer_selection=layer)
        torch.testing.assert_close(chosen(wavs, upstream(wavs))[0], upstream(wavs)["hidden_states"][layer][0, :49])
    last = Featurizer(upstream, "last_hidden_state", upstream_device="cpu")  # -s
    torch.testing.assert_close(last(wavs, upstream(wavs))[0], upstream(wavs)["hidden_states"][-1][0, :49])


def test_half_precision_and_device_are_those_of_the_weights(upstream):
    half = upstream.half()(noise(16_000, 9_000))["hidden_states"]
    assert {state.dtype for state in half} == {torch.float16} and all(state.isfinite().all() for state in half)


def test_gradients_reach_all_kept_weights(upstream):
    upstream.train()
    generator = torch.Generator().manual_seed(0)
    states = upstream(noise(16_000, 9_000))["hidden_states"]
    sum((state * torch.randn(state.shape, generator=generator)).sum() for state in states).backward()
    without = {
        name
        for name, p in upstream.model.named_parameters()
        if p.numel() and (p.grad is None or not bool(p.grad.any())) and not name.endswith("k_proj.bias")
    }
    frozen = {name for name, _ in upstream.model.named_parameters() if name.startswith("feature_extractor.")}
    unused = set()  # the output of a LayerNorm before a removed sublayer is not used
    for i, layer in enumerate(upstream.model.spec.layers):
        norms = (
            {"attention_layer_norm": layer.heads, "final_layer_norm": layer.ffn}
            if upstream.model.config.norm_first
            else {}
        )
        unused |= {
            f"layers.{i}.{norm}.{part}" for norm, left in norms.items() if not left for part in ("weight", "bias")
        }
    assert without == frozen | unused | {"mask_embedding"}


def test_a_model_of_another_family_is_refused_by_name(hub, tmp_path):
    save_encoder(tmp_path / "export", random_encoder(SHAPES["hubert_base"], seed=1), {"teacher_note": None})
    with pytest.raises(UserError, match=r"holds a hubert encoder, but a wavlm is required. Use -u hubert_pruned_local"):
        hub.wavlm_pruned_local(ckpt=str(tmp_path / "export"))


@pytest.mark.parametrize("fmt", ["s3prl", "fairseq", "huggingface"])
def test_public_checkpoints_are_upstreams_too(hub, fmt, tmp_path, relative_differences):
    config = full_rate(SHAPES["hubert_base"])
    write(tmp_path / "x", fmt, random_encoder(config, seed=1))
    expert = hub.hubert_pruned_local(ckpt=str(tmp_path / "x"))
    with torch.no_grad():
        ours, direct = (
            expert(noise(16_000))["hidden_states"],
            read(tmp_path / "x").encoder(noise(16_000)[0][None]).hidden_states,
        )
    assert len(expert.model_hash) == 64 and max(relative_differences(ours, direct)) < 2e-5


@pytest.mark.parametrize("name", [n for n in UPSTREAMS if n.endswith("_distill") and n.split("_")[0] in SIZES])
def test_each_family_is_distilled_and_pruned_from_a_public_checkpoint(name, recipe, tmp_path):
    family = name.removesuffix("_pruned_distill")
    teacher = tmp_path / "teacher.pt"
    write(teacher, "s3prl", random_encoder(full_rate(SHAPES[f"{family}_base"]), seed=0))
    arguments = ["-u", name, "--recipe", str(recipe.recipe), "--teacher", str(teacher), "--corpus", str(recipe.corpus)]
    folder = main([*arguments, "-p", str(tmp_path / "run"), "--device", "cpu"])
    encoder, provenance = load_encoder(folder / "export")
    assert encoder.config.family == family and provenance["teacher"]["name"] == str(teacher)


@pytest.mark.parametrize("recipe", sorted(RECIPES.iterdir()), ids=lambda path: path.name)
def test_every_recipe_is_valid_and_names_a_teacher_of_its_own_command(recipe):
    header = (recipe / "config_model.yaml").read_text()
    default = recipe.name in {objective.default for objective in OBJECTIVES.values()}  # it needs no name
    named = "( --corpus|$)" if default else rf" .*--recipe {recipe.name}( --corpus| --teacher|$)"
    command = re.search(rf"-u (\w+?)_pruned_({'|'.join(OBJECTIVES)}){named}", header, re.M)
    assert command, "its first lines must show its command"
    family, objective, *corpus = command.groups()
    model = from_dict(OBJECTIVES[objective].model, load_recipe(recipe / MODEL_FILE, MODEL_FILE), str(recipe))
    runner = from_dict(OBJECTIVES[objective].runner, load_recipe(recipe / RUNNER_FILE, RUNNER_FILE), str(recipe))
    if "embedded" in recipe.name:
        assert model.teacher == "embedded" and family == "wavlm"
        assert (corpus == [" --corpus"]) == (objective == "sd"), "no mixtures are embedded"
        return
    by_hand = family == "whisper" and model.teacher == "tiny.en.pt"  # s3prl's hub has no Whisper
    of_family = ("wav2vec2", "xls") if family == "wav2vec2" else family
    assert model.teacher is None or by_hand or (model.teacher in _HUB and model.teacher.startswith(of_family))
    assert corpus == [" --corpus"], "the command must name a corpus"
    if re.match(rf"({'|'.join(FAMILIES)})_(base|large)_s80", recipe.name):
        utterances = runner.pretrain_expert.datarc.train_batch_size * runner.runner.gradient_accumulate_steps
        assert utterances == 24, "DistilHuBERT's batch, which the paper follows"


def test_every_family_has_a_recipe_for_base_and_large():
    names = {path.name for path in RECIPES.iterdir()}
    on_the_hub = [family for family in FAMILIES if family != "whisper"]
    assert {f"{family}_{size}_s80" for family in on_the_hub for size in ("base", "large")} <= names
    assert "whisper_tiny_en_s65" in names


def test_a_teacher_of_another_family_is_refused_with_what_to_do(tmp_path):
    write(tmp_path / "wavlm.pt", "microsoft", random_encoder(SHAPES["wavlm_base"], seed=1))
    message = r"must be a hubert encoder, but .*wavlm.pt' is a wavlm.*--teacher hubert_base.*-u wavlm_pruned_distill"
    with pytest.raises(UserError, match=message):
        load_teacher(str(tmp_path / "wavlm.pt"), family="hubert")
    with pytest.raises(UserError, match=r"must be a whisper.*--teacher tiny.en.pt.*--recipe whisper_tiny_en_s65"):
        load_teacher(str(tmp_path / "wavlm.pt"), family="whisper")
    assert load_teacher("random", family="whisper").encoder.config.max_frames == 1500
    assert load_teacher("random", family="data2vec").encoder.config.pos_conv_depth == 5
    assert load_teacher("random").note == "random teacher"
