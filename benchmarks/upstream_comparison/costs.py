"""What upstreams cost that were compared: parameters, multiply-accumulates, and time beside one another."""

import numpy as np

from s3prl_pruned import compat
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.sparsity.counts import macs
from s3prl_pruned.superb.running.options import make_parser
from s3prl_pruned.superb.tasks.upstreams import build_upstream
from s3prl_pruned.timing.clock import TimingSetting, compare


def costs(models: list[ComparedModel], seeds: list[int], *, repeats: int, seconds: float = 5.0) -> dict[str, dict]:
    """Size and speed of the models that are encoders of ours, by name; means where each seed has its own model.

    Returns:
        `params`; `macs` for `seconds` of audio; `speed`: how many times as fast as the model with the most MACs, one
        thread, `timing.clock`; `noisy` if the machine was.
    """
    encoders = {}
    for model in models:
        for options in dict.fromkeys(tuple(model.options(seed)) for seed in seeds):
            expert = _expert(options)
            if hasattr(expert, "model_hash"):  # ours
                encoders[model.name, options] = expert.eval().model
    if not encoders:
        return {}
    work = {key: sum(macs(e.config, e.spec, round(16_000 * seconds)).values()) for key, e in encoders.items()}
    slowest = max(reversed(work), key=work.get)  # of equal ones the last that was named
    named = {str(key): encoder for key, encoder in encoders.items()}
    times = compare(named, TimingSetting(baseline=str(slowest), repeats=repeats), seconds=seconds)
    times = dict(zip(encoders, times, strict=True))
    found = {}
    for name in dict.fromkeys(name for name, _ in encoders):
        keys = [key for key in encoders if key[0] == name]
        found[name] = {
            "params": float(np.mean([encoders[key].num_parameters() for key in keys])),
            "macs": float(np.mean([work[key] for key in keys])),
            "seconds_of_audio": seconds,
            "speed": float(np.mean([times[key].ratio for key in keys])),
            "speed_against": slowest[0],
            "noisy": any(times[key].noisy for key in keys),
        }
    return found


def _expert(options: tuple[str, ...]):
    compat.apply()
    return build_upstream(make_parser().parse_args([*options, "-d", "asr"]))
