"""ONNX with dynamic batch size and length, compared with its source at lengths other than the exported one.

torch's exporter and protobuf would each copy the model several times. Therefore the weights are inputs of the exported
graph, and the file's initializers are written one by one; ONNX Runtime loads the file after the encoder can be freed.
Values that the graph would compute from weights alone are computed once, here: other programs (ONNX Runtime's
quantiser) expect the weight of a convolution among the initializers.
"""

import gc
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import s3prl_pruned
from s3prl_pruned.checkpoint import sync
from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.formats.folder import TOLERANCE, probe, relative_difference
from s3prl_pruned.formats.format import Format, Source, WriteOptions
from s3prl_pruned.formats.tensor_files import CountedFile, Progress
from s3prl_pruned.models.encoder import SpeechEncoder

INPUTS = ("waveform", "lengths")
LARGEST = 2**31 - 1
"""Largest size of a protobuf message, and so of an ONNX file, in bytes."""
_FIRST_STATE = {
    "input": "hidden_state_0 is the first layer's input, the last the output",
    "projection": "hidden_state_0 is the projection's output, the others are the layers'",
    "none": "hidden_state_0 is the first layer's output, the others are the other layers'",
}
_OF_HEADS = {"maps": ", each mapped to another width", "predictions": ", followed by predictions of its teacher's"}
_PROBES = ((1, 2), (1.5, 1), (0.5, 3))
"""Values of `scale` and `batch` for `probe`; the first pair is used for the export."""


def output_names(encoder: SpeechEncoder) -> list[str]:
    """`hidden_state_0` and so on, for the states that the model publishes (`EncoderConfig.states`)."""
    return [f"hidden_state_{i}" for i in range(encoder.config.num_states)]


def save_onnx(
    path: str | Path,
    encoder: SpeechEncoder,
    *,
    progress: Progress | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Export an encoder, dense or compact, and check that ONNX Runtime computes the same (a finished `Draft`).

    Inputs: `waveform` (B, S) float32, 16 kHz, unnormalised, zero-padded; `lengths` (B,) int64, samples of each.
        Outputs:
    `output_names`, (B, T, D) each. B and S are free. An utterance has at least two frames, and for an encoder with
    windows at most one window (Whisper's 30 s): ONNX Runtime fails beyond these. torch's exporter is slow: the graph of
    a pruned Base takes a minute on one thread.

    Args:
        path: the file; must not exist.
        encoder: fp32, on the CPU, with empty slots.
        progress: called with the number of bytes just written.
        provenance: JSON data on the model's origin, for the metadata of the file.

    Raises:
        UserError: as in the methods of `Draft`; then no file is left.
    """
    with Draft(path) as draft:
        draft.write(encoder, progress=progress, provenance=provenance)
        draft.finish()


class Draft:
    """An ONNX file under a temporary name; after an error, no file is left.

    Writing and checking are separate steps, so that the encoder can be freed in between: each holds one model.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.stem}.tmp.onnx")
        self.expected: list[_Expected] = []

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *error: object) -> None:
        self.temporary.unlink(missing_ok=True)

    def write(
        self,
        encoder: SpeechEncoder,
        *,
        progress: Progress | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the file, and keep the encoder's outputs for the check.

        Args:
            encoder: fp32, on the CPU, with empty slots.
            progress: called with the number of bytes just written.
            provenance: as in `save_onnx`.

        Raises:
            UserError: the path exists, onnx, onnxscript or onnxruntime is missing, the model is larger than 2 GiB, or
                the exporter fails.
        """
        if self.path.exists():
            raise UserError(
                f"{self.path}: exists already, and an export never overwrites. Name another path, or move it."
            )
        _require("onnx", "onnxscript", "onnxruntime")
        size = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
        if size > LARGEST - 2**26:  # the graph needs some megabytes
            raise UserError(
                f"{self.path}: an ONNX file holds at most 2 GiB, but this encoder takes {size / 2**30:.1f}. Export a "
                "pruned or a smaller one."
            )
        encoder.eval()
        self.expected = [_Expected.of(encoder, scale=scale, batch=batch) for scale, batch in _PROBES]
        model = _graph(encoder)
        _describe(model, encoder, provenance or {})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.temporary, model, encoder, progress)
        except OSError as error:
            raise UserError(f"{self.path}: could not be written ({error}). Free space or name another path.") from error

    def finish(self) -> None:
        """Compare ONNX Runtime with the encoder's outputs, and give the file its final name.

        Raises:
            UserError: ONNX Runtime cannot run the file, or its states differ.
        """
        import onnxruntime

        gc.collect()  # modules and the exporter's objects refer to each other and to the weights
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # these options keep memory for the next call
        options.add_session_config_entry("session.disable_prepacking", "1")  # it makes a second copy of the weights
        try:
            session = onnxruntime.InferenceSession(str(self.temporary), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has its own exceptions
            raise UserError(
                f"{self.path}: ONNX Runtime cannot load the export ({_reason(error)}). Nothing was written."
            ) from error
        for expected in self.expected:
            expected.check(session, self.path)
        os.rename(self.temporary, self.path)


@dataclass
class _Expected:
    """The encoder's outputs for noise: waveforms (B, S), lengths (B,), hidden states (B, T, D)."""

    wavs: Tensor
    lengths: Tensor
    states: list[Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, encoder: SpeechEncoder, *, scale: float, batch: int) -> "_Expected":
        wavs, lengths = probe(scale=scale, batch=batch)
        return cls(wavs, lengths, encoder.states(encoder.encode_raw(wavs, lengths)))

    def check(self, session: Any, path: Path) -> None:
        size = tuple(self.wavs.shape)
        try:
            found = session.run(None, {"waveform": self.wavs.numpy(), "lengths": self.lengths.numpy()})
        except Exception as error:  # onnxruntime has its own exceptions
            raise UserError(
                f"{path}: ONNX Runtime cannot run the export on {size} samples ({_reason(error)}). Nothing was written."
            ) from error
        difference = relative_difference([torch.from_numpy(state) for state in found], self.states)
        if not difference <= TOLERANCE:  # NaN too
            raise UserError(
                f"{path}: on {size} samples ONNX Runtime differs from the encoder by {difference:.1e} (relative), but "
                f"rounding explains at most {TOLERANCE:.0e}. Nothing was written; please report this."
            )


class _States(nn.Module):
    """The exported computation."""

    def __init__(self, encoder: SpeechEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Waveform (B, S) float32 and lengths (B,) int64 -> hidden states that the model publishes, (B, T, D) each."""
        return tuple(self.encoder.states(self.encoder.encode_raw(waveform, lengths)))


class _Exported(nn.Module):
    """`_States` with the weights as arguments, since the exporter would keep references to parameters."""

    def __init__(self, encoder: SpeechEncoder):
        super().__init__()
        self.states = (_States(encoder),)  # modules in a tuple are not registered
        self.names = [f"encoder.{name}" for name, _ in encoder.named_parameters()]

    def forward(self, waveform: Tensor, lengths: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
        """As in `_States`, with `weights` in the order of `self.names`, in the shapes of their parameters."""
        named = dict(zip(self.names, weights, strict=True))
        return torch.func.functional_call(self.states[0], named, (waveform, lengths))


def _graph(encoder: SpeechEncoder) -> Any:
    """The encoder's graph as onnx's `ModelProto`; its weights are inputs after `INPUTS`, with their own names."""
    any_size = torch.export.Dim.DYNAMIC  # the exporter must fail rather than fix a size silently
    scale, batch = _PROBES[0]
    wavs, lengths = probe(scale=scale, batch=batch)
    names, weights = zip(*encoder.named_parameters(), strict=True)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                _Exported(encoder),
                (wavs, lengths, list(weights)),
                dynamic_shapes=({0: any_size, 1: any_size}, {0: any_size}, [None] * len(weights)),
                strict=False,
            )
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=[*INPUTS, *names],
                output_names=output_names(encoder),
                verbose=False,
            )
            assert exported is not None, "with `dynamo` and without a file, it is returned"
            return exported.model_proto
    except Exception as error:  # the exporter raises many kinds of errors
        raise UserError(
            f"torch {torch.__version__} cannot export this encoder to ONNX ({_reason(error)}). Nothing was written."
        ) from error


def _write(path: Path, model: Any, encoder: SpeechEncoder, progress: Progress | None) -> None:
    """Write `model` with the encoder's weights as initializers, one after the other.

    A protobuf message is a sequence of fields, each with its number, and with its length if that varies. The graph is
    field 7 of `ModelProto`, an initializer is field 5 of `GraphProto`, its bytes are field 9 of `TensorProto` (onnx's
    `onnx.proto`).
    """
    weights = _initializers(model, {name: weight.detach().numpy() for name, weight in encoder.named_parameters()})
    del model.graph.input[len(INPUTS) :]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    heads = list(_heads(weights))
    size = len(graph) + sum(len(head) for head in heads) + sum(weight.nbytes for weight in weights.values())
    with open(path, "wb") as file:
        counted = CountedFile(file, progress)
        counted.write(model.SerializeToString() + _field(7, size) + graph)
        for head, weight in zip(heads, weights.values(), strict=True):
            counted.write(head)
            counted.write(np.ascontiguousarray(weight))
    sync(path)


def _initializers(model: Any, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights that the graph uses, by name.

    Nodes that depend on weights and constants only (transposed linear maps, the normalised weight of a convolution) are
    removed from the graph, and their result becomes a weight.
    """
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    known = {**weights, **{tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}}
    for node in list(graph.node):
        if node.input and all(name in known for name in node.input):
            results = ReferenceEvaluator(node, opsets=opsets).run(None, {name: known[name] for name in node.input})
            known |= zip(node.output, map(np.asarray, results), strict=True)
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)
    used -= {tensor.name for tensor in graph.initializer}
    return {name: weight for name, weight in known.items() if name in used}


def _describe(model: Any, encoder: SpeechEncoder, provenance: Mapping[str, Any]) -> None:
    """Add a description to the file, and remove paths on this machine from its nodes."""
    from onnx import helper

    for node in model.graph.node:
        del node.metadata_props[:]
    _name_sizes(model.graph)
    config = encoder.config
    model.producer_name, model.producer_version = "s3prl_pruned", s3prl_pruned.__version__
    model.graph.name = f"{config.family} encoder"
    model.doc_string = (
        f"A {config.family} speech encoder. waveform: (batch, samples) float32, 16 kHz, unnormalised, zero-padded at "
        f"its end; lengths: samples of each utterance; {_FIRST_STATE[config.states.first]}"
        f"{_OF_HEADS[config.states.heads.kind] if config.states.heads else ''}."
    )
    facts = {
        "family": config.family,
        "sampling_rate": 16_000,
        "parameters": encoder.num_parameters(),
        "encoder": to_dict(config),
        "provenance": dict(provenance),
    }
    texts = {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items()}
    helper.set_model_props(model, texts)


def _name_sizes(graph: Any) -> None:
    """Name the free sizes `batch` and `samples`, also in sizes that are computed from them."""
    batch, samples = (dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim)
    names = {batch: "batch", samples: "samples"}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), dim.dim_param)


def _heads(weights: dict[str, np.ndarray]) -> Iterator[bytes]:
    """Header of each weight, which is followed by the weight's bytes."""
    from onnx import TensorProto, helper

    for name, weight in weights.items():
        kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
        tensor = TensorProto(name=name, dims=weight.shape, data_type=kind).SerializeToString()
        tensor += _field(9, weight.nbytes)
        yield _field(5, len(tensor) + weight.nbytes) + tensor


def _field(number: int, length: int) -> bytes:
    """Header of a protobuf field of `length` bytes: both numbers as varints (groups of 7 bits, lowest first)."""
    head = bytearray([number << 3 | 2])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length])


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _require(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UserError(f"ONNX export needs {', '.join(missing)}: pip install 's3prl_pruned[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which reports every optional package that it does not find."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _recognise(source: Source) -> bool:
    return not source.is_folder and source.suffix == ".onnx"


def _write_format(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    save_onnx(path, encoder, progress=options.progress, provenance=options.provenance)


FORMAT = Format(
    name="onnx",
    about="ONNX",
    recognise=_recognise,
    write=_write_format,
    holds_pruned=True,
)
