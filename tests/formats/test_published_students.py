"""Students of other papers, read from their own formats: the states are those of their authors' programs.

Each is compared with an independent computation in float64 (`fairseq_student.py`), and if s3prl has the model, with
s3prl's own expert.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from s3prl_pruned.formats import registry
from s3prl_pruned.models.components import normalize_utterances
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.sparsity.counts import parameters
from tests.formats import fairseq_student as students
from tests.formats.fairseq_student import LIGHT, TINY

TOLERANCE = 2e-5
PRE_NORM = {**TINY, "layer_norm_first": True, "extractor_mode": "layer_norm", "conv_bias": True}
WHOLE = {**TINY, "_name": "student_hubert"}
"""A first stage of LightHuBERT: a supernet that is used whole."""


@dataclass
class Example:
    """A file of one format, and its states."""

    write: Any
    """path -> its weights"""
    states: Any
    """weights, waveforms -> states"""


def _light(cfg, *subnet):
    def states(state, wavs):
        return students.light_states(*students.light_subnet(state, cfg, *subnet), wavs)

    return Example(lambda path: students.light(path, cfg=cfg), states)


def _of(write, states, cfg=TINY, **changed):
    return Example(lambda path: write(path, cfg=cfg, **changed), lambda state, wavs: states(state, cfg, wavs))


EXAMPLES = {
    "starhubert": _of(students.star, students.star_states),
    "starhubert pre-norm": _of(students.star, students.star_states, PRE_NORM),
    "maskhubert": _of(students.mask, students.mask_states),
    "maskhubert pre-norm": _of(students.mask, students.mask_states, PRE_NORM),
    "distilhubert": _of(students.distil, students.distil_states),
    "distilhubert pre-norm": _of(students.distil, students.distil_states, {**PRE_NORM, "conv_bias": False}),
    "distilhubert of one": _of(
        students.distil, students.distil_states, n_tasks=1, pred_layer_id=[4], out_layer_inter_dim=7
    ),
    "lighthubert": _light(LIGHT, 384, 6, 1536),
    "lighthubert whole": _light(WHOLE, 16, 4, 24),
    "lighthubert pre-norm": _light({**WHOLE, **PRE_NORM}, 16, 4, 24),
}
SMALL = {name: example for name, example in EXAMPLES.items() if name != "lighthubert"}


@torch.no_grad()
def read_states(path, wavs, **options):
    encoder = registry.read(path, **options).encoder
    lengths = torch.tensor([len(wav) for wav in wavs])
    padded = pad_sequence(wavs, batch_first=True)
    if encoder.config.normalize_waveform:
        padded = normalize_utterances(padded, lengths)
    return encoder.states(encoder(padded, lengths if len(set(lengths.tolist())) > 1 else None))


def noise(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [0.3 * torch.randn(length, generator=generator) + 0.05 for length in lengths]


def written(example, folder):
    """The file and its weights."""
    path = folder / "model.ckpt"
    return path, example.write(path)


@pytest.mark.parametrize("lengths", [(8000,), (8000, 6111, 700), (6000, 6000)], ids=["one", "padded", "even"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_states_equal_those_of_the_authors_program(name, lengths, tmp_path, relative_differences):
    path, state = written(EXAMPLES[name], tmp_path)
    wavs = noise(*lengths)
    found, expected = read_states(path, wavs), EXAMPLES[name].states(state, wavs)
    assert max(relative_differences(found, expected)) <= TOLERANCE


@pytest.mark.parametrize("name", SMALL)
def test_the_comparison_notices_every_weight(name, tmp_path, relative_differences):
    """Each weight is changed in the reference, and the difference is noticed; so a wrong weight of ours would be."""
    path, state = written(EXAMPLES[name], tmp_path)
    wavs = noise(8000, 6111)
    found, blind = read_states(path, wavs), []
    for key, value in state.items():
        changed = {**state, key: value + 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))}
        if max(relative_differences(found, EXAMPLES[name].states(changed, wavs))) < 5 * TOLERANCE:
            blind.append(key)
    # no effect: a constant on all keys; a weight for masked pre-training only; and the last, a part of the output
    invisible = [key for key in state if key.endswith("k_proj.bias") or key == "mask_emb"]
    if "pre-norm" in name and not name.startswith("distilhubert"):
        invisible += ["encoder.layer_norm.weight", "encoder.layer_norm.bias"]
    assert sorted(blind) == sorted(invisible)


def test_exactly_the_subnets_weights_are_taken_from_a_supernet(tmp_path, relative_differences):
    """A subnet that cuts a block of the feed-forward."""
    path, state = written(EXAMPLES["lighthubert"], tmp_path)
    wavs = noise(8000, 6111)
    states = students.light_states(*students.light_subnet(state, LIGHT, 64, 1, 200), wavs)
    assert max(relative_differences(read_states(path, wavs, subnet="64/1/200"), states)) <= TOLERANCE
    wrong = students.light_states(*students.light_subnet(state, {**LIGHT, "encoder_embed_dim": 512}, 64, 1, 200), wavs)
    assert max(relative_differences(read_states(path, wavs, subnet="64/1/200"), wrong)) > 1e-2


def test_a_subnet_as_wide_as_the_cnn_keeps_its_projection(tmp_path, relative_differences):
    cnn = "[(8, 10, 5)] + [(10, 3, 2)] * 4 + [(128, 2, 2)] * 2"
    path, wavs = tmp_path / "x.pt", noise(8000, 6111)
    state = students.light(path, cfg={**LIGHT, "conv_feature_layers": cnn})
    subnet = students.light_subnet(state, {**LIGHT, "conv_feature_layers": cnn}, 128, 2, 200)
    expected = students.light_states(*subnet, wavs)
    assert max(relative_differences(read_states(path, wavs, subnet="128/2/200"), expected)) <= TOLERANCE


@pytest.mark.parametrize("name", EXAMPLES)
def test_states_have_one_width_and_the_configured_number(name, tmp_path):
    path, _ = written(EXAMPLES[name], tmp_path)
    encoder = registry.read(path).encoder
    states = read_states(path, noise(6000))
    assert len(states) == encoder.config.num_states
    assert {state.shape[-1] for state in states} == {encoder.config.state_dim}
    with torch.no_grad():  # in training, and for states=s3prl
        plain = encoder.states(encoder(noise(6000)[0][None]), StateRule())
    assert len(plain) == encoder.config.num_layers + 1 and plain[0].shape[-1] == encoder.config.embed_dim


@pytest.fixture(scope="module")
def s3prl():
    from s3prl_pruned import compat

    compat.apply()


def s3prl_states(module, path, wavs):
    from importlib import import_module

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch's old weight_norm
        expert = import_module(f"s3prl.upstream.{module}.expert").UpstreamExpert(str(path)).eval()
        return expert([wav.clone() for wav in wavs])["hidden_states"]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("distilhubert")])
def test_distilhuberts_states_equal_those_of_s3prls_expert(name, tmp_path, s3prl, relative_differences):
    path, _ = written(EXAMPLES[name], tmp_path)
    wavs = noise(8000, 6111)
    theirs = s3prl_states("distiller", path, wavs)
    assert len(theirs) == 1 + TINY["encoder_layers"] + (1 if "one" in name else 3)
    assert max(relative_differences(read_states(path, wavs), theirs)) <= TOLERANCE
    with torch.no_grad():
        content = torch.load(path, weights_only=True)
        content["Distiller"]["output_layer.0.bias"] += 0.1
        torch.save(content, path)
    assert max(relative_differences(read_states(path, wavs), theirs)) > 5 * TOLERANCE


def test_lighthuberts_states_equal_those_of_s3prls_expert(tmp_path, s3prl, relative_differences):
    """s3prl only accepts twelve layers."""
    cfg = {**LIGHT, "encoder_layers": 12, "layer_pred_num": "0,0,0,0,0,0,0,0,0,0,0,1"}
    students.light(tmp_path / "lighthubert_small.pt", cfg=cfg)
    wavs = noise(4300, 3111)  # an odd number of frames, which theirs pads
    theirs = s3prl_states("lighthubert", tmp_path / "lighthubert_small.pt", wavs)
    found = read_states(tmp_path / "lighthubert_small.pt", wavs)
    assert len(found) == 13 and max(relative_differences(found, theirs)) <= TOLERANCE
    other = read_states(tmp_path / "lighthubert_small.pt", wavs, subnet="384/6/1535")
    assert max(relative_differences(other, theirs)) > 5 * TOLERANCE


PUBLISHED_CNN = "[(128, 10, 5)] + [(256, 1, 1)] + [(256, 3, 2)] * 4 + [({0}, 1, 1)] + [({0}, 2, 2)] * 2"
BASE_CNN = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
BASE = {**TINY, "conv_pos": 128, "conv_pos_groups": 16, "encoder_layers": 12, "encoder_attention_heads": 12}
MASKHUBERT = {
    **BASE,
    "conv_feature_layers": PUBLISHED_CNN.format(480),
    "encoder_embed_dim": 480,
    "encoder_ffn_embed_dim": 640,
}
STARHUBERT = {
    **BASE,
    "conv_feature_layers": PUBLISHED_CNN.format(432),
    "encoder_embed_dim": 432,
    "encoder_ffn_embed_dim": 976,
    "encoder_attention_heads": 8,
}
WIDE = {"conv_feature_layers": BASE_CNN, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072}
SMALL_SUPERNET = {**BASE, **WIDE, "_name": "hubert_pruner", "pruner_supernet": "conf/Supernet-Small.yaml"}
DISTILHUBERT = {**BASE, **WIDE, "encoder_layers": 2}


def without_memory(shapes, seed):
    """Weights with a single stored number each, so that the file has only a few bytes."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("write", "cfg", "changed", "all_of_it", "heads", "millions"),
    [
        (students.mask, MASKHUBERT, {"dim": 768}, 26_635_840, 4_432_896, "26.64"),  # with heads, mask embedding
        (students.star, STARHUBERT, {}, 22_309_024 - 432, 0, "22.31"),  # without a mask embedding
        (students.distil, DISTILHUBERT, {}, 23_491_200 + 3_543_552, 3_543_552, "23.49"),  # without predictions
        (students.light, SMALL_SUPERNET, {}, 26_873_344, 0, "26.87"),
    ],
    ids=["MaskHuBERT", "STaRHuBERT", "DistilHuBERT", "LightHuBERT small"],
)
def test_published_shapes_have_the_published_numbers_of_parameters(
    write, cfg, changed, all_of_it, heads, millions, tmp_path, monkeypatch
):
    monkeypatch.setattr(students, "weights", without_memory)
    write(tmp_path / "model.ckpt", cfg=cfg, **changed)
    encoder = registry.read(tmp_path / "model.ckpt").encoder
    counted = parameters(encoder.config, encoder.spec)
    own_mask = 0 if write in (students.star, students.distil) else encoder.config.embed_dim  # theirs have none
    assert sum(counted.values()) == encoder.num_parameters() == all_of_it - own_mask + encoder.config.embed_dim
    assert counted.get("state_heads", 0) == heads
    published = all_of_it - (heads if write is students.distil else 0)
    assert f"{published / 1e6:.2f}" == millions
