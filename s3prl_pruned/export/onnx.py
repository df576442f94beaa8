"""ONNX with dynamic batch and length, compared with its source at lengths that it was not exported at."""

import logging
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.export.formats import TOLERANCE, probe, relative_difference
from s3prl_pruned.models.encoder import SpeechEncoder

INPUTS = ("waveform", "lengths")


class _Exported(nn.Module):
    """What the file computes: waveform (B, S) float32 and lengths (B,) int64 -> L + 1 hidden states (B, T, D)."""

    def __init__(self, encoder: SpeechEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder.encode_raw(waveform, lengths).hidden_states)


def output_names(encoder: SpeechEncoder) -> list[str]:
    """`hidden_state_0`, the first layer's input, to `hidden_state_L`, the encoder's output."""
    return [f"hidden_state_{i}" for i in range(encoder.config.num_layers + 1)]


def save_onnx(path: str | Path, encoder: SpeechEncoder) -> None:
    """Export an encoder, dense or compact, and prove that ONNX Runtime computes the same.

    Inputs: `waveform` (B, S) float32, 16 kHz, as recorded, zero-padded; `lengths` (B,) int64, samples of each. Outputs:
    `output_names`. B and S are free; an utterance has at least two frames. torch's exporter is slow (two minutes for a
    pruned Base on one thread) and takes about five times the model's memory.

    Args:
        path: must not exist yet.
        encoder: on the CPU, its slots empty.

    Raises:
        UserError: the path exists, onnx, onnxscript or onnxruntime is missing, the exporter gives up, or the file
            differs from the encoder (no file is left then).
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path}: exists already, and an export never overwrites. Name another path, or move it.")
    _require("onnx", "onnxscript", "onnxruntime")
    temporary = path.with_name(f".{path.stem}.tmp.onnx")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _export(encoder.eval(), temporary)
        _check(temporary, encoder, path)
        os.rename(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error}). Free space or name another path.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _export(encoder: SpeechEncoder, path: Path) -> None:
    any_size = torch.export.Dim.DYNAMIC  # the exporter must fail rather than fix a size silently
    wavs, lengths = probe(scale=1)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                _Exported(encoder), (wavs, lengths), dynamic_shapes=({0: any_size, 1: any_size}, {0: any_size}), strict=False
            )
            torch.onnx.export(
                program,
                (),
                path,
                dynamo=True,
                input_names=list(INPUTS),
                output_names=output_names(encoder),
                external_data=False,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # the exporter's own errors are of many kinds
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise UserError(f"torch {torch.__version__} cannot export this encoder to ONNX ({reason}). Nothing was written.") from error


def _check(file: Path, encoder: SpeechEncoder, path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    for scale, batch in ((1, 2), (2, 3), (0.5, 1)):  # the first is what it was exported at
        wavs, lengths = probe(scale=scale, batch=batch)
        with torch.no_grad():
            expected = encoder.encode_raw(wavs, lengths).hidden_states
        try:
            found = session.run(None, {"waveform": wavs.numpy(), "lengths": lengths.numpy()})
        except Exception as error:  # onnxruntime has its own exceptions
            reason = str(error).strip().splitlines()[0][:300]
            raise UserError(f"{path}: ONNX Runtime cannot run the export on {tuple(wavs.shape)} samples ({reason}). Nothing was written.") from error  # fmt: skip
        difference = relative_difference([torch.from_numpy(state) for state in found], expected)
        if not difference <= TOLERANCE:  # NaN too
            raise UserError(
                f"{path}: on {tuple(wavs.shape)} samples ONNX Runtime differs from the encoder by {difference:.1e} "
                f"(relative), and at most {TOLERANCE:.0e} is rounding. Nothing was written; please report this."
            )


def _require(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UserError(f"ONNX export needs {', '.join(missing)}: pip install 's3prl_pruned[onnx]'")


class _quiet:
    """The exporter reports on every optional package that it did not find."""

    def __enter__(self):
        self.logger = logging.getLogger("torch.onnx")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *error):
        self.logger.setLevel(self.level)
