"""Models of several libraries, each as a function from waveforms to hidden states, for timing side by side."""

import tempfile
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.formats import huggingface, registry
from s3prl_pruned.formats import torchaudio as torchaudio_format
from s3prl_pruned.models import families
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.compact import compact
from s3prl_pruned.models.dummies import random_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.timing.adapters import (
    Encode,
    encode_hf,
    encode_ours,
    encode_s3prl,
    encode_torchaudio,
    torchaudio_model,
)
from s3prl_pruned.timing.names import PATHS, ModelName, nearest
from s3prl_pruned.timing.shapes import STRUCTURES, read_structure
from s3prl_pruned.timing.variants import masks_of, move_masks, under_path
from s3prl_pruned.upstream.register import register

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
"""Of weights and activations; int8 computes its other parts in fp32."""
_HUB_REPOSITORIES = {
    "wavlm_base": "microsoft/wavlm-base",
    "wavlm_large": "microsoft/wavlm-large",
    "hubert_base": "facebook/hubert-base-ls960",
    "wav2vec2_base": "facebook/wav2vec2-base",
    "data2vec_base": "facebook/data2vec-audio-base",
}
# The names of our shapes under which s3prl's hub, and with it `load_teacher`, has trained weights.
_TRAINED = {
    "wavlm_embedded": "embedded",
    "hubert_large": "hubert_large_ll60k",
    "wav2vec2_base": "wav2vec2_base_960",
    "wav2vec2_large": "wav2vec2_large_ll60k",
    "data2vec_base": "data2vec_base_960",
    "data2vec_large": "data2vec_large_ll60k",
}
_SHAPES = (
    "wavlm_base",
    "wavlm_large",
    "wavlm_embedded",
    "hubert_base",
    "hubert_large",
    "wav2vec2_base",
    "wav2vec2_large",
    "wav2vec2_large_960",
    "data2vec_base",
    "data2vec_large",
)


@dataclass(kw_only=True)
class TimedModel:
    """A model that takes part."""

    name: ModelName
    module: nn.Module
    """Holds all parameters; in evaluation mode, on the device."""
    encode: Encode
    """Pads, normalises where the model wants it, and calls the module: what a user of that library would write."""
    config: EncoderConfig | None
    """The dense shape, where it is known."""
    spec: CompactSpec | None
    precision: str
    """One of `names.PRECISIONS`."""
    params: int
    """`numel()` of all parameters, before any quantisation."""
    same_as: str | None
    """Models in which this is equal compute the same function: same weights, same structure."""
    weights: str
    """Where they come from, such as "random, seed 0"."""
    pads: bool = True
    """Whether it takes batches of different lengths (torchaudio's WavLM does not)."""

    @property
    def label(self) -> str:
        """As it was typed."""
        return self.name.text


class Builder:
    """Makes models to time. All that have one shape get the same weights, as far as their libraries allow.

    Args:
        random: take random weights of the named shape and download nothing.
        device: torch device.
        precision: of models whose name does not say one.
        seed: of random weights.
    """

    def __init__(self, *, random: bool, device: str = "cpu", precision: str = "fp32", seed: int = 0):
        if precision not in DTYPES or precision == "int8":
            raise UserError(
                f"`dtype` must be fp32, bf16 or fp16, but is {precision!r}. int8 is a model's variant: ours:conc+int8."
            )
        self.random, self.device, self.precision, self.seed = random, device, precision, seed
        self._dense: dict[str, SpeechEncoder] = {}
        compat.apply()  # s3prl and transformers import torchaudio

    def build(self, name: ModelName) -> TimedModel:
        """Make one.

        Raises:
            UserError: no such model, it cannot be had with this run's options, or a variant does not apply to it.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # s3prl and torchaudio use torch's old weight_norm, among others
            made = {
                "ours": self._ours,
                "file": self._file,
                "s3prl": self._s3prl,
                "hf": self._hf,
                "torchaudio": self._torchaudio,
            }[name.library](name)
        return self._finish(made)

    def _finish(self, made: TimedModel) -> TimedModel:
        """Path, device and compilation."""
        variants = made.name.variants
        made.module = made.module.eval().requires_grad_(False).to(self.device, DTYPES[made.precision])
        for path in set(variants) & set(PATHS):
            made.encode = under_path(made.encode, path)
        if "compiled" in variants:
            # CUDA graphs take the launches away, which dominate short inputs on a GPU; never run here
            made.module.compile(mode="reduce-overhead" if torch.device(self.device).type == "cuda" else "default")
        return made

    def _timed(self, name: ModelName, module: nn.Module, encode: Encode, **known: Any) -> TimedModel:
        """Another library's model.

        Args:
            name: as typed.
            module: with its weights.
            encode: calls it.
            known: further fields of `TimedModel`.
        """
        params = sum(p.numel() for p in module.parameters())
        precision = name.precision or self.precision
        return TimedModel(name=name, module=module, encode=encode, precision=precision, params=params, **known)

    def _own(self, name: ModelName, encoder: SpeechEncoder, *, same_as: str, weights: str) -> TimedModel:
        """One of ours, in the precision that its name asks for."""
        params, precision = encoder.num_parameters(), name.precision or self.precision
        if precision == "int8":
            from s3prl_pruned.models.accelerate.int8 import quantize_int8

            encoder = quantize_int8(encoder)
        dtype = DTYPES[precision]
        encoder = encoder.eval().requires_grad_(False).to(self.device, dtype)
        accelerate(encoder)
        move_masks(encoder, self.device, dtype)
        return TimedModel(
            name=name,
            module=encoder,
            encode=encode_ours(encoder, encoder.config, dtype),
            config=encoder.config,
            spec=encoder.spec,  # what runs
            precision=precision,
            params=params,
            same_as=same_as,
            weights=weights,
        )

    def _weights_of(self, shape: str, config: EncoderConfig | None = None) -> SpeechEncoder:
        """The dense encoder that all models of one shape are made from; `config` where the shape has no name."""
        if shape not in self._dense:
            if self.random:
                self._dense[shape] = random_encoder(config or families.named(shape), seed=self.seed)
            else:
                from s3prl_pruned.pretrain.distill.teachers import load_teacher

                self._dense[shape] = load_teacher(_TRAINED.get(shape, shape)).encoder
        return self._dense[shape]

    def _origin(self, shape: str) -> str:
        return f"random, seed {self.seed}" if self.random else _TRAINED.get(shape, shape)

    def _ours(self, name: ModelName) -> TimedModel:
        structure, shape = (name.source, "wavlm_base") if name.source in STRUCTURES else ("dense", name.source)
        known = (*STRUCTURES, *_SHAPES)
        if shape not in _SHAPES:
            raise UserError(f"{name.text!r}: must be one of {[f'ours:{n}' for n in known]}.{nearest(shape, known)}")
        dense = self._weights_of(shape)
        return self._structured(name, shape, dense, STRUCTURES[structure](dense.config))

    def _structured(self, name: ModelName, shape: str, dense: SpeechEncoder, spec: CompactSpec) -> TimedModel:
        """A structure cut out of a dense encoder, or laid over it as masks."""
        if "masked" in name.variants:
            if spec == CompactSpec.dense(dense.config):
                raise UserError(
                    f"{name.text!r}: nothing of a dense model is masked. Take ours:even+masked, or a CompactSpec."
                )
            encoder = SpeechEncoder(dense.config).eval()
            encoder.load_state_dict(dense.state_dict())
            encoder.set_masks(masks_of(spec, dense.config))
        else:
            encoder = compact(dense, spec)
        return self._own(name, encoder, same_as=_identity(shape, spec), weights=self._origin(shape))

    def _file(self, name: ModelName) -> TimedModel:
        path = Path(name.source)
        if path.suffix == ".json" and not (
            path.name == "config.json" and (path.parent / "model.safetensors").is_file()
        ):
            config, spec = read_structure(path)
            if not self.random:
                raise UserError(f"{name.text!r}: is a structure without weights. Add --random.")
            shape = "wavlm_base" if config == families.named("wavlm_base") else str(config)
            return self._structured(name, shape, self._weights_of(shape, config), spec)
        if "masked" in name.variants:
            raise UserError(
                f"{name.text!r}: masked is for a structure; a training checkpoint is masked anyway, an export is cut."
            )
        from s3prl_pruned.upstream.load import load_model

        loaded = load_model(path)
        weights = f"{loaded.note}, " * bool(loaded.note) + f"sha256 {str(loaded.sha256)[:12]}"
        return self._own(name, loaded.encoder, same_as=weights, weights=weights)

    def _s3prl(self, name: ModelName) -> TimedModel:
        if self.random:
            dense = self._weights_of(_shape(name))
            with tempfile.TemporaryDirectory() as folder:
                registry.write(Path(folder) / "random.pt", "s3prl", dense)
                expert = import_module(f"s3prl.upstream.{dense.config.family}.expert").UpstreamExpert(
                    f"{folder}/random.pt"
                )
            if hasattr(expert.model, "remove_pretraining_modules"):
                expert.model.remove_pretraining_modules()
        else:
            import s3prl.hub

            register()  # our own upstreams are entries too
            entries = [
                entry for entry in dir(s3prl.hub) if not entry.startswith("_") and callable(getattr(s3prl.hub, entry))
            ]
            if name.source not in entries:
                raise UserError(f"{name.text!r}: s3prl's hub has no such entry.{nearest(name.source, entries)}")
            expert = getattr(s3prl.hub, name.source)()
        shape = {trained: ours for ours, trained in _TRAINED.items()}.get(name.source, name.source)
        return self._timed(
            name, expert.eval(), encode_s3prl(expert, self._dtype(name)), **self._known(shape, name.source)
        )

    def _hf(self, name: ModelName) -> TimedModel:
        import transformers

        if self.random:
            dense = self._weights_of(_shape(name))
            cfg, preprocessor = huggingface.to_cfg(dense.config)
            model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**cfg))
            model.load_state_dict(huggingface.KEYS.to_theirs(dense.state_dict(), dense.config))
            normalise = preprocessor["do_normalize"]
        else:
            repository = _HUB_REPOSITORIES.get(name.source, name.source)
            try:
                model = transformers.AutoModel.from_pretrained(repository)
                normalise = transformers.AutoFeatureExtractor.from_pretrained(repository).do_normalize
            except (OSError, ValueError, ImportError) as error:
                line = str(error).strip().splitlines()[0]
                raise UserError(
                    f"{name.text!r}: transformers cannot load it: {line}{nearest(name.source, _HUB_REPOSITORIES)}"
                ) from error
        return self._timed(
            name, model.eval(), encode_hf(model, normalise, self._dtype(name)), **self._known(name.source)
        )

    def _torchaudio(self, name: ModelName) -> TimedModel:
        import torchaudio

        if self.random:
            dense = self._weights_of(_shape(name))
            model = torchaudio_model(dense.config)
            model.load_state_dict(torchaudio_format.KEYS.to_theirs(dense.state_dict(), dense.config))
            normalise = dense.config.normalize_waveform
        else:
            bundles = [
                bundle
                for bundle in dir(torchaudio.pipelines)
                if hasattr(getattr(torchaudio.pipelines, bundle), "get_model")
            ]
            if name.source.upper() not in bundles:
                raise UserError(
                    f"{name.text!r}: torchaudio has no such pipeline.{nearest(name.source.upper(), bundles)}"
                )
            model, normalise = (
                getattr(torchaudio.pipelines, name.source.upper()).get_model(),
                False,
            )  # it normalises itself
        encode = encode_torchaudio(model, normalise, self._dtype(name))
        return self._timed(name, model.eval(), encode, pads="wavlm" not in name.source, **self._known(name.source))

    def _dtype(self, name: ModelName) -> torch.dtype:
        return DTYPES[name.precision or self.precision]

    def _known(self, shape: str, weights: str | None = None) -> dict:
        """What is known of another library's model by the name of its shape."""
        if shape not in _SHAPES:
            return {"config": None, "spec": None, "same_as": None, "weights": weights or shape}
        config = families.named(shape)
        spec = CompactSpec.dense(config)
        return {"config": config, "spec": spec, "same_as": _identity(shape, spec), "weights": self._origin(shape)}


def _identity(shape: str, spec: CompactSpec) -> str:
    """The same for all models that are this structure of these weights."""
    return f"{shape} {hash(spec)}"


def _shape(name: ModelName) -> str:
    if name.source not in _SHAPES:
        raise UserError(
            f"{name.text!r}: random weights are to be had of {', '.join(_SHAPES)} only.{nearest(name.source, _SHAPES)} "
            "Without --random trained ones are loaded."
        )
    return name.source
