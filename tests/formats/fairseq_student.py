"""Students with fairseq's names, as published by several other projects: random weights, and their states in float64.

Written from facts about these projects only: plain functions on a dict of tensors, independent of the package.
"""

import ast
import math

import torch
import torch.nn.functional as F
import yaml

CONV_LAYERS = "[(8, 10, 5)] + [(10, 1, 1)] + [(10, 3, 2)] * 4 + [(16, 1, 1)] + [(16, 2, 2)] * 2"
"""The form of the published CNNs, 320 samples per frame."""
TINY = {
    "extractor_mode": "default",
    "conv_feature_layers": CONV_LAYERS,
    "conv_bias": False,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "encoder_layers": 3,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 4,
    "layer_norm_first": False,
    "activation_fn": "gelu",
}


def conv_layers(cfg):
    """Parse the tests' own notation to [(channels, kernel, stride)]."""
    layers = []
    for part in cfg["conv_feature_layers"].split("+"):
        listed, _, times = part.partition("*")
        layers += ast.literal_eval(listed.strip()) * int(times or 1)
    return layers


def shapes(cfg, *, input_norm=True):
    """Shape of every weight by name."""
    dim, ffn, kernel = cfg["encoder_embed_dim"], cfg["encoder_ffn_embed_dim"], cfg["conv_pos"]
    found, before = {}, 1
    for i, (channels, width, _) in enumerate(conv_layers(cfg)):
        found[f"feature_extractor.conv_layers.{i}.0.weight"] = (channels, before, width)
        if cfg["conv_bias"]:
            found[f"feature_extractor.conv_layers.{i}.0.bias"] = (channels,)
        wrapped = cfg["extractor_mode"] == "layer_norm"
        if wrapped or i == 0:
            norm = f"feature_extractor.conv_layers.{i}.2" + ".1" * wrapped
            found |= {f"{norm}.weight": (channels,), f"{norm}.bias": (channels,)}
        before = channels
    if input_norm:
        found |= {"layer_norm.weight": (before,), "layer_norm.bias": (before,)}
    if before != dim:
        found |= {"post_extract_proj.weight": (dim, before), "post_extract_proj.bias": (dim,)}
    found |= {
        "encoder.pos_conv.0.weight_g": (1, 1, kernel),
        "encoder.pos_conv.0.weight_v": (dim, dim // cfg["conv_pos_groups"], kernel),
        "encoder.pos_conv.0.bias": (dim,),
        "encoder.layer_norm.weight": (dim,),
        "encoder.layer_norm.bias": (dim,),
    }
    for i in range(cfg["encoder_layers"]):
        layer = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= {f"{layer}self_attn.{name}.weight": (dim, dim), f"{layer}self_attn.{name}.bias": (dim,)}
        found |= {f"{layer}fc1.weight": (ffn, dim), f"{layer}fc1.bias": (ffn,)}
        found |= {f"{layer}fc2.weight": (dim, ffn), f"{layer}fc2.bias": (dim,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            found |= {f"{layer}{name}.weight": (dim,), f"{layer}{name}.bias": (dim,)}
    return found


def weights(named_shapes, seed):
    """Random weights, large enough that attention is not uniform and norms have an effect."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in named_shapes.items():
        inputs = math.prod(shape[1:]) if len(shape) > 1 else 16
        gain = 1.7 if "conv_layers" in name else 1  # repeated GELU would reduce the values to almost 0
        value = gain * torch.randn(shape, generator=generator) / math.sqrt(inputs)
        one = name.endswith("weight_g") or (len(shape) == 1 and name.endswith("weight"))
        state[name] = value / gain + 1 if one else value
    return state


def count(named_shapes):
    return sum(math.prod(shape) for shape in named_shapes.values())


def encode(state, cfg, wavs, *, normalize=False, chunks=False):
    """The projected features and the output of each layer.

    Args:
        state: with fairseq's names.
        cfg: fairseq's configuration.
        wavs: a list of (S,).
        normalize: whether each waveform is layer-normed first.
        chunks: rule for padding. True: frames whose share of the padded samples is padding; False: frames beyond the
            CNN's output for the waveform alone.

    Returns:
        (B, T, D), zeros in padded frames; a list of (B, T, D); and the last one, normed if norms come first.
    """
    state = {name: value.double() for name, value in state.items()}
    wavs = [wav.double() for wav in wavs]
    if normalize:
        wavs = [(wav - wav.mean()) / torch.sqrt(wav.var(correction=0) + 1e-5) for wav in wavs]
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    features = _cnn(state, cfg, padded)
    if "layer_norm.weight" in state:
        features = _norm(state, "layer_norm", features)
    if "post_extract_proj.weight" in state:
        features = _linear(state, "post_extract_proj", features)
    lengths = [_frames(len(wav), cfg) for wav in wavs]
    if chunks:
        share = padded.shape[1] // features.shape[1]
        lengths = [math.ceil(len(wav) / share) for wav in wavs]
    padding = torch.arange(features.shape[1]) >= torch.tensor(lengths)[:, None]
    features = features.masked_fill(padding[..., None], 0.0)
    x = features + _positions(state, cfg, features)
    first = cfg["layer_norm_first"]
    x = x if first else _norm(state, "encoder.layer_norm", x)
    outputs = []
    for i in range(cfg["encoder_layers"]):
        x = _layer(state, f"encoder.layers.{i}.", cfg["encoder_attention_heads"], x, padding, first)
        outputs.append(x)
    return features, outputs, _norm(state, "encoder.layer_norm", x) if first else x


def _frames(samples, cfg):
    for _, kernel, stride in conv_layers(cfg):
        samples = (samples - kernel) // stride + 1
    return samples


def _gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _norm(state, name, x, dim=-1):
    centred = x - x.mean(dim, keepdim=True)
    x = centred / torch.sqrt(centred.square().mean(dim, keepdim=True) + 1e-5)
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return x * weight + bias if dim == -1 else x * weight[:, None] + bias[:, None]


def _linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _cnn(state, cfg, wavs):
    x = wavs[:, None]
    for i, (_, _, stride) in enumerate(conv_layers(cfg)):
        name = f"feature_extractor.conv_layers.{i}."
        x = F.conv1d(x, state[f"{name}0.weight"], state.get(f"{name}0.bias"), stride=stride)
        if f"{name}2.1.weight" in state:
            x = _norm(state, f"{name}2.1", x.transpose(1, 2)).transpose(1, 2)
        elif f"{name}2.weight" in state:
            x = _norm(state, f"{name}2", x, dim=2)
        x = _gelu(x)
    return x.transpose(1, 2)


def _positions(state, cfg, x):
    direction, magnitude = state["encoder.pos_conv.0.weight_v"], state["encoder.pos_conv.0.weight_g"]
    weight = direction * magnitude / direction.square().sum((0, 1), keepdim=True).sqrt()
    padding = weight.shape[-1] // 2
    y = F.conv1d(
        x.transpose(1, 2), weight, state["encoder.pos_conv.0.bias"], padding=padding, groups=cfg["conv_pos_groups"]
    )
    return _gelu(y[..., : x.shape[1]].transpose(1, 2))


def _layer(state, name, heads, x, padding, first):
    y = _norm(state, f"{name}self_attn_layer_norm", x) if first else x
    q, k, v = (
        _linear(state, f"{name}self_attn.{part}", y).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in ("q_proj", "k_proj", "v_proj")
    )
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(padding[:, None, None], -math.inf)
    y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
    x = x + _linear(state, f"{name}self_attn.out_proj", y)
    x = x if first else _norm(state, f"{name}self_attn_layer_norm", x)
    y = _norm(state, f"{name}final_layer_norm", x) if first else x
    x = x + _linear(state, f"{name}fc2", _gelu(_linear(state, f"{name}fc1", y)))
    return x if first else _norm(state, f"{name}final_layer_norm", x)


def lightning_file(path, state, cfg, *, inside=False, **more):
    """Write a student as its authors' Lightning program does, with its teacher; the YAML beside it unless `inside`."""
    content = {
        "epoch": 199,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": {
            **{f"teacher_model.model.{name}": torch.zeros(2) for name in state},
            **{f"student_model.{name}": value for name, value in state.items()},
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [],
    }
    section = {**cfg, "dropout": 0.1, "layer_grad_scale": True, "required_seq_len_multiple": 1, "final_dim": 5, **more}
    document = {"teacher": {"teacher_model": "hubert_base_ls960.pt"}, "train": {"gpus": 1}, "distiller": section}
    if inside:
        content["hyper_parameters"] = {"cfg": document}
    else:
        path.with_suffix(".yaml").write_text(yaml.safe_dump(document))
    torch.save(content, path)


def star(path, *, cfg=TINY, seed=1, **where):
    """Write a STaRHuBERT file; returns its weights."""
    state = weights(shapes(cfg), seed)
    final = {"final_proj.weight": torch.zeros(5, cfg["encoder_embed_dim"]), "final_proj.bias": torch.zeros(5)}
    lightning_file(path, {**state, **final}, cfg, **where)
    return state


def star_states(state, cfg, wavs):
    return encode(state, cfg, wavs)[1]


def mask_shapes(cfg, dim):
    heads = {}
    for i in range(cfg["encoder_layers"]):
        name = f"proj_head.{i}.lin_proj"
        heads |= {f"{name}.weight": (dim, cfg["encoder_embed_dim"]), f"{name}.bias": (dim,)}
    return {**shapes(cfg), **heads, "mask_emb": (cfg["encoder_embed_dim"],)}


def mask(path, *, cfg=TINY, dim=20, seed=1, **where):
    """Write a MaskHuBERT file; returns its weights."""
    state = weights(mask_shapes(cfg, dim), seed)
    lightning_file(path, state, cfg, layerwise_proj=True, pred_head_final_dim=dim, enable_tr_layer=False, **where)
    return state


def mask_states(state, cfg, wavs):
    outputs = encode(state, cfg, wavs)[1]
    state = {name: value.double() for name, value in state.items()}
    return [_linear(state, f"proj_head.{i}.lin_proj", output) for i, output in enumerate(outputs)]


def distil_words(cfg=TINY, **changed):
    """Content of s3prl's `distiller` section."""
    words = {key: value for key, value in cfg.items() if key not in ("conv_feature_layers", "conv_bias")}
    heads = {"n_tasks": 3, "pred_layer_id": [4, 8, 12], "final_dim": cfg["encoder_embed_dim"]}
    kinds = {"task_emb_type": "expand-last", "out_layer_type": "expand-last", "attention_type": "original"}
    return {**words, "extractor_conv_feature_layers": cfg["conv_feature_layers"], **heads, **kinds, **changed}


def distil_shapes(words, cfg=TINY):
    dim, number, final = words["encoder_embed_dim"], words["n_tasks"], words["final_dim"]
    inner = words.get("out_layer_inter_dim", dim)
    found = shapes(cfg, input_norm=False)
    found |= {"output_layer.0.weight": (number * inner, dim), "output_layer.0.bias": (number * inner,)}
    if number == 1:
        return found | {"output_layer.2.layer.weight": (final, inner), "output_layer.2.layer.bias": (final,)}
    return found | {"output_layer.2.weight": (number, inner, final), "output_layer.2.bias": (1, 1, number, final)}


def distil(path, *, cfg=TINY, seed=1, extra=None, **changed):
    """Write a DistilHuBERT file; returns its weights."""
    words = distil_words(cfg, **changed)
    state = weights(distil_shapes(words, cfg), seed)
    torch.save({"Config": {"distiller": words}, "Distiller": state, "Step": 3, "Epoch": 1, **(extra or {})}, path)
    return state


LIGHT = {
    **TINY,
    "_name": "hubert_pruner",
    "pruner_supernet": "/data/Supernet-Small.yaml",
    "encoder_embed_dim": 448,
    "encoder_ffn_embed_dim": 4 * 448,
    "encoder_attention_heads": 7,
    "encoder_layers": 2,
    "conv_pos_groups": 16,
    "teacher_embed_dim": 20,
}
"""A supernet just wide enough for the published small subnet, 384/6/1536."""


def light(path, *, cfg=LIGHT, seed=1):
    """Write a LightHuBERT file; returns the supernet's weights."""
    state = weights({**shapes(cfg), "mask_emb": (cfg["encoder_embed_dim"],)}, seed)
    last = cfg["encoder_layers"] - 1
    heads = {f"layer_pred_heads.{last}.weight": torch.zeros(20, cfg["encoder_embed_dim"])}
    heads |= {
        "final_proj.weight": torch.zeros(2, 2),
        "final_proj.bias": torch.zeros(2),
        "label_embs_concat": torch.ones(3),
    }
    torch.save({"cfg": {"_name": None, "model": cfg, "task": {"normalize": True}}, "model": {**state, **heads}}, path)
    return state


def light_subnet(state, cfg, dim, heads, ffn):
    """Weights and configuration of a subnet, cut from the supernet one index at a time."""
    wide = cfg["encoder_embed_dim"]
    inner = [block * wide + i for block in range(wide) for i in range(dim) if block * dim + i < ffn][:ffn]
    direction, magnitude = state["encoder.pos_conv.0.weight_v"].double(), state["encoder.pos_conv.0.weight_g"].double()
    weight = direction * magnitude / direction.square().sum((0, 1), keepdim=True).sqrt()
    weight = weight[:dim, : dim // cfg["conv_pos_groups"]]
    found = {}
    for name, value in state.items():
        if name.startswith(("feature_extractor.", "layer_norm.")):
            found[name] = value
        elif ".self_attn." in name and name.endswith("weight") and "norm" not in name:
            found[name] = value[:dim, :dim]
        elif ".fc1." in name:
            found[name] = value[inner][:, :dim] if value.dim() == 2 else value[inner]
        elif ".fc2.weight" in name:
            found[name] = value[:dim][:, inner]
        else:
            found[name] = value[:dim]
    found["encoder.pos_conv.0.weight_v"] = weight
    found["encoder.pos_conv.0.weight_g"] = weight.square().sum((0, 1), keepdim=True).sqrt()
    widths = {"encoder_embed_dim": dim, "encoder_attention_heads": heads, "encoder_ffn_embed_dim": ffn}
    return found, {**cfg, **widths}


def light_states(state, cfg, wavs):
    """States of a subnet from its weights and configuration."""
    features, outputs, _ = encode(state, cfg, wavs, normalize=True, chunks=True)
    return [features, *outputs]


def distil_states(state, cfg, wavs):
    features, outputs, last = encode(state, cfg, wavs)
    state = {name: value.double() for name, value in state.items()}
    hidden = _gelu(_linear(state, "output_layer.0", last))
    if "output_layer.2.layer.weight" in state:
        return [features, *outputs, _linear(state, "output_layer.2.layer", hidden)]
    weight, bias = state["output_layer.2.weight"], state["output_layer.2.bias"]
    inner = weight.shape[1]
    predictions = [hidden[..., k * inner : (k + 1) * inner] @ weight[k] + bias[0, 0, k] for k in range(len(weight))]
    return [features, *outputs, *predictions]
