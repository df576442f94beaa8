"""Checkpoints in DPHuBERT's format with random weights, and the output of its authors' model for them.

Both are written from the published facts alone (keys, shapes, order of operations), in plain torch and float64, head
by head: nothing of the package is used.
"""

import math

import torch
import torch.nn.functional as F

TINY = {
    "extractor_conv_layer_config": [(5, 10, 5), (7, 3, 2), (6, 3, 2), (9, 2, 2), (8, 2, 2)],
    "encoder_embed_dim": 24,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 4,
    "encoder_ff_interm_features": [11, 5, 20],
    "heads": [[0, 2], [1], [0, 1, 3]],
    "total_heads": 4,
    "encoder_num_buckets": 32,
    "encoder_max_distance": 24,
}
"""Three layers; 80 samples per frame. `heads` are a layer's surviving heads, None: no attention; FFN 0: no FFN."""


def configuration(family="wavlm", *, large=False, diarizen=False, **changes):
    """The configuration beside the weights: `TINY` with changes."""
    given = {**TINY, **changes}
    heads, ffn, total = given.pop("heads"), given["encoder_ff_interm_features"], given.pop("total_heads")
    number = len(heads)
    cfg = {
        **given,
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_bias": False,
        "encoder_projection_dropout": 0.1,
        "encoder_num_layers": number,
        "encoder_use_attention": [kept is not None for kept in heads],
        "encoder_use_feed_forward": [bool(size) for size in ffn],
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": large,
        "encoder_layer_drop": 0.05,
        "aux_num_out": None,
        "normalize_waveform": large,
        "extractor_prune_conv_channels": False,
        "encoder_prune_attention_heads": False,
        "encoder_prune_attention_layer": False,
        "encoder_prune_feed_forward_intermediate": False,
        "encoder_prune_feed_forward_layer": False,
    }
    if family == "wavlm":
        cfg |= {"encoder_total_num_heads": [total] * number, "encoder_remaining_heads": [kept or [] for kept in heads]}
    else:
        del cfg["encoder_num_buckets"], cfg["encoder_max_distance"]
        cfg |= {"encoder_num_heads": [len(kept or []) for kept in heads], "encoder_head_dim": 24 // total}
    return {**cfg, "use_layerwise_prune": False} if diarizen else cfg


def shapes_of(cfg, *, diarizen=False):
    """The keys of a state dict and their shapes."""
    dim, kernel = cfg["encoder_embed_dim"], cfg["encoder_pos_conv_kernel"]
    convs = cfg["extractor_conv_layer_config"]
    last = convs[-1][0]
    shapes = {"feature_extractor.dummy_weight": (last,)}
    before = 1
    for c, (out, width, _) in enumerate(convs):
        conv = f"feature_extractor.conv_layers.{c}."
        shapes[conv + "conv.weight"] = (out, before, width)
        if cfg["extractor_conv_bias"]:
            shapes[conv + "conv.bias"] = (out,)
        if c == 0 or cfg["extractor_mode"] == "layer_norm":
            shapes |= {conv + "layer_norm.weight": (out,), conv + "layer_norm.bias": (out,)}
        before = out
    shapes |= pair("encoder.feature_projection.layer_norm", last)
    shapes |= linear("encoder.feature_projection.projection", dim, last)
    position = "encoder.transformer.pos_conv_embed.conv."
    names = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    magnitude, direction = names if diarizen else ("weight_g", "weight_v")
    shapes |= {
        position + "bias": (dim,),
        position + magnitude: (1, 1, kernel),
        position + direction: (dim, dim // cfg["encoder_pos_conv_groups"], kernel),
    }
    shapes |= pair("encoder.transformer.layer_norm", dim)
    for i in range(cfg["encoder_num_layers"]):
        layer = f"encoder.transformer.layers.{i}."
        if cfg["encoder_use_attention"][i]:
            shapes |= attention_shapes(cfg, i, layer + "attention.")
        shapes |= pair(layer + "layer_norm", dim)
        if cfg["encoder_use_feed_forward"][i]:
            size = cfg["encoder_ff_interm_features"][i]
            shapes |= linear(layer + "feed_forward.intermediate_dense", size, dim)
            shapes |= linear(layer + "feed_forward.output_dense", dim, size)
        shapes |= pair(layer + "final_layer_norm", dim)
    return shapes


def attention_shapes(cfg, i, part):
    """Keys and shapes of one layer's attention."""
    dim, wavlm, shapes = cfg["encoder_embed_dim"], "encoder_remaining_heads" in cfg, {}
    total = cfg["encoder_total_num_heads"][i] if wavlm else dim // cfg["encoder_head_dim"]
    size = dim // total * len(heads_of(cfg, i))
    for name in ("q_proj", "k_proj", "v_proj"):
        shapes |= linear(part + name, size, dim)
    shapes |= linear(part + "out_proj", dim, size)
    if wavlm:
        shapes |= linear(part + "gru_rel_pos_linear", 8, dim // total)
        shapes[part + "gru_rel_pos_const"] = (1, total, 1, 1)
        if i == 0:
            shapes[part + "rel_attn_embed.weight"] = (cfg["encoder_num_buckets"], total)
    return shapes


def heads_of(cfg, i):
    """The surviving heads of a layer."""
    return cfg["encoder_remaining_heads"][i] if "encoder_remaining_heads" in cfg else range(cfg["encoder_num_heads"][i])


def pair(name, size):
    """Keys and shapes of a norm."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def linear(name, out, inputs):
    """Keys and shapes of a linear map."""
    return {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}


def random_state(cfg, *, seed=0, diarizen=False):
    """Weights whose scores, gates, biases and norms all have a spread of about 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes_of(cfg, diarizen=diarizen).items():
        fan = math.prod(shape[1:]) if len(shape) > 1 and "gru_rel_pos_const" not in key and "embed.w" not in key else 1
        value = torch.randn(shape, generator=generator) * 1.3 * max(1, fan) ** -0.5
        around_one = "layer_norm.weight" in key or "dummy_weight" in key or key.endswith(("weight_g", "original0"))
        state[key] = 1 + 0.3 * value if around_one else value
    return state


def checkpoint(family="wavlm", *, seed=0, diarizen=False, **changes):
    """The content of a checkpoint, for `torch.save`."""
    cfg = configuration(family, diarizen=diarizen, **changes)
    return {"state_dict": random_state(cfg, seed=seed, diarizen=diarizen), "config": cfg}


TEMPERATURE = 2 / 3


def mask_of(log_alpha):
    """The mask by DPHuBERT's rule, number by number."""
    probability = [1 / (1 + math.exp(-(a - TEMPERATURE * math.log(0.1 / 1.1)))) for a in log_alpha.tolist()]
    zeros = round(len(probability) - sum(probability))
    values = [1 / (1 + math.exp(-0.8 * a / TEMPERATURE)) for a in log_alpha.tolist()]
    for place in sorted(range(len(values)), key=values.__getitem__)[:zeros]:
        values[place] = 0.0
    return torch.tensor(values)


def with_gates(content, *, kinds, seed=0):
    """A student in training: the checkpoint with gates, and the masks that result from them."""
    generator = torch.Generator().manual_seed(seed)
    state, cfg = dict(content["state_dict"]), content["config"]
    sizes = {}
    for c, (channels, _, _) in enumerate(cfg["extractor_conv_layer_config"]):
        sizes[f"feature_extractor.conv_layers.{c}.hard_concrete"] = channels
    for i in range(cfg["encoder_num_layers"]):
        layer = f"encoder.transformer.layers.{i}."
        sizes[layer + "attention.hard_concrete_for_heads"] = 4
        sizes[layer + "attention.hard_concrete_for_layer"] = 1
        sizes[layer + "feed_forward.hard_concrete_for_intermediate"] = cfg["encoder_ff_interm_features"][i]
        sizes[layer + "feed_forward.hard_concrete_for_layer"] = 1
    gates = {
        name: 2 + 1.5 * torch.randn(size, generator=generator)
        if size == 1
        else 2 * torch.randn(size, generator=generator)
        for name, size in sizes.items()
        if name.endswith(kinds)
    }
    masks = {name: mask_of(log_alpha) for name, log_alpha in gates.items()}
    return {**state, **{f"{name}.log_alpha": value for name, value in gates.items()}}, masks


def in_training():
    """The checkpoint of a student in training."""
    content = checkpoint(heads=[[0, 1, 2, 3]] * 3)
    return {**content, "state_dict": with_gates(content, kinds=("hard_concrete", "heads", "layer", "intermediate"))[0]}


# --- what the authors' model computes --------------------------------------------------------------


def gelu(x):
    """GELU with the error function."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def norm(x, weight, bias, dim):
    """Normalise a dimension to mean 0 and variance 1, then scale and shift."""
    shape = [1] * x.dim()
    shape[-1 if dim == -1 else 1] = -1
    centred = x - x.mean(dim, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(dim, keepdim=True) + 1e-5)
    return scaled * weight.view(shape) + bias.view(shape)


def bucket(distance, buckets, most):
    """T5's bucket of key minus query position."""
    half = buckets // 2
    exact = half // 2
    start, size = (half if distance > 0 else 0), abs(distance)
    if size < exact:
        return start + size
    # in fp32 like theirs: if a quotient is an integer, float64 may round to the bucket below
    coarse = torch.log(torch.tensor(float(size)) / exact) / math.log(most / exact) * (half - exact)
    return start + min(exact + int(coarse), half - 1)


class Authors:
    """The authors' model of a checkpoint.

    Args:
        content: `state_dict` and `config`.
        masks: the gates' masks: {key of the gate: (n,)}.
    """

    def __init__(self, content, masks=None):
        self.cfg = content["config"]
        self.w = {key: value.double() for key, value in content["state_dict"].items()}
        self.masks = {key: value.double() for key, value in (masks or {}).items()}
        self.wavlm = "encoder_remaining_heads" in self.cfg

    def states(self, wavs, *, diarizen=False):
        """Published states of a list of waveforms (S,): state 0 and each layer's output, (B, T, D)."""
        wavs = [wav.double() for wav in wavs]
        if self.cfg["normalize_waveform"]:
            wavs = [(wav - wav.mean()) / torch.sqrt(wav.var(unbiased=False) + 1e-5) for wav in wavs]
        x = torch.zeros(len(wavs), 1, max(map(len, wavs)), dtype=torch.float64)
        for row, wav in zip(x, wavs):
            row[0, : len(wav)] = wav
        frames = [len(wav) for wav in wavs]
        for c, (_, kernel, stride) in enumerate(self.cfg["extractor_conv_layer_config"]):
            x = self.convolution(x, c, stride)
            frames = [max(0, (n - kernel) // stride + 1) for n in frames]
        x = x.transpose(1, 2) * self.w["feature_extractor.dummy_weight"]
        x = self.norm(x, "encoder.feature_projection.layer_norm")
        x = self.linear(x, "encoder.feature_projection.projection")
        padded = torch.arange(x.shape[1]) >= torch.tensor(frames)[:, None]
        x[padded] = 0.0
        projected = x
        x = x + self.position(x)
        first = self.cfg["encoder_layer_norm_first"]
        if not first:
            x = self.norm(x, "encoder.transformer.layer_norm")
        states, bias = [x if diarizen else projected], self.bias(x.shape[1])
        for i in range(self.cfg["encoder_num_layers"]):
            layer = f"encoder.transformer.layers.{i}."
            if self.cfg["encoder_use_attention"][i]:
                y = self.norm(x, layer + "layer_norm") if first else x
                x = x + self.attention(y, i, layer + "attention.", bias, padded)
            if not first:
                x = self.norm(x, layer + "layer_norm")
            if self.cfg["encoder_use_feed_forward"][i]:
                y = self.norm(x, layer + "final_layer_norm") if first else x
                x = x + self.feed_forward(y, layer + "feed_forward.")
            if not first:
                x = self.norm(x, layer + "final_layer_norm")
            states.append(x)
        return states

    def convolution(self, x, c, stride):
        """One layer of the CNN."""
        part = f"feature_extractor.conv_layers.{c}."
        x = F.conv1d(x, self.w[part + "conv.weight"], self.w.get(part + "conv.bias"), stride=stride)
        if part + "layer_norm.weight" in self.w:
            dim = 1 if self.cfg["extractor_mode"] == "layer_norm" else -1
            weight, bias = self.w[part + "layer_norm.weight"], self.w[part + "layer_norm.bias"]
            centred = x - x.mean(dim, keepdim=True)
            x = centred / torch.sqrt(centred.square().mean(dim, keepdim=True) + 1e-5)
            x = x * weight[:, None] + bias[:, None]
        x = gelu(x)
        z = self.masks.get(part + "hard_concrete")
        return x if z is None else x * z[:, None]

    def position(self, x):
        """The positional convolution and its GELU."""
        part = "encoder.transformer.pos_conv_embed.conv."
        v = self.w.get(part + "weight_v", self.w.get(part + "parametrizations.weight.original1"))
        g = self.w.get(part + "weight_g", self.w.get(part + "parametrizations.weight.original0"))
        weight = torch.stack([v[..., t] / v[..., t].square().sum().sqrt() * g[0, 0, t] for t in range(v.shape[-1])], -1)
        y = F.conv1d(
            x.transpose(1, 2),
            weight,
            self.w[part + "bias"],
            padding=v.shape[-1] // 2,
            groups=self.cfg["encoder_pos_conv_groups"],
        )
        return gelu(y[..., : x.shape[1]]).transpose(1, 2)

    def bias(self, frames):
        """The position bias (H, T, T) from layer 0's embedding; None if layer 0 has none."""
        table = self.w.get("encoder.transformer.layers.0.attention.rel_attn_embed.weight")
        if table is None:
            return None
        buckets, most = self.cfg["encoder_num_buckets"], self.cfg["encoder_max_distance"]
        index = [[bucket(key - query, buckets, most) for key in range(frames)] for query in range(frames)]
        return table[torch.tensor(index)].permute(2, 0, 1)

    def attention(self, x, i, part, bias, padded):
        """The attention of a layer, head by head."""
        total = self.cfg["encoder_total_num_heads"][i] if self.wavlm else None
        kept = list(heads_of(self.cfg, i))
        size = x.shape[-1] // total if self.wavlm else self.cfg["encoder_head_dim"]
        query, key, value = (self.linear(x, part + name) for name in ("q_proj", "k_proj", "v_proj"))
        z = self.masks.get(part + "hard_concrete_for_heads")
        contexts = []
        for place, head in enumerate(kept):
            dims = slice(place * size, (place + 1) * size)
            scores = query[..., dims] @ key[..., dims].transpose(1, 2) / math.sqrt(size)
            if bias is not None:
                own = x[..., head * size : (head + 1) * size]  # part of the input, as split by the dense model
                eight = self.linear(own, part + "gru_rel_pos_linear")
                a, b = torch.sigmoid(eight[..., :4].sum(-1)), torch.sigmoid(eight[..., 4:].sum(-1))
                gate = a * (b * self.w[part + "gru_rel_pos_const"][0, head, 0, 0] - 1) + 2
                scores = scores + gate[..., None] * bias[head]
            scores = scores.masked_fill(padded[:, None], -10000.0)
            context = torch.softmax(scores, -1) @ value[..., dims]
            contexts.append(context if z is None else context * z[place])
        y = self.linear(torch.cat(contexts, -1), part + "out_proj")
        return y * self.masks.get(part + "hard_concrete_for_layer", torch.ones(1))

    def feed_forward(self, x, part):
        """The feed-forward of one layer."""
        y = gelu(self.linear(x, part + "intermediate_dense"))
        y = y * self.masks.get(part + "hard_concrete_for_intermediate", torch.ones(1))
        return self.linear(y, part + "output_dense") * self.masks.get(part + "hard_concrete_for_layer", torch.ones(1))

    def norm(self, x, name):
        """A norm over the last dimension, by its name."""
        return norm(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], -1)

    def linear(self, x, name):
        """A linear map, by its name."""
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]
