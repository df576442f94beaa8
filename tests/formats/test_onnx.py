"""ONNX: any batch size and length, the same states as the encoder, or no file."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats import onnx
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig

onnxruntime = pytest.importorskip("onnxruntime", reason="only the extras `onnx` and `test` install it")
pytest.importorskip("onnxscript")

SHAPES = tiny_families()


def run(path, encoder, lengths):
    """States of ONNX Runtime and of the encoder, on noise that was not used in the export."""
    generator = torch.Generator().manual_seed(7)
    wavs = [torch.randn(length, generator=generator) * 0.3 + 0.05 for length in lengths]
    batch, lengths = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), torch.tensor(lengths)
    found = onnxruntime.InferenceSession(str(path)).run(None, {"waveform": batch.numpy(), "lengths": lengths.numpy()})
    with torch.no_grad():
        return [torch.from_numpy(state) for state in found], encoder.encode_raw(batch, lengths).hidden_states


def one_layer(name):
    config = replace(SHAPES[name], num_layers=1)
    spec = random_spec(config, seed=4, channels="wavlm" in name)
    if name == "wavlm_base":
        spec = replace(spec, position_groups=(0, 2, 3))
    return random_encoder(config, seed=1, spec=spec)


def check(path, encoder, relative_differences):
    # the last one: mostly padding in a long utterance, where fp32 sums drift in ONNX Runtime
    for lengths in [(4000, 3111), (16_000, 10_667), (5321,), (8000, 2500, 700, 260), (260, 260), (100_000, 30_000)]:
        assert max(relative_differences(*run(path, encoder, list(lengths)))) <= 2e-5


@pytest.mark.parametrize("name", ["wavlm_base", pytest.param("wavlm_large", marks=pytest.mark.slow)])
def test_onnx_runtime_computes_the_states_at_any_batch_and_length(name, tmp_path, relative_differences):
    encoder = one_layer(name)
    assert encoder.spec.has_attention
    onnx.save_onnx(tmp_path / "x.onnx", encoder, provenance={"teacher_note": "random teacher"})
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    assert [(i.name, i.type, len(i.shape)) for i in session.get_inputs()] == [
        ("waveform", "tensor(float)", 2),
        ("lengths", "tensor(int64)", 1),
    ]
    assert not any(isinstance(size, int) for i in session.get_inputs() for size in i.shape), "no size may be fixed"
    assert [o.name for o in session.get_outputs()] == ["hidden_state_0", "hidden_state_1"]
    check(tmp_path / "x.onnx", encoder, relative_differences)
    check_good_citizen(tmp_path / "x.onnx", encoder)


def check_good_citizen(path, encoder):
    """Tools of other programs accept the file with their defaults, and it has a description."""
    from onnx import checker, load, shape_inference
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(path, path.with_name("small.onnx"))
    assert path.with_name("small.onnx").stat().st_size
    lengths = [4000, 3111]
    found, expected = run(path.with_name("small.onnx"), encoder, lengths)
    for small, state in zip(found, expected):
        assert 0 < float((small - state).norm() / state.norm()) < 0.2  # 8 bits, one scale per matrix
    model = load(path)
    checker.check_model(model, full_check=True)
    shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    constants = {tensor.name for tensor in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input}
    assert constants <= used
    assert not [node.op_type for node in model.graph.node if node.input and set(node.input) <= constants]
    facts = {fact.key: fact.value for fact in model.metadata_props}
    assert (model.producer_name, facts["sampling_rate"]) == ("s3prl_pruned", "16000") and "16 kHz" in model.doc_string
    assert from_dict(EncoderConfig, json.loads(facts["encoder"]), "metadata") == encoder.config
    assert json.loads(facts["provenance"]) == {"teacher_note": "random teacher"}
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "samples"]
    assert __file__.split("/tests/")[0] not in str(model), "paths of this machine must not be in the file"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_every_family_is_exported(name, tmp_path, relative_differences):
    # The output of a LayerNorm over one channel does not depend on its input, and later layers then amplify rounding
    # errors: with seed 7, three or more channels are kept.
    spec = random_spec(SHAPES[name], seed=7, channels="large" in name, positions="large" in name)
    encoder = random_encoder(SHAPES[name], seed=1, spec=spec)
    onnx.save_onnx(tmp_path / "x.onnx", encoder)
    check(tmp_path / "x.onnx", encoder, relative_differences)


@pytest.fixture(scope="module")
def exported():
    """An encoder and its graph, which takes torch's exporter some seconds."""
    encoder = one_layer("data2vec_base")
    return encoder, onnx._graph(encoder)


@pytest.fixture
def encoder(exported, monkeypatch):
    """An encoder whose graph is already computed."""
    from onnx import ModelProto

    encoder, graph = exported
    monkeypatch.setattr(onnx, "_graph", lambda _: ModelProto.FromString(graph.SerializeToString()))
    return encoder


def test_the_file_is_valid_and_its_weights_are_the_encoders_bit_for_bit(encoder, tmp_path):
    from onnx import checker, load, numpy_helper

    written = []
    onnx.save_onnx(tmp_path / "x.onnx", encoder, progress=written.append)
    assert sum(written) == (tmp_path / "x.onnx").stat().st_size
    model = load(tmp_path / "x.onnx")
    checker.check_model(model, full_check=True)
    assert [given.name for given in model.graph.input] == list(onnx.INPUTS)
    found = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    weights = {name: weight.detach().numpy() for name, weight in encoder.named_parameters() if name != "mask_embedding"}
    linear = {name for name, weight in weights.items() if weight.ndim == 2}
    for name, weight in weights.items():  # linear maps are stored transposed, so that no call has to transpose them
        assert any(np.array_equal(weight.T if name in linear else weight, other) for other in found), name
    transposed = {node.input[0] for node in model.graph.node if node.op_type == "Transpose"}
    assert not transposed & {tensor.name for tensor in model.graph.initializer}


def test_an_export_that_differs_from_its_source_leaves_no_file(encoder, tmp_path, monkeypatch):
    wrong = one_layer("data2vec_base")
    with torch.no_grad():
        wrong.layer_norm.bias[0] += 0.01
    write = onnx._write
    monkeypatch.setattr(onnx, "_write", lambda path, graph, encoder, progress: write(path, graph, wrong, progress))
    with pytest.raises(
        UserError,
        match=r"x.onnx: on \(2, 16000\) samples ONNX Runtime differs from the encoder by .*Nothing was written",
    ):
        onnx.save_onnx(tmp_path / "x.onnx", encoder)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_onnx_runtime_cannot_load_is_not_left(encoder, tmp_path, monkeypatch):
    field = onnx._field
    monkeypatch.setattr(onnx, "_field", lambda number, length: field(number, length + (number == 9)))
    with pytest.raises(UserError, match=r"x.onnx: ONNX Runtime cannot load the export .*Nothing was written"):
        onnx.save_onnx(tmp_path / "x.onnx", encoder)
    assert list(tmp_path.iterdir()) == []


def test_an_export_with_a_fixed_length_leaves_no_file(tmp_path, monkeypatch):
    def fixed(encoder):
        wavs, lengths = onnx.probe(scale=1)
        names, weights = zip(*encoder.named_parameters())
        program = torch.export.export(onnx._Exported(encoder), (wavs, lengths, list(weights)), strict=False)
        return torch.onnx.export(
            program, (), dynamo=True, input_names=[*onnx.INPUTS, *names], verbose=False
        ).model_proto

    monkeypatch.setattr(onnx, "_graph", fixed)
    with pytest.raises(
        UserError, match=r"ONNX Runtime cannot run the export on \(1, 24000\) samples .*Nothing was written"
    ):
        onnx.save_onnx(tmp_path / "x.onnx", one_layer("data2vec_base"))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_exporter_is_one_clear_error(tmp_path, monkeypatch):
    encoder = one_layer("hubert_base")
    encode = encoder.encode_raw
    monkeypatch.setattr(
        encoder, "encode_raw", lambda wavs, lengths: encode(wavs, lengths if wavs.sum() < 1e9 else None)
    )
    with pytest.raises(UserError, match="cannot export this encoder to ONNX .*Nothing was written"):
        onnx.save_onnx(tmp_path / "x.onnx", encoder)
    (tmp_path / "x.onnx").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        onnx.save_onnx(tmp_path / "x.onnx", encoder)
    assert (tmp_path / "x.onnx").read_text() == "mine"


def test_an_encoder_too_large_for_protobuf_is_refused_at_once(tmp_path):
    with torch.device("meta"):
        large = SpeechEncoder(replace(SHAPES["hubert_base"], embed_dim=2048, ffn_dim=2**16))
    with pytest.raises(UserError, match="x.onnx: an ONNX file holds at most 2 GiB, but this encoder takes 3"):
        onnx.save_onnx(tmp_path / "x.onnx", large)
