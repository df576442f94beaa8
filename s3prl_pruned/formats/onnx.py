"""ONNX with dynamic batch and length, compared with its source at lengths that it was not exported at.

torch's exporter and protobuf would each copy the model several times. So the weights are inputs of the graph that is
exported, and the file's initializers are written one by one; ONNX Runtime loads the file when the encoder may be gone.
"""

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import TOLERANCE, probe, relative_difference
from s3prl_pruned.formats.format import Format, Source, WriteOptions
from s3prl_pruned.formats.tensor_files import CountedFile, Progress
from s3prl_pruned.models.encoder import SpeechEncoder

INPUTS = ("waveform", "lengths")
LARGEST = 2**31 - 1
"""Bytes of a protobuf message, and so of an ONNX file."""
_PROBES = ((1, 2), (1.5, 1), (0.5, 3))
"""`scale` and `batch` of `probe`; the first is exported at."""


def output_names(encoder: SpeechEncoder) -> list[str]:
    """`hidden_state_0`, the first layer's input, to `hidden_state_L`, the encoder's output."""
    return [f"hidden_state_{i}" for i in range(encoder.config.num_layers + 1)]


def save_onnx(path: str | Path, encoder: SpeechEncoder, *, progress: Progress | None = None) -> None:
    """Export an encoder, dense or compact, and prove that ONNX Runtime computes the same (a `Draft`, finished).

    Inputs: `waveform` (B, S) float32, 16 kHz, as recorded, zero-padded; `lengths` (B,) int64, samples of each. Outputs:
    `output_names`, (B, T, D) each. B and S are free; an utterance has at least two frames. torch's exporter is slow:
    the graph of a pruned Base takes a minute on one thread.

    Args:
        path: the file; must not exist.
        encoder: fp32, on the CPU, its slots empty.
        progress: called with the number of bytes just written.

    Raises:
        UserError: as `Draft`'s methods; no file is left then.
    """
    with Draft(path) as draft:
        draft.write(encoder, progress=progress)
        draft.finish()


class Draft:
    """An ONNX file under a temporary name; there is never another one of it, and none after an error.

    Writing and checking are two steps, so that the encoder's memory can be given back in between: each takes one model.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.stem}.tmp.onnx")
        self.expected: list[_Expected] = []

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *error: object) -> None:
        self.temporary.unlink(missing_ok=True)

    def write(self, encoder: SpeechEncoder, *, progress: Progress | None = None) -> None:
        """Write the file, and remember what the encoder computes.

        Args:
            encoder: fp32, on the CPU, its slots empty.
            progress: called with the number of bytes just written.

        Raises:
            UserError: the path exists, onnx, onnxscript or onnxruntime is missing, the model is over 2 GiB, or the
                exporter gives up.
        """
        if self.path.exists():
            raise UserError(
                f"{self.path}: exists already, and an export never overwrites. Name another path, or move it."
            )
        _require("onnx", "onnxscript", "onnxruntime")
        size = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
        if size > LARGEST - 2**26:  # the graph takes some megabytes
            raise UserError(
                f"{self.path}: an ONNX file holds at most 2 GiB, and this encoder takes {size / 2**30:.1f}. Export a "
                "pruned or a smaller one."
            )
        encoder.eval()
        self.expected = [_Expected.of(encoder, scale=scale, batch=batch) for scale, batch in _PROBES]
        graph = _graph(encoder)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.temporary, graph, encoder, progress)
        except OSError as error:
            raise UserError(f"{self.path}: could not be written ({error}). Free space or name another path.") from error

    def finish(self) -> None:
        """Give the file its name, if ONNX Runtime computes what the encoder computed.

        Raises:
            UserError: it cannot run the file, or its states differ.
        """
        import onnxruntime

        gc.collect()  # modules and the exporter's objects hold one another, and the weights
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # they keep memory for the next call
        options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of the weights, for speed
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
    """What the encoder computes of noise: waveforms (B, S), lengths (B,), hidden states (B, T, D)."""

    wavs: Tensor
    lengths: Tensor
    states: list[Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, encoder: SpeechEncoder, *, scale: float, batch: int) -> "_Expected":
        wavs, lengths = probe(scale=scale, batch=batch)
        return cls(wavs, lengths, encoder.encode_raw(wavs, lengths).hidden_states)

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
                f"{path}: on {size} samples ONNX Runtime differs from the encoder by {difference:.1e} (relative), and "
                f"at most {TOLERANCE:.0e} is rounding. Nothing was written; please report this."
            )


class _States(nn.Module):
    """What the file computes."""

    def __init__(self, encoder: SpeechEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Waveform (B, S) float32 and lengths (B,) int64 -> L + 1 hidden states (B, T, D)."""
        return tuple(self.encoder.encode_raw(waveform, lengths).hidden_states)


class _Exported(nn.Module):
    """`_States` whose weights are arguments: no parameters of its own, which the exporter would keep hold of."""

    def __init__(self, encoder: SpeechEncoder):
        super().__init__()
        self.states = (_States(encoder),)  # a tuple's modules are not registered
        self.names = [f"encoder.{name}" for name, _ in encoder.named_parameters()]

    def forward(self, waveform: Tensor, lengths: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
        """As `_States`, with `weights` in the order of `self.names`, each in its parameter's shape."""
        named = dict(zip(self.names, weights, strict=True))
        return torch.func.functional_call(self.states[0], named, (waveform, lengths))


def _graph(encoder: SpeechEncoder) -> Any:
    """The encoder's graph as onnx's `ModelProto`; its weights are inputs behind `INPUTS`, under their own names."""
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
            assert exported is not None, "with `dynamo` and without a file it is given back"
            return exported.model_proto
    except Exception as error:  # the exporter's own errors are of many kinds
        raise UserError(
            f"torch {torch.__version__} cannot export this encoder to ONNX ({_reason(error)}). Nothing was written."
        ) from error


def _write(path: Path, model: Any, encoder: SpeechEncoder, progress: Progress | None) -> None:
    """Write `model` with the encoder's weights as initializers, one after the other.

    A protobuf message is its fields in a row, each with its number, and its length where it is long: the graph is field
    7 of `ModelProto`, an initializer field 5 of `GraphProto`, its bytes field 9 of `TensorProto` (onnx's `onnx.proto`).
    """
    weights = _initializers(model.graph, {name: weight.detach() for name, weight in encoder.named_parameters()})
    del model.graph.input[len(INPUTS) :]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    heads = list(_heads(weights))
    size = len(graph) + sum(len(head) for head in heads) + sum(_bytes(weight) for weight in weights.values())
    with open(path, "wb") as file:
        counted = CountedFile(file, progress)
        counted.write(model.SerializeToString() + _field(7, size) + graph)
        for head, weight in zip(heads, weights.values(), strict=True):
            counted.write(head)
            counted.write(np.ascontiguousarray(weight.numpy()))
        file.flush()
        os.fsync(file.fileno())


def _initializers(graph: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the graph uses, by name. What it only transposes (linear layers) is transposed here instead."""
    weights = dict(weights)
    for node in list(graph.node):
        if node.op_type == "Transpose" and node.input[0] in weights:
            (order,) = (attribute.ints for attribute in node.attribute if attribute.name == "perm")
            weights[node.output[0]] = weights[node.input[0]].permute(*order)
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    return {name: weight for name, weight in weights.items() if name in used}


def _heads(weights: dict[str, Tensor]) -> Iterator[bytes]:
    """What stands before each weight's own bytes."""
    from onnx import TensorProto, helper

    for name, weight in weights.items():
        kind = helper.np_dtype_to_tensor_dtype(weight.numpy().dtype)
        tensor = TensorProto(name=name, dims=weight.shape, data_type=kind).SerializeToString() + _field(
            9, _bytes(weight)
        )
        yield _field(5, len(tensor) + _bytes(weight)) + tensor


def _field(number: int, length: int) -> bytes:
    """Protobuf's beginning of a field of `length` bytes: both numbers in groups of 7 bits, the lowest first."""
    head = bytearray([number << 3 | 2])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length])


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _require(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UserError(f"ONNX export needs {', '.join(missing)}: pip install 's3prl_pruned[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports on every optional package that it did not find."""
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
    save_onnx(path, encoder, progress=options.progress)


FORMAT = Format(
    name="onnx",
    about="ONNX",
    recognise=_recognise,
    write=_write_format,
    holds_pruned=True,
)
