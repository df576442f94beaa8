"""s3prl hub entries: each makes an expert from the arguments that s3prl's runners pass."""

from s3prl_pruned.pretrain.distill.teachers import EMBEDDED_TEACHER
from s3prl_pruned.upstream.load import newest_export
from s3prl_pruned.upstream.wavlm_pruned.expert import UpstreamExpert as _UpstreamExpert


def wavlm_pruned_local(ckpt, *args, **kwargs):
    """A pruned WavLM from a local path.

    ckpt (str): an export's folder, or a training checkpoint (masks applied).
    """
    return _UpstreamExpert(ckpt, *args, **kwargs)


def wavlm_pruned_url(ckpt, refresh=False, *args, **kwargs):
    """A pruned WavLM from the URL of a `states-*.ckpt` or of a zipped export.

    ckpt (str): URL.
    refresh (bool): download again although it is in the cache.
    """
    from s3prl_pruned.upstream.download import fetch_model

    return _UpstreamExpert(fetch_model(ckpt, refresh=refresh), *args, **kwargs)


def wavlm_pruned(ckpt=None, refresh=False, *args, **kwargs):
    """The newest export under `result/pretrain/wavlm_pruned_distill/`, or what `ckpt` names."""
    return wavlm_pruned_local(ckpt or newest_export("wavlm_pruned"), *args, **kwargs)


def wavlm_embedded(ckpt=None, refresh=False, *args, **kwargs):
    """The embedded teacher itself, dense: what its pruned models are compared with."""
    return wavlm_pruned_local(ckpt or EMBEDDED_TEACHER, *args, **kwargs)
