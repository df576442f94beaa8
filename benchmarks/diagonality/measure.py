"""Diagonality of each attention head, before and after pruning: how much frames attend to their neighbours.

The measure is that of Yang, Liu and Lee 2020, "Understanding Self-Attention of Self-Supervised Audio Transformers":

    D(h) = mean over utterances of  - 1 / T^2 * sum over queries q and keys k of |q - k| A_h[q, k]

the negative mean attention distance, as a share of the utterance's T frames: 0 is the diagonal itself, -1/3 uniform
attention. Lin et al. 2024 say in their abstract that compression reveals the significance of diagonal heads; they are
from the same group, but the abstract does not define the measure. We also report the distance in frames (20 ms), which
does not depend on the utterance's length.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import embedded_corpus
from s3prl_pruned.data.sources import open_corpus
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.formats.format import LoadedModel
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.distill.teachers import load_teacher
from s3prl_pruned.upstream.load import load_model


@dataclass(kw_only=True)
class HeadDiagonality:
    """One head of one model; both values are means over utterances."""

    layer: int
    """1 .. L."""
    head: int
    """1 .. H, as numbered in the dense encoder."""
    diagonality: float
    distance: float
    """Mean number of frames between query and key, weighted by attention."""


def mean_distance(weights: Tensor) -> Tensor:
    """Mean |query - key| in frames, weighted by attention: (..., T, T) -> (...)."""
    places = torch.arange(weights.shape[-1], device=weights.device, dtype=weights.dtype)
    return (weights * (places[:, None] - places).abs()).sum(-1).mean(-1)


def diagonality(weights: Tensor) -> Tensor:
    """D of attention maps: (..., T, T) -> (...), in (-1, 0]."""
    return -mean_distance(weights) / weights.shape[-1]


@torch.no_grad()
def measure(encoder: SpeechEncoder, wavs: Sequence[Tensor]) -> list[HeadDiagonality]:
    """D of every head of an encoder, averaged over utterances.

    Args:
        encoder: in evaluation mode; masks in its slots are applied.
        wavs: waveforms (S,), 16 kHz, not normalised; each is encoded separately.
    """
    device = encoder.mask_embedding.device
    sums: dict[tuple[int, int], Tensor] = {}
    with _watched(encoder) as maps:
        for wav in wavs:
            encoder.encode_raw(wav.to(device)[None])
            for layer, weights in maps.items():  # (1, H, T, T)
                heads = encoder.layers[layer].attention.heads.values
                both = (
                    torch.stack([diagonality(weights[0]), mean_distance(weights[0])], dim=-1).double().cpu()
                )  # (H, 2)
                for head, value in zip(heads, both, strict=True):
                    sums[layer, head] = sums.get((layer, head), 0) + value
    return [
        HeadDiagonality(
            layer=layer + 1,
            head=head + 1,
            diagonality=float(total[0]) / len(wavs),
            distance=float(total[1]) / len(wavs),
        )
        for (layer, head), total in sorted(sums.items())
    ]


@contextmanager
def _watched(encoder: SpeechEncoder) -> Iterator[dict[int, Tensor]]:
    """Collects attention maps by layer (0-based) while the encoder runs inside the context."""
    maps: dict[int, Tensor] = {}
    handles = []
    for number, layer in enumerate(encoder.layers):
        if layer.attention is not None and layer.attention.heads.values:

            def keep(attention, inputs, number=number):
                maps[number] = attention.weights(*inputs)

            handles.append(layer.attention.register_forward_pre_hook(keep))
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def compare(models: Sequence[str], *, corpus: str | None, limit: int, max_seconds: float = 10.0) -> dict:
    """Measure several models on the same speech, and compare the others with the first.

    Args:
        models: exports, checkpoints, or names of teachers.
        corpus: a corpus as in `open_corpus`; None for the dev split of the embedded speech.
        limit: number of utterances, spread over the corpus.
        max_seconds: longer utterances are cut to this length (attention maps grow with its square).

    Returns:
        JSON data: name, note and heads of each model; for all but the first also the fate of the first model's heads.

    Raises:
        UserError: if there is no such model or corpus, or the models differ in their numbers of layers or heads.
    """
    found = open_corpus(embedded_corpus(), ["dev"]) if corpus is None else open_corpus(corpus)
    count = min(limit, len(found))
    if count < 1:
        raise UserError(f"`limit` must be at least 1, but is {limit}.")
    wavs = [found[i * len(found) // count].read()[: round(max_seconds * SAMPLE_RATE)] for i in range(count)]
    loaded = [_load(name) for name in models]
    shapes = {(model.encoder.config.num_layers, model.encoder.config.num_heads) for model in loaded}
    if len(shapes) > 1:
        raise UserError(f"models must have one number of layers and heads to be compared, but have {sorted(shapes)}.")
    results = []
    for name, model in zip(models, loaded, strict=True):
        heads = [asdict(head) for head in measure(model.encoder, wavs)]
        results.append({"name": name, "sha256": model.sha256, "note": model.note, "heads": heads})
    for result in results[1:]:
        result["fate"] = fate(results[0]["heads"], result["heads"])
    seconds = sum(map(len, wavs)) / SAMPLE_RATE
    return {
        "speech": f"{'embedded dev' if corpus is None else corpus}, {count} utterances, {seconds:.1f} s",
        "num_layers": loaded[0].encoder.config.num_layers,
        "num_heads": loaded[0].encoder.config.num_heads,
        "models": results,
    }


def fate(before: list[dict], after: list[dict]) -> dict:
    """Whether pruning keeps the diagonal heads: mean diagonality, before pruning, of kept and of removed heads.

    Returns:
        `kept`, `removed`: numbers of heads; `kept_before`, `removed_before`, `kept_after`: mean D (None without heads).
    """
    left = {(head["layer"], head["head"]): head["diagonality"] for head in after}
    was = {(head["layer"], head["head"]): head["diagonality"] for head in before}

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "kept": len(was.keys() & left.keys()),
        "removed": len(was.keys() - left.keys()),
        "kept_before": mean([value for key, value in was.items() if key in left]),
        "removed_before": mean([value for key, value in was.items() if key not in left]),
        "kept_after": mean([value for key, value in left.items() if key in was]),
    }


def _load(name: str) -> LoadedModel:
    if Path(name).exists():
        return load_model(name)
    teacher = load_teacher(name)
    return LoadedModel(teacher.encoder, Path(name), teacher.sha256, {"teacher_note": teacher.note})
