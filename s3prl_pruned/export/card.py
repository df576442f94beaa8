"""The model card (`README.md`) of an exported encoder: what it is, where it comes from, what is left per layer."""

from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import (
    EncoderCounts,
    LayerCounts,
    layer_weights,
    macs,
    parameters,
    prunable_weights,
    sparsity,
    weights,
)

_METHOD = "Wang et al. 2023, \"Task-Agnostic Structured Pruning of Speech Representation Models\""
_SECONDS = 5  # length at which the card states MACs


def model_card(encoder: SpeechEncoder, provenance: dict, sha256: str) -> str:
    """Markdown text.

    Args:
        encoder: the exported encoder.
        provenance: shown line by line, nested keys joined by dots; `teacher_note` (such as "random teacher") is put
            into the title too, so that nobody overlooks it.
        sha256: of the weights file.
    """
    config, spec, dense = encoder.config, encoder.spec, CompactSpec.dense(encoder.config)
    note, with_cnn, left = provenance.get("teacher_note"), spec.channels is not None, weights_left(encoder)
    counts, dense_counts = parameters(config, spec), parameters(config, dense)
    samples = _SECONDS * 16_000
    work, dense_work = sum(macs(config, spec, samples).values()), sum(macs(config, dense, samples).values())
    lines = [
        f"# {config.family} encoder, {100 * sparsity(left, config, with_cnn=with_cnn):.1f} % pruned" + (f" ({note})" if note else ""),
        "",
        f"Made by s3prl_pruned after {provenance.get('method', _METHOD)}.",
        f"Sparsity counts the weights (no biases) of the attention and feed-forward matrices{' and of the CNN' * with_cnn}.",
        *_channels(encoder),
        "",
        "| | dense | this model |",
        "|---|---|---|",
        f"| parameters (all, with biases) | {sum(dense_counts.values()):,} | {encoder.num_parameters():,} |",
        f"| prunable weights | {weights(config, EncoderCounts.dense(config, with_cnn=with_cnn)):,} | {prunable_weights(config, spec):,} |",
        *_zeros(encoder, left),
        f"| MACs for {_SECONDS} s of audio | {dense_work / 1e9:.3f} G | {work / 1e9:.3f} G |",
        "",
        "| part | dense parameters | parameters |",
        "|---|---|---|",
        *(f"| {part} | {dense_counts[part]:,} | {counts[part]:,} |" for part in counts),
        "",
        "| layer | heads | q/k dims | v/o dims | FFN dims | weights kept |",
        "|---|---|---|---|---|---|",
        *_layer_rows(encoder, dense),
        "",
        "## Provenance",
        "",
        f"- sha256 of model.safetensors: {sha256}",
        *(f"- {name}: {value}" for name, value in _flatten(provenance)),
        "",
        "## Use",
        "",
        f"    python run_downstream.py -u {config.family}_pruned -k <this folder> -d asr",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _zeros(encoder: SpeechEncoder, left: int) -> list[str]:
    """How many weights are zero where they stand; no such weight makes anything faster."""
    zeros = prunable_weights(encoder.config, encoder.spec) - left
    if not zeros:
        return []
    return [
        f"| parameters that are not zero | | {encoder.num_parameters() - zeros:,} |",
        f"| prunable weights that are not zero (the MACs count zeros too) | | {left:,} |",
    ]


def _channels(encoder: SpeechEncoder) -> list[str]:
    if encoder.spec.channels is None:
        return []
    pairs = zip(encoder.spec.channels, encoder.config.conv_layers, strict=True)
    return [f"Channels of the CNN's layers: {', '.join(f'{len(kept)} of {whole}' for kept, (whole, _, _) in pairs)}."]


def _layer_rows(encoder: SpeechEncoder, dense: CompactSpec) -> list[str]:
    rows, dim = [], encoder.config.embed_dim
    for i, (layer, whole) in enumerate(zip(encoder.spec.layers, dense.layers, strict=True), start=1):
        counts = LayerCounts.of(layer)
        kept = layer_weights(dim, counts) / layer_weights(dim, LayerCounts.of(whole))
        heads = len(layer.heads) if layer.attention else "-"
        rows.append(f"| {i} | {heads} | {counts.qk} | {counts.vo} | {counts.ffn} | {100 * kept:.1f} % |")
    return rows


def _flatten(data: dict, prefix: str = "") -> list[tuple[str, object]]:
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines += _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            lines.append((prefix + key, value))
    return lines
