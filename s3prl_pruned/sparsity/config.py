"""Targets of a recipe: which share of the dense model to remove, and in which quantity. Old keys are read too."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from s3prl_pruned.config import UserError

TARGETS = {"target": "params", "cnn_target": "macs"}
"""Keys of targets in `sparsity:`, with the default quantity (`of`) of each."""
FORMER = {"target_sparsity": "params", "target_macs": "macs", "target_speedup": "time"}
"""Old keys of `sparsity:` that `target` replaced, with the quantity of each; if several are set, the last one of this
list counts."""
_CHOSEN = ("params", "macs", "memory", "speedup")
"""Names of quantities on a command line."""
FORMER_KEYS = (*FORMER, "target_cnn", "utterance_seconds", "latency_table")


@dataclass(kw_only=True)
class Target:
    """Share of the dense model to remove, in one quantity."""

    of: Literal["params", "macs", "memory", "time"] = "params"
    """The quantity: prunable weights (`sparsity.counts.sparsity`), multiply-accumulates, all weights in memory, or time
    by `table`. `memory` is of the weights of CNN, projection and positional convolution too, pruned or not (without
    biases and norms, below 1 %). What else a call needs hardly depends on the structure (LOG.md)."""

    share: float
    """The share to remove, in [0, 1). A recipe may set `speedup: s` instead for time: it is read as 1 - 1 / s."""

    seconds: float = 5.0
    """For `macs`: length of the utterance in seconds (the MACs of attention grow with its square)."""

    table: str | None = None
    """For `time`: JSON file that `tools/timing.py --latency-table` wrote on the target device; it has its own length of
    the utterance. `--latency-table` sets it. If `target` and `cnn_target` are both of time, one of them may name it."""

    @property
    def aim(self) -> str:
        """The target in words, for logs and the screen."""
        if self.of == "time":
            return f"target speed-up {1 / (1 - self.share):.4g} by {self.table}"
        if self.of == "macs":
            return f"target {100 * self.share:.4g} % fewer MACs for {self.seconds:g} s"
        if self.of == "memory":
            return f"target {100 * self.share:.4g} % less memory for weights"
        return f"target sparsity {self.share:.4g}"

    def validate(self) -> None:
        """Raise UserError if a value is out of range or the values contradict each other."""
        if not 0 <= self.share < 1:
            raise UserError(f"`share` must be in [0, 1), but is {self.share}.")
        if not 0 < self.seconds <= 3600:
            raise UserError(f"`seconds` must be in (0, 3600], but is {self.seconds}.")
        if self.of != "time" and self.table is not None:
            raise UserError(f"`table` is for a target of time, but this one is of {self.of}. Leave it out.")
        if self.of == "time" and self.table is None:
            raise UserError(
                "a target of time needs a `table`, but it is null. Measure one on the device (tools/timing.py --models "
                "ours:<shape> --latency-table FILE) and pass it: --latency-table FILE."
            )


@dataclass(kw_only=True)
class CnnTarget(Target):
    """Share of the dense CNN to remove, in one quantity."""

    of: Literal["macs", "time"] = "macs"
    """The CNN has a target of its own because it has few of all weights, and would hardly be pruned, but many of all
    MACs, and would be pruned too much. The time of its first layer depends on activations more than on MACs."""

    @property
    def aim(self) -> str:
        """The target in words, for logs and the screen."""
        return f"{100 * self.share:.4g} % {'less time for' if self.of == 'time' else 'fewer MACs in'} the CNN"


def chosen_targets(text: str) -> dict[str, Any]:
    """The keys `target` and, for several, `also`, for a text such as `speedup=2.5` or `params=0.8,macs=0.7`.

    Raises:
        UserError: the text has none of these forms.
    """
    first, *further = [_chosen_target(part) for part in text.split(",")]
    if any("speedup" in target for target in further):
        raise UserError(f"`--target` has a speedup after another target: name it first, and only once; it is {text!r}.")
    return {"target": first, **({"also": further} if further else {})}


def _chosen_target(text: str) -> dict[str, Any]:
    name, _, value = (part.strip() for part in text.partition("="))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if name not in _CHOSEN or math.isnan(number):
        raise UserError(
            "`--target` must be params=0.8, macs=0.7, memory=0.7 or speedup=2.5 (or another number; several between "
            f"commas), but has {text!r}."
        )
    return {"speedup": number} if name == "speedup" else {"of": name, "share": number}


def several_targets(text: str, own: Target, *, table: str | None = None) -> list[Target]:
    """Targets by a text such as `0.5,0.65,0.8`, which are of what `own` is of, or `macs=0.5,0.7` or `speedup=1.5,2.5`.

    Args:
        text: shares, or speed-ups where time is meant.
        own: the target beside which they are asked for.
        table: of targets of time, where `own` names none.

    Raises:
        UserError: it is none of these, a share is out of its range, or one is there twice.
    """
    name, _, numbers = (part.strip() for part in text.rpartition("="))
    kind = name or ("speedup" if own.of == "time" else own.of)
    of = "time" if kind == "speedup" else kind
    if kind not in _CHOSEN:
        raise UserError(
            "targets must be 0.5,0.65 or params=0.5,0.65, macs=0.5,0.7, memory=0.5,0.7 or speedup=1.5,2, but are "
            f"{text!r}."
        )
    base = own if of == own.of else Target(of=of, share=0.0, table=table if of == "time" else None)  # type: ignore[arg-type]  # one of the four
    found: list[Target] = []
    for number in numbers.split(","):
        try:
            figure = float(number)
        except ValueError:
            raise UserError(f"targets must be numbers between commas, but {number.strip()!r} is none.") from None
        target = replace(base, share=_share_of(kind, figure))
        target.validate()
        if target in found:
            raise UserError(f"targets must differ, but {number.strip()} is there twice.")
        found.append(target)
    return found


def takes_table(section: dict[str, Any]) -> bool:
    """Whether a `sparsity:` section with current keys has a target of time."""
    targets = [section.get(key) for key in TARGETS]
    return any(isinstance(target, dict) and target["of"] == "time" for target in targets)


def renewed(section: Any, *, onto: Any = None) -> Any:
    """Convert a `sparsity:` section to current keys, and merge it into another one. Old keys are known here only.

    Args:
        section: content of a file or command line. Anything but a mapping is returned as it is; `from_dict` refuses it.
        onto: the section to merge into, with old or current keys.

    Raises:
        UserError: `section` sets a target with both old and current keys, or two targets at once.
    """
    if not isinstance(section, dict):
        return section
    former = {key: section[key] for key in FORMER_KEYS if key in section}
    today = {key: section[key] for key in TARGETS if key in section}
    if former and today:
        raise UserError(
            f"`{next(iter(former))}` is an old key for a target, but `{next(iter(today))}` is set too. "
            "Keep only the current one, such as `target: {of: params, share: 0.8}`."
        )
    below = renewed(onto) if isinstance(onto, dict) else {}
    targets = {key: below.pop(key) for key in TARGETS if key in below}
    targets |= {key: _laid_over(targets.get(key), target) for key, target in today.items()}
    _add_former(targets, former)
    held = {key: target for key, target in targets.items() if isinstance(target, dict)}
    table = next((target["table"] for target in held.values() if target.get("table")), None)
    for key, target in held.items():
        target.setdefault("of", TARGETS[key])
        if target["of"] == "time" and not target.get("table"):
            target["table"] = table
    return {**below, **{key: section[key] for key in section if key not in (*former, *today)}, **targets}


def _laid_over(below: Any, target: Any) -> Any:
    """Merge a target into another one, or replace that if it has another quantity, since shares do not carry over."""
    if not isinstance(target, dict):
        return target
    target = dict(target)
    if "speedup" in target:
        if "share" in target or target.get("of", "time") != "time":
            raise UserError("`speedup` is another way to give a `share` of time. Leave out `share` and `of`.")
        target |= {"of": "time", "share": _share_of("speedup", target.pop("speedup"))}
    if not isinstance(below, dict) or target.get("of", below.get("of")) != below.get("of"):
        return target
    return {**below, **target}


def _add_former(targets: dict[str, Any], former: dict[str, Any]) -> None:
    """Write the old keys into `targets`. In the old spelling, one length and one table served both targets."""
    if former.get("target_macs") is not None and former.get("target_speedup") is not None:
        raise UserError("`target_macs` and `target_speedup` exclude one another. Set one of them to null.")
    for key, of in FORMER.items():
        if former.get(key) is not None:
            targets["target"] = {"of": of, "share": _share_of(key, former[key])}
    if "target_cnn" in former:
        share = former["target_cnn"]
        targets["cnn_target"] = None if share is None else {"of": "macs", "share": share}
    held = {key: target for key, target in targets.items() if isinstance(target, dict)}
    table = former.get("latency_table") or next((each["table"] for each in held.values() if each.get("table")), None)
    if table and "cnn_target" in held and ("target_cnn" in former or former.get("latency_table")):
        held["cnn_target"] = targets["cnn_target"] = {"of": "time", "share": held["cnn_target"].get("share")}
    for target in held.values():
        if target.get("of") == "time" and former.get("latency_table"):
            target["table"] = table
        elif target.get("of") == "macs" and "utterance_seconds" in former:
            target["seconds"] = former["utterance_seconds"]


def _share_of(key: str, value: Any) -> Any:
    """The share that the value of a key means: a speed-up of s leaves 1 / s of the time."""
    if "speedup" not in key:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
        raise UserError(f"`{key}` must be at least 1, but is {value}.")
    return 1 - 1 / value
