"""s3prl hub entries: each makes an expert from the arguments of s3prl: `ckpt`, `model_config` and `refresh`."""

from collections.abc import Callable
from pathlib import Path

from s3prl_pruned.pretrain.distill.teachers import EMBEDDED_TEACHER
from s3prl_pruned.upstream.expert import UpstreamExpert as _UpstreamExpert
from s3prl_pruned.upstream.load import newest_export

_Entry = Callable[..., _UpstreamExpert]


def _entries(family: str) -> tuple[_Entry, _Entry, _Entry]:
    """The entries `<family>_pruned`, `<family>_pruned_local` and `<family>_pruned_url`."""

    def local(
        ckpt: str | Path,
        model_config: str | None = None,
        refresh: bool = False,
        compiled: bool = False,
        states: str = "own",
    ) -> _UpstreamExpert:
        """A pruned encoder from a local path.

        ckpt (str): folder of an export, training checkpoint (with masks applied), or dense checkpoint.
        model_config, refresh: not used; s3prl passes them to every upstream.
        compiled (bool): on a GPU, run through CUDA graphs.
        states (str): "own" for the states that the model publishes, "s3prl" for those of s3prl's own models.
        """
        return _UpstreamExpert(ckpt, family=family, compiled=compiled, states=states)

    def url(
        ckpt: str,
        refresh: bool = False,
        model_config: str | None = None,
        compiled: bool = False,
        states: str = "own",
    ) -> _UpstreamExpert:
        """A pruned encoder from the URL of a `states-*.ckpt` or of a zipped export.

        ckpt (str): URL.
        refresh (bool): download again even if it is in the cache.
        model_config: not used.
        compiled (bool): on a GPU, run through CUDA graphs.
        states (str): as for a local path.
        """
        from s3prl_pruned.upstream.download import fetch_model

        return local(fetch_model(ckpt, refresh=refresh), compiled=compiled, states=states)

    def newest(
        ckpt: str | Path | None = None,
        refresh: bool = False,
        model_config: str | None = None,
        compiled: bool = False,
        states: str = "own",
    ) -> _UpstreamExpert:
        """The newest export under `result/pretrain/<family>_pruned_distill/`, or the model that `ckpt` names."""
        return local(ckpt or newest_export(f"{family}_pruned"), compiled=compiled, states=states)

    for function, kind in ((newest, ""), (local, "_local"), (url, "_url")):
        function.__name__ = function.__qualname__ = f"{family}_pruned{kind}"
    return newest, local, url


wavlm_pruned, wavlm_pruned_local, wavlm_pruned_url = _entries("wavlm")
hubert_pruned, hubert_pruned_local, hubert_pruned_url = _entries("hubert")
wav2vec2_pruned, wav2vec2_pruned_local, wav2vec2_pruned_url = _entries("wav2vec2")
data2vec_pruned, data2vec_pruned_local, data2vec_pruned_url = _entries("data2vec")
whisper_pruned, whisper_pruned_local, whisper_pruned_url = _entries("whisper")


def wavlm_embedded(
    ckpt: str | Path | None = None, refresh: bool = False, model_config: str | None = None
) -> _UpstreamExpert:
    """The embedded teacher, dense: the reference for models pruned from it."""
    return wavlm_pruned_local(ckpt or EMBEDDED_TEACHER)


def wavlm_random(
    ckpt: str | Path | None = None, refresh: bool = False, model_config: str | None = None
) -> _UpstreamExpert:
    """The embedded teacher's shape with random weights (seed 0), to show what its training is worth."""
    return wavlm_pruned_local("random")
