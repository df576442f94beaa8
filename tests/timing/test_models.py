"""Models' names, and the models built from them; the same shape computes the same in different libraries."""

import json
import re

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import TOLERANCE, relative_difference, save_encoder
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.families import wavlm_base
from s3prl_pruned.sparsity.counts import macs, parameters
from s3prl_pruned.timing import checks, shapes
from s3prl_pruned.timing.models import Builder
from s3prl_pruned.timing.names import parse


@pytest.mark.parametrize("structure, size", [(shapes.even, 26_463_784), (shapes.conc, 26_638_516)])
def test_the_named_structures_have_the_size_they_state(structure, size):
    config = wavlm_base()
    spec = structure(config)
    spec.check(config)
    assert sum(parameters(config, spec).values()) == size
    with torch.device("meta"):
        assert SpeechEncoder(config, spec).num_parameters() == size
    assert sum(macs(config, spec, 80_000).values()) / 1e9 == pytest.approx(18.1, abs=0.1)


def test_even_thins_every_layer_and_conc_empties_the_lower_ones():
    config = wavlm_base()
    even, conc = shapes.even(config), shapes.conc(config)
    assert all(
        [len(h.qk) for h in layer.heads] == [len(h.vo) for h in layer.heads] == [13] * 12 for layer in even.layers
    )
    assert [len(layer.ffn) for layer in even.layers] == [614] * 12
    assert [len(layer.ffn) for layer in conc.layers] == [0] * 3 + [128] * 3 + [1040] * 6
    assert [[len(h.vo) for h in layer.heads] for layer in conc.layers] == [[]] * 6 + [[64] * 6] * 6
    assert not any(layer.attention or layer.feed_forward for layer in conc.layers[:3])


def test_a_name_is_parsed(tmp_path, monkeypatch):
    name = parse("ours:conc+int8+compiled")
    assert (name.library, name.source, name.variants, name.precision) == ("ours", "conc", ("int8", "compiled"), "int8")
    assert parse("s3prl:wavlm_base").precision is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b").mkdir()
    assert parse("a+b").source == "a+b" and parse("a+b").variants == ()
    (tmp_path / "export").mkdir()
    assert parse("export+bf16").precision == "bf16"


@pytest.mark.parametrize(
    "text, message",
    [
        ("ours:conc+int9", "'int9' is no variant.*Did you mean int8"),
        ("our:conc", "must begin with one of .*Did you mean ours"),
        ("dens", "neither an existing path.*Did you mean ours:dense"),
        ("ours:", "a name must follow ours:"),
        ("ours:conc+int8+bf16", "one precision, but .'int8', 'bf16'."),
        ("ours:conc+compiled+compiled", "given twice"),
        ("s3prl:wavlm_base+int8", "int8 is for our own models only, not for s3prl's"),
        ("hf:wavlm_base+reference", "reference is for our own models only"),
        ("s3prl:wavlm_base+ort", "ort is for our own models only"),
        ("ours:conc+ort+openvino", "one runtime, but .'ort', 'openvino'."),
        ("ours:conc+ort+bf16", "ort runs fp32 and int8 only, not bf16"),
    ],
)
def test_a_wrong_name_is_refused_and_the_nearest_named(text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("ours:densee", "must be one of .*Did you mean dense"),
        ("s3prl:wavlm_bas", "random weights exist for .*Did you mean wavlm_base"),
        ("torchaudio:data2vec_base", "no data2vec"),
        ("ours:wavlm_embedded+masked", "a dense model has nothing to mask"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        Builder(random=True).build(parse(text))


def test_an_entry_that_s3prls_hub_lacks_is_refused_without_asking_the_network():
    with pytest.raises(UserError, match="s3prl's hub has no such entry. Did you mean wavlm_base"):
        Builder(random=False).build(parse("s3prl:wavlm_bass"))


def test_trained_weights_are_the_same_under_every_name(wav):
    builder = Builder(random=False)
    made = [builder.build(parse(text)) for text in ("ours:wavlm_embedded", "s3prl:wavlm_embedded")]
    (found,), lost = checks.check_equal(made, wav)
    assert not lost and found["difference"] <= TOLERANCE and {one.weights for one in made} == {"embedded"}


def test_any_entry_of_s3prls_hub_can_be_timed():
    made = Builder(random=False).build(parse("s3prl:fbank"))
    (states,) = made.encode([torch.randn(16_000)])
    assert states.shape[0] == 1 and made.config is None and made.same_as is None


def test_an_unknown_dtype_is_refused():
    for dtype in ("fp8", "int8"):
        with pytest.raises(UserError, match="`dtype` must be fp32, bf16 or fp16, but is"):
            Builder(random=True, precision=dtype)


@pytest.fixture(scope="module")
def builder():
    return Builder(random=True)


@pytest.fixture(scope="module")
def wav():
    return torch.randn(9000, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture(scope="module")
def same(builder):
    """One shape from all libraries."""
    return [builder.build(parse(f"{library}:wavlm_embedded")) for library in ("s3prl", "ours", "hf", "torchaudio")]


def test_all_libraries_get_the_same_weights_and_this_is_checked(same, wav):
    found, lost = checks.check_equal(same, wav)
    assert not lost and [check["models"][0] for check in found] == [
        "ours:wavlm_embedded",
        "hf:wavlm_embedded",
        "torchaudio:wavlm_embedded",
    ]
    assert all(0 <= check["difference"] <= TOLERANCE == check["bound"] for check in found)
    assert len({made.params for made in same[:3]}) == 1
    assert same[3].params == same[0].params - 256  # torchaudio has no mask embedding


def test_models_that_are_called_equal_and_are_not_are_not_timed(same, wav):
    ours = same[1]
    bias = ours.module.layers[0].feed_forward.fc2.bias[:1]  # a change of all dimensions would be normalised away
    bias += 1
    try:
        found, (lost,) = checks.check_equal(same[:2], wav)
        assert not found and lost.name == "ours:wavlm_embedded"
        assert re.match("ours:wavlm_embedded against s3prl:wavlm_embedded: .*not timed as an equal", lost.reason)
    finally:
        bias -= 1


def test_padded_batches_agree_with_s3prl(same, wav):
    with torch.inference_mode():
        s3prl, ours = (made.encode([wav, wav[:5000]]) for made in same[:2])
    assert relative_difference(ours, list(s3prl)) <= TOLERANCE


def test_variants_of_a_structure_compute_what_it_computes(structure_file, wav):
    builder = Builder(random=True)
    variants = ("", "+reference", "+lowmem", "+masked", "+int8", "+bf16")
    made = [builder.build(parse(f"{structure_file}{variant}")) for variant in variants]
    found, lost = checks.check_equal(made, wav)
    bounds = [check["bound"] for check in found]
    assert not lost and bounds == [TOLERANCE] * 3 + [None] * 2
    assert all(1e-4 < check["difference"] < 1 for check in found[3:])
    cut, masked = made[0], made[3]
    assert masked.params > cut.params == sum(parameters(cut.config, cut.spec).values())
    assert checks.check_macs(made) == [one.label for one in made]


def test_the_reference_variant_takes_the_plain_path_and_no_other_model_does(structure_file, wav, monkeypatch):
    from s3prl_pruned.models.accelerate import paths

    builder, table, asked = Builder(random=True), paths.PATHS, []
    original = paths.Derived.get
    monkeypatch.setattr(paths.Derived, "get", lambda self, *args: asked.append(1) or original(self, *args))
    with torch.inference_mode():
        builder.build(parse(f"{structure_file}+reference")).encode([wav])
        assert not asked and paths.PATHS is table
        builder.build(parse(str(structure_file))).encode([wav])
    assert asked


def test_a_structure_has_no_weights(structure_file):
    with pytest.raises(UserError, match="structure without weights. Add --random"):
        Builder(random=False).build(parse(str(structure_file)))


def test_a_compact_spec_alone_is_one_of_wavlm_base(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(shapes.conc(wavlm_base()).to_dict()))
    assert shapes.read_structure(path) == (wavlm_base(), shapes.conc(wavlm_base()))
    for text, message in (("{", "no JSON file"), ("[]", "must hold `layers`"), ('{"layers": []}', "has 0 layers")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            shapes.read_structure(path)


def test_an_exported_folder_is_timed_with_its_own_weights(tmp_path, wav):
    config = tiny_base()
    encoder = random_encoder(config, seed=3, spec=random_spec(config, seed=1))
    save_encoder(tmp_path / "export", encoder, {"teacher_note": "random teacher"})
    made = Builder(random=False).build(parse(str(tmp_path / "export")))
    with torch.inference_mode():
        states = made.encode([wav])
        assert relative_difference(states, encoder(wav[None]).hidden_states) < TOLERANCE
        other = random_encoder(config, seed=4, spec=encoder.spec)
        assert relative_difference(states, other(wav[None]).hidden_states) > 100 * TOLERANCE
    assert made.weights.startswith("random teacher, sha256 ")


@pytest.mark.parametrize("library", ["ours", "s3prl", pytest.param("hf", marks=pytest.mark.slow), "torchaudio"])
def test_compiled_compiles_the_call_that_is_timed(library, wav, monkeypatch):
    """Torchaudio's users call a method, `extract_features`, which `nn.Module.compile` does not compile."""
    seen = []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, mode: compile_with(call, backend=backend))
    torch._dynamo.reset()
    made, plain = (
        Builder(random=True).build(parse(f"{library}:wavlm_embedded{variant}")) for variant in ("+compiled", "")
    )
    with torch.inference_mode():
        states = made.encode([wav])
        assert sum("conv1d" in target for target in seen) >= 8, f"7 of the CNN, one of positions: {seen}"
        assert relative_difference(states, plain.encode([wav])) <= TOLERANCE


def test_autocast_keeps_weights_in_fp32_and_computes_in_less(wav):
    made = Builder(random=True, precision="bf16", autocast=True).build(parse("ours:wavlm_embedded"))
    cast = Builder(random=True).build(parse("ours:wavlm_embedded+bf16"))
    exact = Builder(random=True).build(parse("ours:wavlm_embedded+fp32"))
    assert made.autocast and not cast.autocast and made.precision == cast.precision == "bf16"
    assert {p.dtype for p in made.module.parameters()} == {torch.float32}
    with torch.inference_mode():
        expected = exact.encode([wav])
        for one in (made, cast):
            states = [state.float() for state in one.encode([wav])]
            assert 1e-4 < relative_difference(states, expected) < 0.2, "8 bits of mantissa, 12 sublayers"
    with pytest.raises(UserError, match="autocast is for bf16 and fp16"):
        Builder(random=True).build(parse("ours:wavlm_embedded+autocast"))
