"""The model card (`README.md`) of an exported encoder: what it is, where it comes from, what is left per layer."""

import yaml

from s3prl_pruned.compat import installed_hosts
from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, StateRule
from s3prl_pruned.sparsity.counts import (
    LayerCounts,
    layer_weights,
    macs,
    parameters,
    prunable_weights,
    sparsity,
    whole_weights,
)
from s3prl_pruned.tables import Column, Table

_METHOD = 'Wang et al. 2023, "Task-Agnostic Structured Pruning of Speech Representation Models"'
_SECONDS = 5  # length at which the card states MACs


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
        "",
        _sizes(encoder).markdown(),
        "",
        _parts(encoder).markdown(),
        "",
        _layers(encoder).markdown(),
        "",
        "## Provenance",
        "",
        f"- sha256 of model.safetensors: {sha256}",
        f"- host: {', '.join(map(str, installed_hosts())) or 'none'}",
        *(f"- {name}: {value}" for name, value in _flatten(provenance)),
        "",
        "## Use",
        "",
        f"    python run_downstream.py -u {encoder.config.family}_pruned -k <this folder> -d asr",
        "",
    ]
    return "\n".join(lines)


def _sizes(encoder: SpeechEncoder) -> Table:
    """The whole model beside the dense one. Weights that are zero where they stand make nothing faster."""
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
    """Which hidden states it publishes, where these are not s3prl's."""
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


def _layers(encoder: SpeechEncoder) -> Table:
    rows, dim, dense = [], encoder.config.embed_dim, CompactSpec.dense(encoder.config)
    for i, (layer, whole) in enumerate(zip(encoder.spec.layers, dense.layers, strict=True), start=1):
        counts = LayerCounts.of(layer)
        kept = layer_weights(dim, counts) / layer_weights(dim, LayerCounts.of(whole))
        rows.append([i, len(layer.heads) if layer.attention else None, counts.qk, counts.vo, counts.ffn, 100 * kept])
    kept_weights = Column("weights kept", show="{:.1f} %")
    return Table(["layer", "heads", "q/k dims", "v/o dims", "FFN dims", kept_weights], rows)


def _flatten(data: dict, prefix: str = "") -> list[tuple[str, object]]:
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines += _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            lines.append((prefix + key, value))
    return lines
