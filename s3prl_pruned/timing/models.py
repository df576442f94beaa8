"""Building models of several libraries as functions from waveforms to hidden states, to time them side by side."""

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.formats import huggingface, registry
from s3prl_pruned.formats import torchaudio as torchaudio_format
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.compact import compact
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.peers import PEERS, peer_structure
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.timing.adapters import (
    Call,
    Encode,
    encode_hf,
    encode_ours,
    encode_s3prl,
    encode_torchaudio,
    torchaudio_model,
)
from s3prl_pruned.timing.names import OUR_ENCODER, PATHS, ModelName, WrongName, nearest
from s3prl_pruned.timing.runtimes import RuntimeFiles
from s3prl_pruned.timing.shapes import SOURCES, STRUCTURES, read_structure
from s3prl_pruned.timing.timed_model import DTYPES, TimedModel
from s3prl_pruned.timing.variants import compiled, masks_of, move_masks, under_autocast, under_path
from s3prl_pruned.timing.weights import PAPERS, SHAPES, TRAINED, DenseWeights, identity, shape_of
from s3prl_pruned.upstream.register import register

_HUB_REPOSITORIES = {
    "wavlm_base": "microsoft/wavlm-base",
    "wavlm_large": "microsoft/wavlm-large",
    "hubert_base": "facebook/hubert-base-ls960",
    "wav2vec2_base": "facebook/wav2vec2-base",
    "data2vec_base": "facebook/data2vec-audio-base",
}


class Builder:
    """Builds models to time. All models of one shape get the same weights, as far as their libraries allow.

    Args:
        random: use random weights of the named shape and download nothing.
        device: torch device.
        precision: precision of models whose name has none.
        seed: seed of random weights.
        autocast: keep the weights of bf16 and fp16 models in fp32, and compute under `torch.autocast`.
        threads: threads of runtimes other than torch.
    """

    def __init__(
        self,
        *,
        random: bool,
        device: str = "cpu",
        precision: str = "fp32",
        seed: int = 0,
        autocast: bool = False,
        threads: int = 1,
    ):
        if precision not in DTYPES or precision == "int8":
            raise UserError(
                f"`dtype` must be fp32, bf16 or fp16, but is {precision!r}. int8 is a model's variant: ours:conc+int8."
            )
        self.random, self.device, self.precision, self.autocast = random, device, precision, autocast
        self._weights, self._files = DenseWeights(random=random, seed=seed), RuntimeFiles(threads)
        if compat.installed_hosts():
            compat.apply()
        else:  # without s3prl, the others are timed
            compat.torchaudio_extension()

    def build(self, name: ModelName) -> TimedModel:
        """Build a model.

        Raises:
            UserError: if there is no such model, it cannot be built with these options, or a variant does not apply.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # s3prl and torchaudio use torch's old weight_norm, among others
            made = {
                "ours": self._ours,
                "peer": self._peer,
                "file": self._file,
                "s3prl": self._s3prl,
                "hf": self._hf,
                "torchaudio": self._torchaudio,
            }[name.library](name)
        return self._finish(made)

    def _finish(self, made: TimedModel) -> TimedModel:
        """Apply device, path, precision and compilation."""
        name, call = made.name, made.call
        if made.module is None:
            return made
        made.module = made.module.eval().requires_grad_(False).to(self.device, self._weights_dtype(name))
        if "compiled" in name.variants:
            self._refuse_plain_graphs(name)
            call = compiled(call, made.module, self.device)
        made.encode = made.adapt(call)
        for path in set(name.variants) & set(PATHS):
            made.encode = under_path(made.encode, path)
        if self._autocast(name):
            made.autocast = True
            made.encode = under_autocast(made.encode, self.device, DTYPES[made.precision])
        return made

    def _refuse_plain_graphs(self, name: ModelName) -> None:
        """Refuse models that our CUDA graphs do not cover: they would silently run without graphs."""
        ours, cuda = name.library in OUR_ENCODER, torch.device(self.device).type == "cuda"
        if ours and cuda and (self._autocast(name) or set(name.variants) & set(PATHS)):
            raise UserError(
                f"{name.text!r}: ours are compiled as CUDA graphs of their fast path, not under autocast and not of "
                "another path. Use +bf16 or +fp16, or leave out +compiled."
            )

    def _timed(
        self, name: ModelName, module: nn.Module, adapt: Callable[[Call], Encode], call: Call, **known: Any
    ) -> TimedModel:
        """Make the `TimedModel` of another library's model.

        Args:
            name: the name as typed.
            module: the module with its weights.
            adapt: turns the library's call into a function of waveforms.
            call: the module, or one of its methods.
            known: further fields of `TimedModel`.
        """
        params = sum(p.numel() for p in module.parameters())
        return TimedModel(
            name=name, module=module, adapt=adapt, call=call, precision=self._precision(name), params=params, **known
        )

    def _own(self, name: ModelName, encoder: SpeechEncoder, *, same_as: str, weights: str) -> TimedModel:
        """Make the `TimedModel` of an encoder of ours, in the precision that its name asks for."""
        precision = self._precision(name)
        known: dict[str, Any] = {
            "name": name, "config": encoder.config, "spec": encoder.spec, "precision": precision,
            "params": encoder.num_parameters(), "same_as": same_as, "weights": weights,
        }  # fmt: skip
        if name.runtime:
            if self.device != "cpu":
                raise UserError(f"{name.text!r}: {name.runtime} is timed on a CPU only, but `device` is {self.device}.")
            made = TimedModel(**known, module=None)
            made.encode = self._files.encode(name.runtime, encoder, same_as, int8=precision == "int8")
            return made
        if precision == "int8":
            from s3prl_pruned.models.accelerate.int8 import quantize_int8

            encoder = quantize_int8(encoder)
        dtype = self._weights_dtype(name)
        encoder = encoder.eval().requires_grad_(False).to(self.device, dtype)
        accelerate(encoder)
        move_masks(encoder, self.device, dtype)
        adapt = partial(encode_ours, encoder=encoder, dtype=dtype)
        return TimedModel(**known, module=encoder, adapt=adapt, call=encoder)

    def _precision(self, name: ModelName) -> str:
        return name.precision or self.precision

    def _autocast(self, name: ModelName) -> bool:
        wanted = self.autocast or "autocast" in name.variants
        if "autocast" in name.variants and self._precision(name) not in ("bf16", "fp16"):
            raise UserError(f"{name.text!r}: autocast is for bf16 and fp16: {name.text}+bf16.")
        return wanted and self._precision(name) in ("bf16", "fp16")

    def _weights_dtype(self, name: ModelName) -> torch.dtype:
        return torch.float32 if self._autocast(name) else DTYPES[self._precision(name)]

    def _ours(self, name: ModelName) -> TimedModel:
        structure, shape = (name.source, "wavlm_base") if name.source in STRUCTURES else ("dense", name.source)
        known = (*STRUCTURES, *SHAPES)
        if shape not in SHAPES:
            raise WrongName(f"{name.text!r}: must be one of {[f'ours:{n}' for n in known]}.{nearest(shape, known)}")
        dense = self._weights.of(shape)
        made = self._structured(name, shape, dense, STRUCTURES[structure](dense.config))
        made.source = SOURCES.get(name.source) or PAPERS[dense.config.family]
        return made

    def _structured(self, name: ModelName, shape: str, dense: SpeechEncoder, spec: CompactSpec) -> TimedModel:
        """A structure sliced from a dense encoder, or applied to it as masks."""
        if "masked" in name.variants:
            if spec == CompactSpec.dense(dense.config):
                raise UserError(
                    f"{name.text!r}: a dense model has nothing to mask. Use ours:even+masked, or a CompactSpec."
                )
            encoder = SpeechEncoder(dense.config).eval()
            encoder.load_state_dict(dense.state_dict())
            encoder.set_masks(masks_of(spec, dense.config))
        else:
            encoder = compact(dense, spec)
        return self._own(name, encoder, same_as=identity(shape, spec), weights=self._weights.origin(shape))

    def _peer(self, name: ModelName) -> TimedModel:
        if name.source not in PEERS:
            raise WrongName(
                f"{name.text!r}: must be one of {[f'peer:{n}' for n in PEERS]}.{nearest(name.source, PEERS)}"
            )
        peer = peer_structure(name.source)
        made = self._structured(name, *self._weights.of_structure(name, peer.config), peer.spec)
        made.source, made.printed_millions = f"{peer.title}: {peer.source}", peer.printed_millions
        return made

    def _file(self, name: ModelName) -> TimedModel:
        path = Path(name.source)
        if path.suffix == ".json" and not (
            path.name == "config.json" and (path.parent / "model.safetensors").is_file()
        ):
            config, spec = read_structure(path)
            return self._structured(name, *self._weights.of_structure(name, config), spec)
        if "masked" in name.variants:
            raise UserError(
                f"{name.text!r}: masked is for a structure; a training checkpoint is always masked, an export never."
            )
        from s3prl_pruned.upstream.load import load_model

        loaded = load_model(path)
        weights = f"{loaded.note}, " * bool(loaded.note) + f"sha256 {str(loaded.sha256)[:12]}"
        return self._own(name, loaded.encoder, same_as=weights, weights=weights)

    def _s3prl(self, name: ModelName) -> TimedModel:
        compat.host()  # its error says what to install if there is none
        if self.random:
            dense = self._weights.of(shape_of(name))
            with tempfile.TemporaryDirectory() as folder:
                registry.write(Path(folder) / "random.pt", "s3prl", dense)
                expert = import_module(f"s3prl.upstream.{dense.config.family}.expert").UpstreamExpert(
                    f"{folder}/random.pt"
                )
            if hasattr(expert.model, "remove_pretraining_modules"):
                expert.model.remove_pretraining_modules()
        else:
            import s3prl.hub

            register()  # so that our own upstreams are found too
            entries = [
                entry for entry in dir(s3prl.hub) if not entry.startswith("_") and callable(getattr(s3prl.hub, entry))
            ]
            if name.source not in entries:
                raise WrongName(f"{name.text!r}: s3prl's hub has no such entry.{nearest(name.source, entries)}")
            expert = getattr(s3prl.hub, name.source)()
        shape = {trained: ours for ours, trained in TRAINED.items()}.get(name.source, name.source)
        adapt = partial(encode_s3prl, dtype=self._weights_dtype(name))
        return self._timed(name, expert.eval(), adapt, expert, **self._weights.known(shape, name.source))

    def _hf(self, name: ModelName) -> TimedModel:
        import transformers

        if self.random:
            dense = self._weights.of(shape_of(name))
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
        adapt = partial(encode_hf, normalise=normalise, dtype=self._weights_dtype(name))
        return self._timed(name, model.eval(), adapt, model, **self._weights.known(name.source))

    def _torchaudio(self, name: ModelName) -> TimedModel:
        import torchaudio

        if self.random:
            dense = self._weights.of(shape_of(name))
            model: Any = torchaudio_model(dense.config)
            model.load_state_dict(torchaudio_format.KEYS.to_theirs(dense.state_dict(), dense.config))
            normalise = dense.config.normalize_waveform
        else:
            bundles = [
                bundle
                for bundle in dir(torchaudio.pipelines)
                if hasattr(getattr(torchaudio.pipelines, bundle), "get_model")
            ]
            if name.source.upper() not in bundles:
                raise WrongName(
                    f"{name.text!r}: torchaudio has no such pipeline.{nearest(name.source.upper(), bundles)}"
                )
            model, normalise = getattr(torchaudio.pipelines, name.source.upper()).get_model(), False  # in the model
        adapt = partial(encode_torchaudio, normalise=normalise, dtype=self._weights_dtype(name))
        known: dict[str, Any] = {"pads": "wavlm" not in name.source, **self._weights.known(name.source)}
        return self._timed(name, model.eval(), adapt, model.extract_features, **known)
