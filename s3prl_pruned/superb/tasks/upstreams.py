"""Find an upstream by its name in ``s3prl.hub`` and identify its model."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import pickle
from pathlib import Path
from typing import Any

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.formats.tensor_files import file_sha256
from s3prl_pruned.superb.results.result import Upstream
from s3prl_pruned.upstream.register import NAMES, register


def describe_upstream(args: argparse.Namespace) -> Upstream:
    """Build the upstream of s3prl's arguments once, to identify its model.

    Raises:
        UserError: on an unknown name, a checkpoint that is missing or unreadable, or a choice of features (-s, -l)
            that the upstream does not return.
    """
    expert = build_upstream(args)
    check_features(expert, args)
    return Upstream(
        name=args.upstream,
        sha256=getattr(expert, "model_hash", None) or state_sha256(expert),
        path=_text(getattr(expert, "model_path", None) or args.upstream_ckpt),
        num_parameters=sum(parameter.numel() for parameter in expert.parameters()) or None,
        teacher_note=getattr(expert, "teacher_note", None),
        settings=feature_settings(args),
    )


def feature_settings(args: argparse.Namespace) -> list[str]:
    """The options that decide an upstream's features besides its weights, where not the default.

    Args:
        args: s3prl's arguments.

    Returns:
        Options, with the file of ``-g`` as its SHA-256. A layer (``-l``) is not among them: query by example chooses
        the layer itself.
    """
    found = []
    if (path := args.upstream_model_config) is not None:
        found.append(f"-g {file_sha256(Path(path)) if Path(path).is_file() else path}")
    if args.upstream_feature_selection != "hidden_states":
        found.append(f"-s {args.upstream_feature_selection}")
    if args.upstream_trainable:
        found.append("-f")
    if args.upstream_feature_normalize:
        found.append("--upstream_feature_normalize")
    return found


def build_upstream(args: argparse.Namespace) -> Any:
    """Build the upstream as s3prl's runner does. ``compat.apply()`` must have been called."""
    import s3prl.hub as hub

    name, ckpt = args.upstream, args.upstream_ckpt
    if not hasattr(hub, name):
        register()
    if name not in hub.options():
        nearest = difflib.get_close_matches(name, hub.options(), n=1)
        advice = f" Did you mean `{nearest[0]}`?" if nearest else " s3prl.hub.options() lists them."
        raise UserError(f"-u {name}: s3prl has no upstream of that name.{advice}")
    if name.endswith("_local") and ckpt is None and args.upstream_model_config is None:
        raise UserError(f"-u {name}: needs a checkpoint. Give its path by -k.")
    if name.endswith("_local") and ckpt is not None and not Path(ckpt).exists():
        raise UserError(f"-k {ckpt}: no such file or folder.")
    try:
        return getattr(hub, name)(ckpt=ckpt, model_config=args.upstream_model_config, refresh=args.upstream_refresh)
    except Exception as error:  # s3prl's experts raise any exception on a damaged or foreign file
        if ckpt is None or name in NAMES or isinstance(error, UserError):
            raise
        raise UserError(f"-k {ckpt}: is no checkpoint for {name} ({_reason(error)}).") from error


def check_features(expert: Any, args: argparse.Namespace) -> None:
    """Refuse a choice of features that s3prl would replace by ``hidden_states`` or fail on.

    Raises:
        UserError: with the possible choices.
    """
    key, layer = args.upstream_feature_selection, args.upstream_layer_selection
    named = [("-l", layer)] if layer is not None else [("--layers", layer) for layer in getattr(args, "layers", ())]
    if key == "hidden_states" and not named:
        return
    states = hidden_states(expert, key)
    for option, layer in named:
        if -len(states) <= layer < len(states):
            continue
        raise UserError(
            f"{option} {layer}: must be from 0 to {len(states) - 1}, since {key} of {args.upstream} holds "
            f"{len(states)} states."
        )


def hidden_states(expert: Any, key: str = "hidden_states") -> list[Any]:
    """An upstream's output for a second of silence, as s3prl's featurizer takes it: tensors of (1, T, D).

    Args:
        expert: the upstream.
        key: the name of the output.

    Raises:
        UserError: if there is no output of that name.
    """
    import torch

    expert.eval()
    with torch.no_grad():
        features = expert([torch.zeros(SAMPLE_RATE)])
    if key not in features:
        known = sorted(name for name in features if not name.startswith("_"))
        raise UserError(f"-s {key}: the upstream does not return it. It returns {', '.join(known)}.")
    found = features[key]
    if isinstance(found, dict):
        return list(found.values())
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own message advises to turn its protection off
        return "truncated, or holds objects that a checkpoint does not need; none were made"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def state_sha256(expert: Any) -> str | None:
    """SHA-256 of names, types, shapes and bytes of an upstream's weights; None if it has none."""
    import torch

    state = expert.state_dict()
    if not state:
        return None
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _text(path: Any) -> str | None:
    return None if path is None else str(path)
