"""Models of several libraries, each as a function from waveforms to hidden states, for timing side by side."""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import collate, normalize_waveform
from s3prl_pruned.measure.timing.names import PATHS, ModelName, nearest
from s3prl_pruned.measure.timing.shapes import STRUCTURES, read_structure
from s3prl_pruned.models.compact import compact
from s3prl_pruned.models.dummies import random_encoder
from s3prl_pruned.models.encoder import LayerMasks, SpeechEncoder
from s3prl_pruned.models.foreign_configs import to_huggingface
from s3prl_pruned.models.keys import to_theirs
from s3prl_pruned.models.load import named_config
from s3prl_pruned.models.save import save_dense
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig

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
    "dense": "wavlm_base",
    "wavlm_embedded": "embedded",
    "hubert_large": "hubert_large_ll60k",
    "wav2vec2_base": "wav2vec2_base_960",
    "wav2vec2_large": "wav2vec2_large_ll60k",
    "data2vec_base": "data2vec_base_960",
    "data2vec_large": "data2vec_large_ll60k",
}
_SHAPES = ("wavlm_base", "wavlm_large", "wavlm_embedded", "hubert_base", "hubert_large", "wav2vec2_base", "wav2vec2_large",
           "wav2vec2_large_960", "data2vec_base", "data2vec_large")  # fmt: skip

Encode = Callable[[list[Tensor]], list[Tensor]]
"""B waveforms (S,), fp32, 16 kHz, on the model's device -> hidden states (B, T, D)."""


@dataclass(kw_only=True)
class Contestant:
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
    """Contestants in which this is equal compute the same function: same weights, same structure."""
    weights: str
    """Where they come from, such as "random, seed 0"."""
    pads: bool = True
    """Whether it takes batches of different lengths (torchaudio's WavLM does not)."""

    @property
    def label(self) -> str:
        return self.name.text


class Builder:
    """Makes contestants. All that have one shape get the same weights, as far as their libraries allow.

    Args:
        random: take random weights of the named shape and download nothing.
        device: torch device.
        precision: of models whose name does not say one.
        seed: of random weights.
    """

    def __init__(self, *, random: bool, device: str = "cpu", precision: str = "fp32", seed: int = 0):
        if precision not in DTYPES or precision == "int8":
            raise UserError(f"`dtype` must be fp32, bf16 or fp16, but is {precision!r}. int8 is a model's variant: ours:conc+int8.")
        self.random, self.device, self.precision, self.seed = random, device, precision, seed
        self._dense: dict[str, SpeechEncoder] = {}
        compat.apply()  # s3prl and transformers import torchaudio

    def build(self, name: ModelName) -> Contestant:
        """Make one.

        Raises:
            UserError: no such model, it cannot be had with this run's options, or a variant does not apply to it.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # s3prl and torchaudio use torch's old weight_norm, among others
            made = {"ours": self._ours, "file": self._file, "s3prl": self._s3prl, "hf": self._hf, "torchaudio": self._torchaudio}[name.library](name)  # fmt: skip
        return self._finish(made)

    def _finish(self, made: Contestant) -> Contestant:
        """Precision, path, device and compilation."""
        variants = made.name.variants
        for path in set(variants) & set(PATHS):
            _choose_path(made, path)
        if made.precision == "int8":
            from s3prl_pruned.export.int8 import quantize_int8

            made.module = quantize_int8(made.module)
        dtype = DTYPES[made.precision]
        made.module = made.module.eval().requires_grad_(False).to(self.device, dtype)
        if made.name.library in ("ours", "file"):
            made.encode = encode_ours(made.module, made.config, dtype)
        if "compiled" in variants:
            # CUDA graphs take the launches away, which dominate short inputs on a GPU; never run here
            made.module.compile(mode="reduce-overhead" if torch.device(self.device).type == "cuda" else "default")
        return made

    def _contestant(self, name: ModelName, module: nn.Module, encode: Encode | None = None, **more) -> Contestant:
        precision = name.precision or self.precision
        params = sum(p.numel() for p in module.parameters())
        return Contestant(name=name, module=module, encode=encode, precision=precision, params=params, **more)

    def _weights_of(self, shape: str) -> SpeechEncoder:
        """The dense encoder that all contestants of one shape are made from."""
        if shape not in self._dense:
            if self.random:
                self._dense[shape] = random_encoder(named_config(shape), seed=self.seed)
            else:
                from s3prl_pruned.pretrain.distill.teachers import load_teacher

                self._dense[shape] = load_teacher(_TRAINED.get(shape, shape)).encoder
        return self._dense[shape]

    def _origin(self, shape: str) -> str:
        return f"random, seed {self.seed}" if self.random else shape

    def _ours(self, name: ModelName) -> Contestant:
        structure, shape = (name.source, "wavlm_base") if name.source in STRUCTURES else ("dense", name.source)
        known = (*STRUCTURES, *_SHAPES)
        if shape not in _SHAPES:
            raise UserError(f"{name.text!r}: must be one of {[f'ours:{n}' for n in known]}.{nearest(shape, known)}")
        dense = self._weights_of(shape)
        spec = STRUCTURES[structure](dense.config)
        return self._structured(name, dense, spec, same_as=f"{shape} {structure}", weights=self._origin(shape))

    def _structured(self, name: ModelName, dense: SpeechEncoder, spec: CompactSpec, **more) -> Contestant:
        """A structure cut out of a dense encoder, or laid over it as masks."""
        if "masked" in name.variants:
            if spec == CompactSpec.dense(dense.config):
                raise UserError(f"{name.text!r}: nothing of a dense model is masked. Take ours:even+masked, or a CompactSpec.")
            encoder = SpeechEncoder(dense.config).eval()
            encoder.load_state_dict(dense.state_dict())
            encoder.set_masks(masks_of(spec, dense.config))
            kept = CompactSpec.dense(dense.config)  # what runs
        else:
            encoder, kept = compact(dense, spec), spec
        return self._contestant(name, encoder, config=dense.config, spec=kept, **more)

    def _file(self, name: ModelName) -> Contestant:
        path = Path(name.source)
        if path.suffix == ".json" and not (path.name == "config.json" and (path.parent / "model.safetensors").is_file()):
            config, spec = read_structure(path)
            key = str(config)
            if key not in self._dense:
                # WavLM Base's shape may have been made under its name
                self._dense[key] = self._dense.get("wavlm_base") if self.random and config == named_config("wavlm_base") else None
                self._dense[key] = self._dense[key] or random_encoder(config, seed=self.seed)
            return self._structured(name, self._dense[key], spec, same_as=f"{key} {spec}", weights=f"random, seed {self.seed}")
        if "masked" in name.variants:
            raise UserError(f"{name.text!r}: masked is for a structure; a training checkpoint is masked anyway, an export is cut.")
        from s3prl_pruned.upstream.load import load_model

        loaded = load_model(path)
        encoder = loaded.encoder
        weights = f"{loaded.note}, " * bool(loaded.note) + f"sha256 {str(loaded.sha256)[:12]}"
        return self._contestant(name, encoder, config=encoder.config, spec=encoder.spec, same_as=weights, weights=weights)

    def _s3prl(self, name: ModelName) -> Contestant:
        if self.random:
            dense = self._weights_of(_shape(name))
            with tempfile.TemporaryDirectory() as folder:
                save_dense(dense, Path(folder) / "random.pt", "s3prl")
                expert = import_module(f"s3prl.upstream.{dense.config.family}.expert").UpstreamExpert(f"{folder}/random.pt")
            if hasattr(expert.model, "remove_pretraining_modules"):
                expert.model.remove_pretraining_modules()
        else:
            import s3prl.hub

            entries = [entry for entry in dir(s3prl.hub) if not entry.startswith("_") and callable(getattr(s3prl.hub, entry))]
            if name.source not in entries:
                raise UserError(f"{name.text!r}: s3prl's hub has no such entry.{nearest(name.source, entries)}")
            expert = getattr(s3prl.hub, name.source)()
        shape = {trained: ours for ours, trained in _TRAINED.items() if ours != "dense"}.get(name.source, name.source)
        return self._contestant(name, expert.eval(), encode_s3prl(expert, self._dtype(name)), **self._known(shape, name))

    def _hf(self, name: ModelName) -> Contestant:
        import transformers

        if self.random:
            cfg, preprocessor = to_huggingface(self._weights_of(_shape(name)).config)
            model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**cfg))
            dense = self._weights_of(name.source)
            model.load_state_dict(to_theirs(dense.state_dict(), dense.config, "huggingface"))
            normalise = preprocessor["do_normalize"]
        else:
            repository = _HUB_REPOSITORIES.get(name.source, name.source)
            try:
                model = transformers.AutoModel.from_pretrained(repository)
                normalise = transformers.AutoFeatureExtractor.from_pretrained(repository).do_normalize
            except (OSError, ValueError, ImportError) as error:
                line = str(error).strip().splitlines()[0]
                raise UserError(f"{name.text!r}: transformers cannot load it: {line}{nearest(name.source, _HUB_REPOSITORIES)}") from error
        return self._contestant(name, model.eval(), encode_hf(model, normalise, self._dtype(name)), **self._known(name.source, name))

    def _torchaudio(self, name: ModelName) -> Contestant:
        import torchaudio

        if self.random:
            dense = self._weights_of(_shape(name))
            model = torchaudio_model(dense.config)
            model.load_state_dict(to_theirs(dense.state_dict(), dense.config, "torchaudio"))
            normalise = dense.config.normalize_waveform
        else:
            bundles = [bundle for bundle in dir(torchaudio.pipelines) if hasattr(getattr(torchaudio.pipelines, bundle), "get_model")]
            if name.source.upper() not in bundles:
                raise UserError(f"{name.text!r}: torchaudio has no such pipeline.{nearest(name.source.upper(), bundles)}")
            model, normalise = getattr(torchaudio.pipelines, name.source.upper()).get_model(), False  # it normalises itself
        encode = encode_torchaudio(model, normalise, self._dtype(name))
        return self._contestant(name, model.eval(), encode, pads="wavlm" not in name.source, **self._known(name.source, name))

    def _dtype(self, name: ModelName) -> torch.dtype:
        return DTYPES[name.precision or self.precision]

    def _known(self, shape: str, name: ModelName) -> dict:
        """What is known of another library's model by its name."""
        if shape not in _SHAPES:
            return {"config": None, "spec": None, "same_as": None, "weights": name.source}
        config = named_config(shape)
        return {"config": config, "spec": CompactSpec.dense(config), "same_as": f"{shape} dense", "weights": self._origin(shape)}


def _shape(name: ModelName) -> str:
    if name.source not in _SHAPES:
        raise UserError(
            f"{name.text!r}: random weights are to be had of {', '.join(_SHAPES)} only.{nearest(name.source, _SHAPES)} "
            "Without --random trained ones are loaded."
        )
    return name.source


def _choose_path(made: Contestant, path: str) -> None:
    choose = getattr(made.module, "use_path", None)
    if choose is None:
        raise UserError(f"{made.label!r}: this version's encoder has no {path} path to choose.")
    choose(path)


def masks_of(spec: CompactSpec, config: EncoderConfig) -> list[LayerMasks]:
    """Masks of ones and zeros that make a dense encoder compute what `spec` keeps of it."""
    masks = []
    for layer in spec.layers:
        qk, vo = torch.zeros(2, config.num_heads, config.head_dim)
        ffn = torch.zeros(config.ffn_dim)
        for head in layer.heads:
            qk[head.index, list(head.qk)] = 1
            vo[head.index, list(head.vo)] = 1
        ffn[list(layer.ffn)] = 1
        flags = [torch.tensor([float(flag)]) for flag in (layer.attention, layer.feed_forward)]
        masks.append(LayerMasks(z_mha=flags[0], z_qk=qk.flatten(), z_vo=vo.flatten(), z_ffn=flags[1], z_int=ffn))
    return masks


def encode_ours(encoder: nn.Module, config: EncoderConfig, dtype: torch.dtype) -> Encode:
    def encode(wavs: list[Tensor]) -> list[Tensor]:
        if config.normalize_waveform:
            wavs = [normalize_waveform(wav) for wav in wavs]
        padded, lengths = collate(wavs)
        return encoder(padded.to(dtype), lengths.to(padded.device) if ragged(wavs) else None).hidden_states

    return encode


def encode_s3prl(expert: nn.Module, dtype: torch.dtype) -> Encode:
    return lambda wavs: list(expert([wav.to(dtype) for wav in wavs])["hidden_states"])


def encode_hf(model: nn.Module, normalise: bool, dtype: torch.dtype) -> Encode:
    def encode(wavs: list[Tensor]) -> list[Tensor]:
        if normalise:
            wavs = [normalize_waveform(wav) for wav in wavs]
        padded, lengths = collate(wavs)
        mask = None
        if ragged(wavs):
            mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long().to(padded.device)
        output = model(padded.to(dtype), attention_mask=mask, output_hidden_states=True)
        # its list holds the Large models' last state before the encoder's LayerNorm
        return [*output.hidden_states[:-1], output.last_hidden_state]

    return encode


def encode_torchaudio(model: nn.Module, normalise: bool, dtype: torch.dtype) -> Encode:
    def encode(wavs: list[Tensor]) -> list[Tensor]:
        if normalise:
            wavs = [normalize_waveform(wav) for wav in wavs]
        padded, lengths = collate(wavs)
        return model.extract_features(padded.to(dtype), lengths.to(padded.device) if ragged(wavs) else None)[0]

    return encode


def ragged(wavs: list[Tensor]) -> bool:
    """Whether a batch must be padded."""
    return any(len(wav) != len(wavs[0]) for wav in wavs)


def torchaudio_model(config: EncoderConfig) -> nn.Module:
    """torchaudio's own model of a dense shape, its weights as initialised.

    Raises:
        UserError: torchaudio has no such architecture.
    """
    import torchaudio

    if config.family == "data2vec":
        raise UserError("torchaudio has no data2vec.")
    shape = {
        "extractor_mode": config.extractor_mode,
        "extractor_conv_layer_config": [list(layer) for layer in config.conv_layers],
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.embed_dim,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": config.pos_conv_kernel,
        "encoder_pos_conv_groups": config.pos_conv_groups,
        "encoder_num_layers": config.num_layers,
        "encoder_num_heads": config.num_heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": config.ffn_dim,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": config.norm_first,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
    if config.family == "wavlm":
        shape |= {"encoder_num_buckets": config.num_buckets, "encoder_max_distance": config.max_distance}
        return torchaudio.models.wavlm_model(**shape)
    return torchaudio.models.wav2vec2_model(**shape)
