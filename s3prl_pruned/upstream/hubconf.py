"""s3prl hub entries: each makes an expert from the arguments that s3prl's runners pass."""

from collections.abc import Callable

from s3prl_pruned.pretrain.distill.teachers import EMBEDDED_TEACHER
from s3prl_pruned.upstream.expert import UpstreamExpert as _UpstreamExpert
from s3prl_pruned.upstream.load import newest_export


def _entries(family: str) -> tuple[Callable, Callable, Callable]:
    """`<family>_pruned`, `<family>_pruned_local` and `<family>_pruned_url`."""

    def local(ckpt, *args, **kwargs):
        """A pruned encoder from a local path.

        ckpt (str): an export's folder, a training checkpoint (masks applied), or a dense checkpoint.
        """
        return _UpstreamExpert(ckpt, *args, family=family, **kwargs)

    def url(ckpt, refresh=False, *args, **kwargs):
        """A pruned encoder from the URL of a `states-*.ckpt` or of a zipped export.

        ckpt (str): URL.
        refresh (bool): download again although it is in the cache.
        """
        from s3prl_pruned.upstream.download import fetch_model

        return local(fetch_model(ckpt, refresh=refresh), *args, **kwargs)

    def newest(ckpt=None, refresh=False, *args, **kwargs):
        """The newest export under `result/pretrain/<family>_pruned_distill/`, or what `ckpt` names."""
        return local(ckpt or newest_export(f"{family}_pruned"), *args, **kwargs)

    for function, kind in ((newest, ""), (local, "_local"), (url, "_url")):
        function.__name__ = function.__qualname__ = f"{family}_pruned{kind}"
    return newest, local, url


wavlm_pruned, wavlm_pruned_local, wavlm_pruned_url = _entries("wavlm")
hubert_pruned, hubert_pruned_local, hubert_pruned_url = _entries("hubert")
wav2vec2_pruned, wav2vec2_pruned_local, wav2vec2_pruned_url = _entries("wav2vec2")
data2vec_pruned, data2vec_pruned_local, data2vec_pruned_url = _entries("data2vec")


def wavlm_embedded(ckpt=None, refresh=False, *args, **kwargs):
    """The embedded teacher itself, dense: what its pruned models are compared with."""
    return wavlm_pruned_local(ckpt or EMBEDDED_TEACHER, *args, **kwargs)


def wavlm_random(ckpt=None, refresh=False, *args, **kwargs):
    """The embedded teacher's shape with random weights (seed 0): what training it was worth."""
    return wavlm_pruned_local("random", *args, **kwargs)
