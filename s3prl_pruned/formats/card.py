"""The model card (`README.md`) of an exported encoder: description, origin, and the structure of each layer."""

import re

import yaml

from s3prl_pruned.compat import installed_hosts
from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.models.accelerate.int8 import is_int8
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.sparsity.counts import (
    LayerCounts,
    layer_weights,
    macs,
    parameters,
    prunable_weights,
    sparsity,
    whole_weights,
)
from s3prl_pruned.sparsity.quantities import INERT
from s3prl_pruned.tables import Column, Table

_METHOD = 'Wang et al. 2023, "Task-Agnostic Structured Pruning of Speech Representation Models"'
_SECONDS = 5  # length at which the card states MACs
_TIME, _NEXT_SECTION = "## Time", "## Provenance"
_NOT_TIMED = f"""{_TIME}

Not measured yet. This command times all exports of a folder, and writes the times into their cards:

    python tools/tradeoff.py result/ --cards
"""
_USE = """## Use

As an upstream of s3prl, by its commands:

    python run_downstream.py -u {family}_pruned -k <this folder> -d asr

or in Python:

    import s3prl_pruned
    s3prl_pruned.register()
    from s3prl.nn import S3PRLUpstream
    upstream = S3PRLUpstream("{family}_pruned_local", "<this folder>")

By s3prl_pruned alone, from an audio file:

    import s3prl_pruned
    states = s3prl_pruned.load("<this folder>").extract("speech.wav")
"""
TO_HUGGING_FACE = """
With transformers, from a folder that this command writes:

    python tools/export.py <this folder> <new folder> --to huggingface
"""
"""The third way to load the model, if transformers cannot read its folder."""


def card_head(encoder: SpeechEncoder, provenance: dict, task: str = "feature-extraction") -> str:
    """The YAML that Hugging Face's Hub reads at the beginning of a card.

    Args:
        encoder: the exported encoder.
        provenance: its licence is taken from `license`, if it is known.
        task: Hugging Face's name of what the model does.
    """
    family = encoder.config.family
    data = {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["speech", "audio", "self-supervised", "structured-pruning", "s3prl", "s3prl_pruned", family],
    }
    if isinstance(provenance.get("license"), str):
        data = {"license": provenance["license"], **data}
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n\n"


def model_card(encoder: SpeechEncoder, provenance: dict, sha256: str) -> str:
    """Markdown text.

    Args:
        encoder: the exported encoder.
        provenance: shown line by line, nested keys joined by dots; `teacher_note` (such as "random teacher") is put
            into the title too, so that nobody overlooks it.
        sha256: of the weights file.
    """
    note, spec = provenance.get("teacher_note"), encoder.spec
    pruned = f"{100 * sparsity(weights_left(encoder), encoder.config, spec):.1f} % pruned"
    matrices = "the attention and feed-forward matrices" + " and of the CNN" * (spec.channels is not None)
    matrices += " and of the positional convolution" * (spec.position_groups is not None)
    lines = [
        f"# {encoder.config.family} encoder, {pruned}" + (f" ({note})" if note else ""),
        "",
        f"Made by s3prl_pruned after {provenance.get('method', _METHOD)}.",
        f"Sparsity counts the weights (no biases) of {matrices}.",
        *_channels(encoder),
        *_position_groups(encoder),
        *_states(encoder),
        _licence(provenance),
        "",
        "## Size",
        "",
        _sizes(encoder, provenance).markdown(),
        "",
        _parts(encoder).markdown(),
        "",
        "## Structure",
        "",
        _summary(encoder),
        "",
        _layers(encoder).markdown(),
        "",
        _NOT_TIMED,
        _NEXT_SECTION,
        "",
        f"- sha256 of model.safetensors: {sha256}",
        f"- host: {', '.join(map(str, installed_hosts())) or 'none'}",
        *(f"- {name}: {value}" for name, value in _flatten(provenance)),
        "",
        _USE.format(family=encoder.config.family) + TO_HUGGING_FACE * (not is_int8(encoder)),
    ]
    return "\n".join(lines)


def with_times(card: str, times: str) -> str:
    """Replace the times in a card.

    Args:
        card: card of any version; without a section on time, one is added before the provenance or at the end.
        times: Markdown.
    """
    section = f"{_TIME}\n\n{times.strip()}\n\n"
    for old in (rf"^{_TIME}\n.*?(?=^## |\Z)", rf"^(?={_NEXT_SECTION}$)"):
        changed, found = re.subn(old, lambda _: section, card, count=1, flags=re.MULTILINE | re.DOTALL)
        if found:
            return changed
    return f"{card.rstrip()}\n\n{section}"


def _licence(provenance: dict) -> str:
    if isinstance(provenance.get("license"), str):
        return f"Licence: {provenance['license']}."
    teacher = (provenance.get("teacher") or provenance.get("source") or {}).get("name")
    origin = "what it was made from" + f" ({teacher})" * bool(teacher)
    return f"Licence: not recorded. The terms of {origin} apply."


def _sizes(encoder: SpeechEncoder, provenance: dict) -> Table:
    """The whole model beside the dense one. Zeros among the kept weights save no time."""
    config, spec, dense = encoder.config, encoder.spec, CompactSpec.dense(encoder.config)
    whole = whole_weights(config, spec)
    size, prunable, left = encoder.num_parameters(), prunable_weights(config, spec), weights_left(encoder)
    work = [sum(macs(config, each, _SECONDS * 16_000).values()) for each in (dense, spec)]
    rows = [
        ["parameters (all, with biases)", f"{sum(parameters(config, dense).values()):,}", f"{size:,}"],
        ["prunable weights", f"{whole:,}", f"{prunable:,}"],
    ]
    if prunable > left:
        rows.append(["parameters that are not zero", "", f"{size - prunable + left:,}"])
        rows.append(["prunable weights that are not zero (the MACs count zeros too)", "", f"{left:,}"])
    inert = (provenance.get("sparsity") or {}).get("inert_share")
    if inert is not None:
        rows.append(
            [f"share of the prunable weights in inert units (scaled by less than {INERT})", "", f"{100 * inert:.1f} %"]
        )
    size_of_weights = sum(tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values())
    whole_size = 4 * sum(parameters(config, dense).values())
    rows.append(["size of the weights", *(f"{each / 1e6:.1f} MB" for each in (whole_size, size_of_weights))])
    rows.append([f"MACs for {_SECONDS} s of audio", *(f"{each / 1e9:.3f} G" for each in work)])
    return Table(["", "dense", "this model"], rows)


def _parts(encoder: SpeechEncoder) -> Table:
    counts = parameters(encoder.config, encoder.spec)
    dense = parameters(encoder.config, CompactSpec.dense(encoder.config))
    columns = [Column("part"), Column("dense parameters", show="{:,}"), Column("parameters", show="{:,}")]
    return Table(columns, [[part, dense[part], counts[part]] for part in counts])


def _channels(encoder: SpeechEncoder) -> list[str]:
    if encoder.spec.channels is None:
        return []
    pairs = zip(encoder.spec.channels, encoder.config.conv_layers, strict=True)
    return [f"Channels of the CNN's layers: {', '.join(f'{len(kept)} of {whole}' for kept, (whole, _, _) in pairs)}."]


def _position_groups(encoder: SpeechEncoder) -> list[str]:
    kept = encoder.spec.position_groups
    if kept is None:
        return []
    return [f"Groups of the positional convolution: {len(kept)} of {encoder.config.pos_conv_groups}."]


def _states(encoder: SpeechEncoder) -> list[str]:
    """The hidden states that the model publishes, if they are not those of s3prl."""
    rule = encoder.config.states
    if rule == StateRule():
        return []
    first = {"input": "the first layer's input", "projection": "the projection's output", "none": ""}[rule.first]
    last = "" if rule.final_norm or not encoder.config.norm_first else ", the last one without the final LayerNorm"
    outputs = f"the outputs of its {encoder.config.num_layers} layers{last}"
    if rule.heads is not None and rule.heads.kind == "maps":
        outputs += f", each through a linear map to {rule.heads.dim} dimensions"
    elif rule.heads is not None:
        outputs += f" and {rule.heads.number} predictions made of the last one"
    return [f"Hidden states: {f'{first} and ' if first else ''}{outputs}, as its authors' program gives them."]


def _summary(encoder: SpeechEncoder) -> str:
    """One paragraph about the kept parts of all layers together."""
    config, layers = encoder.config, encoder.spec.layers
    attention = sum(bool(layer.attention and layer.heads) for layer in layers)
    feed_forward = sum(bool(layer.feed_forward and layer.ffn) for layer in layers)
    heads = sum(len(layer.heads) for layer in layers if layer.attention)
    ffn = sum(len(layer.ffn) for layer in layers if layer.feed_forward)
    return (
        f"{len(layers)} layers of width {config.embed_dim}: {attention} have attention, {feed_forward} a feed-forward "
        f"network (FFN). {heads} of {config.num_layers * config.num_heads} heads and {ffn:,} of "
        f"{config.num_layers * config.ffn_dim:,} FFN dims are left; a head had {config.head_dim} dims. In the last "
        "column heads are counted from 0, as in the dense model, and followed by their q/k and v/o dims."
    )


def _layers(encoder: SpeechEncoder) -> Table:
    rows, dim, dense = [], encoder.config.embed_dim, CompactSpec.dense(encoder.config)
    for i, (layer, whole) in enumerate(zip(encoder.spec.layers, dense.layers, strict=True), start=1):
        counts = LayerCounts.of(layer)
        kept = layer_weights(dim, counts) / layer_weights(dim, LayerCounts.of(whole))
        number = len(layer.heads) if layer.attention else None
        rows.append([i, number, counts.qk, counts.vo, counts.ffn, 100 * kept, _heads(layer)])
    kept_weights = Column("weights kept", show="{:.1f} %")
    return Table(["layer", "heads", "q/k dims", "v/o dims", "FFN dims", kept_weights, "each head"], rows)


def _heads(layer: LayerSpec) -> str | None:
    """Each head with its dims, such as "0: 8/64, 3: 64/64"; those of one size together: "0, 1, 2: 64/64"."""
    if not (layer.attention and layer.heads):
        return None
    alike: dict[str, list[str]] = {}
    for head in layer.heads:
        alike.setdefault(f"{len(head.qk)}/{len(head.vo)}", []).append(str(head.index))
    if len(alike) == 1:
        return "".join(f"{', '.join(heads)}: {dims}" for dims, heads in alike.items())
    return ", ".join(f"{head.index}: {len(head.qk)}/{len(head.vo)}" for head in layer.heads)


def _flatten(data: dict, prefix: str = "") -> list[tuple[str, object]]:
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines += _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            lines.append((prefix + key, value))
    return lines
