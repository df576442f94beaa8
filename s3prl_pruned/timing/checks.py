"""Checks before timing: models run, equal models compute the same, MACs are what torch counts."""

import math
from dataclasses import dataclass

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import TOLERANCE, relative_difference
from s3prl_pruned.timing.runs import first_line
from s3prl_pruned.timing.timed_model import TimedModel
from s3prl_pruned.timing.work import macs_by_torch, macs_of

_PROBE_SAMPLES = 16_000


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A model that could not be timed, at all or on one workload."""

    name: str
    """The name as typed."""
    workload: str | None
    """The workload; None: all of them."""
    reason: str


def check_equal(models: list[TimedModel], wav: torch.Tensor) -> tuple[list[dict], list[Lost]]:
    """Check that models run, and that those with the same weights and structure compute the same hidden states.

    Args:
        models: built as they will be timed.
        wav: one utterance (S,).

    Returns:
        JSON data, one entry per compared pair: `text`, `models`, `difference` (over all hidden states, relative to
        max(1, largest value)), and `bound` (None in lower precision, where the difference is only reported). And the
        models that cannot run, or that in fp32 differ from the first of their kind by more than rounding.
    """
    checks: list[dict] = []
    lost: list[Lost] = []
    references: dict[str, tuple[TimedModel, list[torch.Tensor]]] = {}
    for model in models:
        try:
            with torch.inference_mode():  # a copy: a graph's next replay overwrites its output
                states = [state.to(torch.float32, copy=True) for state in model.encode([wav])]
        except Exception as error:  # libraries, compilers and drivers raise all kinds of errors
            reason = f"cannot run in {model.precision}: {first_line(error)}"
            lost.append(Lost(name=model.label, workload=None, reason=reason))
            continue
        if model.same_as is None:
            continue
        if model.same_as not in references:
            references[model.same_as] = (model, states)
            continue
        reference, expected = references[model.same_as]
        # torchaudio has no state 0, and no last LayerNorm in Large models
        count = min(len(states), len(expected))
        norm_first = model.config is not None and model.config.norm_first
        last = count - (norm_first and "torchaudio" in (model.name.library, reference.name.library))
        difference = relative_difference(states[-count:][:last], expected[-count:][:last])
        exact = model.precision == reference.precision == "fp32"
        finite = math.isfinite(difference)
        outcome = f"differ by {difference:.1e} (relative)" if finite else "are not all finite"
        text = f"{model.label} against {reference.label}: hidden states {outcome}"
        if exact and not difference <= TOLERANCE:  # NaN too
            reason = f"{text}, but the same weights must agree to {TOLERANCE:g}"
            lost.append(Lost(name=model.label, workload=None, reason=f"{reason}. It is not timed as an equal."))
            continue
        checks.append(
            {
                "text": text + (f", at most {TOLERANCE:g} is rounding" if exact else ""),
                "models": [model.label, reference.label],
                "difference": difference if finite else None,
                "bound": TOLERANCE if exact else None,
            }
        )
    return checks, lost


def check_macs(models: list[TimedModel]) -> list[str]:
    """Check that the formula for MACs gives torch's count, for 1 s of audio on the meta device.

    Returns:
        Names of the models whose structure was checked.

    Raises:
        UserError: if it does not.
    """
    done, checked = {}, []
    for model in models:
        if model.config is None or model.spec is None:
            continue
        key = (model.config, model.spec)
        if key not in done:
            formula = macs_of(*key, [[torch.empty(_PROBE_SAMPLES, device="meta")]])
            done[key] = (formula, macs_by_torch(*key, _PROBE_SAMPLES))
        formula, counted = done[key]
        if formula != counted:
            raise UserError(
                f"{model.label}: the formula counts {formula:,} MACs for 1 s, torch counts {counted:,}. Please report "
                "this."
            )
        checked.append(model.label)
    return checked
