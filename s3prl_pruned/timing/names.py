"""Parsing models' names on the command line, without building anything."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError

GRAMMAR = """\
model names: NAME[+VARIANT]..., such as ours:conc+int8
  PATH              exported folder, training checkpoint (timed under its masks), any other
                    checkpoint; or JSON with --random: a CompactSpec of WavLM Base, or the
                    config.json of an export
  ours:dense        WavLM Base in our encoder
  ours:even         26.46 M parameters, all layers pruned equally
  ours:conc         26.64 M parameters, concentrated in layers 6-11
  ours:SHAPE        a public dense model: wavlm_large, hubert_base, wavlm_embedded, ...
  peer:NAME         a published compressed encoder in our encoder, with random weights:
                    distilhubert, distilhubert_predictions, lighthubert_small, lighthubert_base,
                    student_hubert, maskhubert, diarizen_base_s80, diarizen_large_s80
  s3prl:NAME        any name in s3prl.hub
  hf:NAME           a transformers model: a shape, a name on the Hugging Face Hub, or a folder
  torchaudio:NAME   a torchaudio pipeline's shape, such as wavlm_base
variants:
  fp32, bf16, fp16  weights and input (instead of --dtype)
  int8              ours and peer: linear layers with int8 weights, activations quantized dynamically
  autocast          with bf16 or fp16: keep fp32 weights and use torch.autocast
  compiled          torch.compile; for ours on CUDA: CUDA graphs by length
  ort, openvino     ours on a CPU: our ONNX file in that runtime; with int8, quantized by onnxruntime
  masked            ours:even, ours:conc and CompactSpecs: the dense model with masks, not pruned
  reference         ours: the simplest implementation
  lowmem            ours: the implementation that needs least memory
"""

LIBRARIES = ("ours", "peer", "s3prl", "hf", "torchaudio")
OUR_ENCODER = ("ours", "file", "peer")
"""Libraries whose models run in our encoder."""
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
PATHS = ("reference", "lowmem")
RUNTIMES = ("ort", "openvino")
VARIANTS = (*PRECISIONS, "autocast", "compiled", "masked", *PATHS, *RUNTIMES)
_OURS = ("int8", "masked", *PATHS, *RUNTIMES)


class WrongName(UserError):
    """There is no such model: usually a typing mistake, unlike a model that cannot be built here."""


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A parsed name."""

    text: str
    """The name as typed."""
    library: str
    """One of `LIBRARIES`, or `file`."""
    source: str
    """The part after the library, without variants; or the path."""
    variants: tuple[str, ...] = ()

    @property
    def precision(self) -> str | None:
        """One of `PRECISIONS`; None for the benchmark's `dtype`."""
        return next((v for v in self.variants if v in PRECISIONS), None)

    @property
    def runtime(self) -> str | None:
        """One of `RUNTIMES`; None for torch."""
        return next((v for v in self.variants if v in RUNTIMES), None)


def parse(text: str) -> ModelName:
    """Parse a model's name (`GRAMMAR`).

    Raises:
        UserError: if it has no known form (the message suggests the nearest), or its variants exclude one another.
    """
    source, variants = (text, ()) if Path(text).exists() else _split_variants(text)
    library, colon, rest = source.partition(":")
    if colon and library in LIBRARIES:
        if not rest:
            raise UserError(f"{text!r}: a name must follow {library}:, but none does.")
        name = ModelName(text=text, library=library, source=rest, variants=variants)
    elif Path(source).exists():
        name = ModelName(text=text, library="file", source=source, variants=variants)
    elif colon:
        starts = [f"{name}:" for name in LIBRARIES]
        raise UserError(
            f"{text!r}: must begin with one of {starts}, or be an existing path.{nearest(library, LIBRARIES)}"
        )
    else:
        known = ("ours:dense", "ours:even", "ours:conc", "s3prl:wavlm_base", "hf:wavlm_base", "torchaudio:wavlm_base")
        raise UserError(
            f"{text!r}: is neither an existing path nor a model's name.{nearest(source, known)} --help-all lists them."
        )
    _check_variants(name)
    return name


def nearest(text: str, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest known name; empty if none is near."""
    known = list(known)
    last = {name.rpartition(":")[2]: name for name in known} | {name: name for name in known}
    found = difflib.get_close_matches(text, last, n=1)
    return f" Did you mean {last[found[0]]}?" if found else ""


def _split_variants(text: str) -> tuple[str, tuple[str, ...]]:
    source, *variants = text.split("+")
    for variant in variants:
        if variant not in VARIANTS:
            raise WrongName(
                f"{text!r}: {variant!r} is no variant; these are {', '.join(VARIANTS)}.{nearest(variant, VARIANTS)}"
            )
    return source, tuple(variants)


def _check_variants(name: ModelName) -> None:
    for kind, members in (("precision", PRECISIONS), ("path", PATHS), ("runtime", RUNTIMES)):
        given = [variant for variant in name.variants if variant in members]
        if len(given) > 1:
            raise UserError(f"{name.text!r}: a model has one {kind}, but {given} are named.")
    if len(set(name.variants)) < len(name.variants):
        raise UserError(f"{name.text!r}: a variant is given twice.")
    foreign = [variant for variant in name.variants if variant in _OURS]
    if foreign and name.library not in OUR_ENCODER:
        raise UserError(f"{name.text!r}: {foreign[0]} is for our own models only, not for {name.library}'s.")
    unknown = set(name.variants) - {*RUNTIMES, "fp32", "int8"}
    if name.runtime and unknown:
        raise UserError(f"{name.text!r}: {name.runtime} runs fp32 and int8 only, not {sorted(unknown)[0]}.")
