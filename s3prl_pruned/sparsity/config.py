"""What a recipe says of a target: how much of the dense model goes, and of what. The former spelling is read, too."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from s3prl_pruned.config import UserError

TARGETS = {"target": "params", "cnn_target": "macs"}
"""Keys of targets in `sparsity:`, and what each is of where it does not say."""
FORMER = {"target_sparsity": "params", "target_macs": "macs", "target_speedup": "time"}
"""Keys that `sparsity:` held in place of `target`, and what each was of; the later come first where several are
given."""
FORMER_KEYS = (*FORMER, "target_cnn", "utterance_seconds", "latency_table")


@dataclass(kw_only=True)
class Target:
    """How much goes, as a share of the dense model's own."""

    of: Literal["params", "macs", "time"] = "params"
    """The prunable weights (`sparsity.counts.sparsity`), the multiply-accumulates, or the time by `table`."""

    share: float
    """What goes, in [0, 1). A recipe may say `speedup: s` in place of a share of time: it is read as 1 - 1 / s."""

    seconds: float = 5.0
    """Of `macs`: length of the utterance that they are of (attention's grow with its square)."""

    table: str | None = None
    """Of `time`: JSON that `tools/timing.py --latency-table` wrote on the device, for its utterance;
    `--latency-table` sets it. Where both the target and the CNN's are of time, one may name it for both."""

    @property
    def aim(self) -> str:
        """In words."""
        if self.of == "time":
            return f"target speed-up {1 / (1 - self.share):.4g} by {self.table}"
        if self.of == "macs":
            return f"target {100 * self.share:.4g} % fewer MACs for {self.seconds:g} s"
        return f"target sparsity {self.share:.4g}"

    def validate(self) -> None:
        """Raise UserError where the values do not go together."""
        if not 0 <= self.share < 1:
            raise UserError(f"`share` must be in [0, 1), but is {self.share}.")
        if not 0 < self.seconds <= 3600:
            raise UserError(f"`seconds` must be in (0, 3600], but is {self.seconds}.")
        if self.of != "time" and self.table is not None:
            raise UserError(f"`table` is for a target of time, but this one is of {self.of}. Leave it out.")
        if self.of == "time" and self.table is None:
            raise UserError(
                "a target of time needs a `table`, but it is null. Measure one on the device (tools/timing.py --models "
                "ours:<shape> --latency-table FILE) and give it: --latency-table FILE."
            )


@dataclass(kw_only=True)
class CnnTarget(Target):
    """How much of the CNN goes, as a share of the dense CNN's own."""

    of: Literal["macs", "time"] = "macs"
    """Among all weights the CNN is too cheap to be pruned much, among the MACs too dear; and its first layer takes
    time by its activations rather than its MACs."""

    @property
    def aim(self) -> str:
        """In words."""
        return f"{100 * self.share:.4g} % {'less time for' if self.of == 'time' else 'fewer MACs in'} the CNN"


def chosen_target(text: str) -> dict[str, Any]:
    """What `target:` holds by a text such as `params=0.8`, `macs=0.7` or `speedup=2.5`.

    Raises:
        UserError: it is none of these.
    """
    name, _, value = (part.strip() for part in text.partition("="))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if name not in ("params", "macs", "speedup") or math.isnan(number):
        raise UserError(f"`--target` must be params=0.8, macs=0.7 or speedup=2.5 (or another number), but is {text!r}.")
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
    if kind not in ("params", "macs", "speedup"):
        raise UserError(
            f"targets must be 0.5,0.65 or params=0.5,0.65, macs=0.5,0.7 or speedup=1.5,2, but are {text!r}."
        )
    base = own if of == own.of else Target(of=of, share=0.0, table=table if of == "time" else None)  # type: ignore[arg-type]  # one of the three
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
    """Whether a `sparsity:` section, in today's keys, has a target of time."""
    targets = [section.get(key) for key in TARGETS]
    return any(isinstance(target, dict) and target["of"] == "time" for target in targets)


def renewed(section: Any, *, onto: Any = None) -> Any:
    """A `sparsity:` section in today's keys, laid over another one. Only this function knows the former keys.

    Args:
        section: what a file or a command line says. What is no mapping comes back as it is, for `from_dict` to refuse.
        onto: the section under it, in either spelling.

    Raises:
        UserError: `section` gives a target in both spellings, or two at once.
    """
    if not isinstance(section, dict):
        return section
    former = {key: section[key] for key in FORMER_KEYS if key in section}
    today = {key: section[key] for key in TARGETS if key in section}
    if former and today:
        raise UserError(
            f"`{next(iter(former))}` is the former spelling of a target, and `{next(iter(today))}` is given beside it. "
            "Keep today's alone, such as `target: {of: params, share: 0.8}`."
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
    """A target over another one. It replaces one of something else wholly: a share of weights says nothing of time."""
    if not isinstance(target, dict):
        return target
    target = dict(target)
    if "speedup" in target:
        if "share" in target or target.get("of", "time") != "time":
            raise UserError("`speedup` is another word for a `share` of time. Give no other `share` or `of` beside it.")
        target |= {"of": "time", "share": _share_of("speedup", target.pop("speedup"))}
    if not isinstance(below, dict) or target.get("of", below.get("of")) != below.get("of"):
        return target
    return {**below, **target}


def _add_former(targets: dict[str, Any], former: dict[str, Any]) -> None:
    """What `former` keys say, into `targets`. One length and one table were for both targets."""
    if former.get("target_macs") is not None and former.get("target_speedup") is not None:
        raise UserError("`target_macs` and `target_speedup` exclude one another. Leave one null.")
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
    """The share that a key's value means: with a speed-up of s, 1 / s of the time stays."""
    if "speedup" not in key:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
        raise UserError(f"`{key}` must be at least 1, but is {value}.")
    return 1 - 1 / value
