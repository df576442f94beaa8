"""Costs of exported models: parameters, non-zero parameters, multiply-accumulates, and time side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import CONFIG, WEIGHTS, recognise
from s3prl_pruned.formats.format import LoadedModel, Source
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.sparsity.counts import macs, prunable_weights, sparsity
from s3prl_pruned.timing.clock import TimingSetting, compare
from s3prl_pruned.timing.document import document

SECONDS = 5.0
"""Seconds of audio for which MACs and time are reported."""


@dataclass(kw_only=True)
class ModelCosts:
    """The costs of one model."""

    name: str
    method: str
    path: str | None
    """The export's path; None for the dense teacher."""
    sha256: str | None
    teacher: str | None
    note: str | None
    """A note such as "random teacher"."""
    rate: float
    """Realised sparsity: share of the dense encoder's prunable weights that are removed or zero."""
    steps: int | None
    parameters: int
    nonzero_parameters: int
    macs: int
    """For `SECONDS` of audio; zeros are counted, since no kernel here leaves them out."""
    seconds: float | None = None
    """Median of one call with `SECONDS` of audio."""
    seconds_spread: float | None = None
    """Interquartile range of the calls' times, seconds."""
    speed: float | None = None
    """Baseline's time over this one's, pair by pair."""
    speed_spread: float | None = None
    """Interquartile range of the pairs' ratios."""
    noisy: bool = False
    inert_share: float | None = None
    """Share of the weights left whose units are scaled to next to nothing (`export/inert.py`); None: not known."""
    command: str | None = None
    """That made the export; None where that is not recorded."""


def measure(
    roots: Sequence[Path], *, also: Sequence[Path] = (), repeats: int = 11, threads: int = 1
) -> tuple[list[ModelCosts], dict | None]:
    """Measure size and time of every exported model, and before them of the dense encoder of each shape.

    Args:
        roots: folders with exported models, at any depth (folders that `--force` moved aside are skipped).
        also: further encoders in any readable format.
        repeats: timed runs of each model; 0: no timing.
        threads: torch's threads while timing.

    Returns:
        The costs of each model except time, and the timing's document (`timing.document`; None without timing).

    Raises:
        UserError: if there is no model, or one is damaged.
    """
    found = _models(roots, also)
    costs = [cost for cost, _ in found]
    if not repeats:
        return costs, None
    setting = TimingSetting(baseline=_baseline(costs), threads=threads, repeats=repeats)
    results = compare({cost.name: encoder for cost, encoder in found}, setting, seconds=SECONDS)
    return costs, document(setting, results)


def _models(roots: Sequence[Path], also: Sequence[Path]) -> list[tuple[ModelCosts, SpeechEncoder]]:
    """Every export, and before them the dense encoder of each shape (with random weights, only for its costs)."""
    exports: list[tuple[ModelCosts, SpeechEncoder]] = []
    dense: dict[tuple[EncoderConfig, str | None], tuple[str | None, str | None]] = {}
    for path in (*_exports(roots), *also):
        loaded = read(path, int8=True)
        encoder, provenance = accelerate(loaded.encoder), loaded.provenance
        exports.append((_costs_of(loaded, run_of(path).name), encoder))
        teacher = provenance.get("teacher") or {}
        dense.setdefault(
            (dense_shape(encoder.config), teacher.get("sha256")), (teacher.get("name"), provenance.get("teacher_note"))
        )
    if not exports:
        raise UserError(f"{', '.join(map(str, roots))}: no exported model found. Make one with run_pretrain.py.")
    names = [model.name for model, _ in exports]
    for model, _ in exports:
        if names.count(model.name) > 1:
            model.name = str(model.path)
    wholes: list[tuple[ModelCosts, SpeechEncoder]] = []
    for (config, sha256), (name, note) in dense.items():
        encoder = accelerate(SpeechEncoder(config).eval())
        label = f"dense {name or config.family}" + (f" {len(wholes) + 1}" if len(dense) > 1 else "")
        wholes.append((_costs(label, "dense", encoder, sha256=sha256, teacher=name, note=note), encoder))
    return wholes + exports


def run_of(export: Path) -> Path:
    """The folder of the run that made an export; the export itself if it is not in a run's folder."""
    return export.parent if export.name == "export" else export


def dense_shape(config: EncoderConfig) -> EncoderConfig:
    """The shape without settings of training and of peers' formats, so that all models of a teacher share one."""
    config = replace(config, channel_scale=False, states=StateRule())
    return replace(config, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feature_grad_mult=1.0)


def _exports(roots: Sequence[Path]) -> Iterator[Path]:
    found = {path.parent for root in roots for path in [root / CONFIG, *root.rglob(CONFIG)] if path.is_file()}
    for folder in sorted(found):
        aside = any(".old-" in part for part in folder.parts)
        if not aside and (folder / WEIGHTS).is_file() and recognise(Source(folder)):
            yield folder


def _costs_of(loaded: LoadedModel, name: str) -> ModelCosts:
    provenance = loaded.provenance
    return _costs(
        name,
        method_name(provenance),
        loaded.encoder,
        path=str(loaded.path),
        sha256=loaded.sha256,
        teacher=(provenance.get("teacher") or {}).get("name"),
        note=provenance.get("teacher_note"),
        steps=provenance.get("step"),
        inert=(provenance.get("sparsity") or {}).get("inert_share"),
        command=command if isinstance(command := provenance.get("command"), str) else None,
    )


def _costs(
    name: str,
    method: str,
    encoder: SpeechEncoder,
    *,
    sha256: str | None,
    teacher: str | None,
    note: str | None,
    path: str | None = None,
    steps: int | None = None,
    inert: float | None = None,
    command: str | None = None,
) -> ModelCosts:
    config, spec, left = encoder.config, encoder.spec, weights_left(encoder)
    zeros = prunable_weights(config, spec) - left
    return ModelCosts(
        name=name,
        method=method,
        path=path,
        sha256=sha256,
        teacher=teacher,
        note=note,
        rate=sparsity(left, config, spec),
        steps=steps,
        parameters=encoder.num_parameters(),
        nonzero_parameters=encoder.num_parameters() - zeros,
        inert_share=inert,
        command=command,
        macs=sum(macs(config, spec, round(16_000 * SECONDS)).values()),
    )


def method_name(provenance: dict) -> str:
    """A short name of the method that made a model, from its recipe, else as the provenance names it."""
    recipe = (provenance.get("recipe") or {}).get("model") or {}
    compress, gates = recipe.get("compress"), recipe.get("gates")
    precision = " + int8" if "int8_error" in provenance else ""
    if "first_stage" in provenance:
        return f"{method_name(provenance['first_stage'])}, second stage" + precision
    if compress:
        detail = {"heads": f" ({compress.get('head_scores')})", "low_rank": f" ({compress.get('ranks')})"}
        return " + ".join(name + detail.get(name, "") for name in compress["techniques"]) + precision
    if recipe.get("self_pinching"):
        return f"self-pinching ({', '.join(recipe['self_pinching'].get('kinds', []))})" + precision
    if gates:
        ste = "" if gates.get("straight_through", True) else " without STE"
        return f"hard concrete ({', '.join(gates.get('kinds', []))}){ste}" + precision
    return str(provenance.get("method", "unknown")) + precision


def _baseline(models: list[ModelCosts]) -> str:
    """The dense encoder with the most MACs."""
    return max((model for model in models if model.method == "dense"), key=lambda model: model.macs).name
