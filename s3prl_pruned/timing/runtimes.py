"""Our ONNX file in other runtimes than torch: ONNX Runtime and OpenVINO, on a CPU.

Both get the file of `formats.onnx`. int8 is ONNX Runtime's dynamic quantisation of that file for both, of the matrix
products only, since its int8 convolutions are slower than fp32 ones.
"""

import logging
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import collate
from s3prl_pruned.formats.onnx import save_onnx
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.timing.adapters import Encode

_PACKAGES = {"ort": "onnxruntime", "openvino": "openvino"}
_Run = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
"""Waveforms (B, S) and lengths (B,) -> L + 1 hidden states (B, T, D)."""


class RuntimeFiles:
    """The ONNX files of a benchmark, each exported once; deleted with this object.

    Args:
        threads: threads of the runtimes.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._folder = tempfile.TemporaryDirectory(prefix="s3prl_pruned_onnx_")
        self._exported: dict[str, Path] = {}

    def encode(self, runtime: str, encoder: SpeechEncoder, identity: str, *, int8: bool) -> Encode:
        """An encoder in a runtime, as a function from waveforms (not normalised) to hidden states.

        Args:
            runtime: one of `names.RUNTIMES`.
            encoder: in fp32, on the CPU, with empty gate slots.
            identity: equal for encoders with the same weights and structure.
            int8: quantise its matrix products.

        Raises:
            UserError: if the runtime is not installed, or the encoder cannot be exported.
        """
        require(runtime)
        return encode_runtime(runtime, self.file(encoder, identity, int8=int8), threads=self.threads)

    def file(self, encoder: SpeechEncoder, identity: str, *, int8: bool) -> Path:
        """The ONNX file of an encoder; arguments as in `encode`."""
        if identity not in self._exported:
            path = Path(self._folder.name) / f"{len(self._exported)}.onnx"
            save_onnx(path, encoder)
            self._exported[identity] = path
        path = self._exported[identity]
        if int8:
            source, path = path, path.with_suffix(".int8.onnx")
            if not path.exists():
                quantize(source, path)
        return path


def require(runtime: str) -> None:
    """Raise UserError if the package of one of `names.RUNTIMES` is not installed."""
    package = _PACKAGES[runtime]
    if find_spec(package) is None:
        extra = {"ort": "onnx", "openvino": "openvino"}[runtime]
        raise UserError(f"{package} is not installed: pip install 's3prl_pruned[{extra}]'")


def quantize(source: Path, target: Path) -> None:
    """Write an ONNX file whose matrix products have int8 weights and quantise their other input dynamically."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # its warning advises preprocessing that our file does not need
    try:
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)


def encode_runtime(runtime: str, path: Path, *, threads: int) -> Encode:
    """An ONNX file of ours as a function from waveforms (not normalised) to hidden states.

    Args:
        runtime: one of `names.RUNTIMES`.
        path: file made by `formats.onnx.save_onnx`, or from such a file by `quantize`.
        threads: threads of the runtime.
    """
    run = {"ort": _onnxruntime, "openvino": _openvino}[runtime](path, threads)

    def encode(wavs: list[Tensor]) -> list[Tensor]:
        padded, lengths = collate(wavs)
        return [torch.from_numpy(state) for state in run(padded.numpy(), lengths.numpy())]

    return encode


def _onnxruntime(path: Path, threads: int) -> _Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda wavs, lengths: session.run(None, {"waveform": wavs, "lengths": lengths})


def _openvino(path: Path, threads: int) -> _Run:
    import openvino

    wanted = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # its default is bf16 if the processor has it
    }
    request = openvino.Core().compile_model(str(path), "CPU", wanted).create_infer_request()

    def run(wavs: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        request.infer({"waveform": wavs, "lengths": lengths})
        return [np.array(output.data) for output in request.output_tensors]  # its buffers are overwritten

    return run
