"""s3prl_pruned: distil and prune self-supervised speech encoders, inside s3prl.

Importing this package is cheap and changes nothing: no torch, no registration, no patch.
"""

__version__ = "0.1.0"

__all__ = ["__version__", "load", "register"]

TYPE_CHECKING = False  # as typing's, which would have to be imported
if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from s3prl_pruned.features.loaded import LoadedEncoder


def load(
    source: "str | Path", *, device: "str | torch.device" = "cpu", compiled: bool = False, states: str = "own"
) -> "LoadedEncoder":
    """Load an encoder of any known format: `features.loaded.load`.

    ``s3prl_pruned.load("export").extract("speech.wav")`` gives its hidden states, (L + 1, T, D).
    """
    from s3prl_pruned.features.loaded import load as load_encoder

    return load_encoder(source, device=device, compiled=compiled, states=states)


def register() -> None:
    """Add ``<family>_pruned``, ``<family>_pruned_local`` and ``<family>_pruned_url`` to ``s3prl.hub``.

    Families: ``wavlm``, ``hubert``, ``wav2vec2``, ``data2vec``.

    Idempotent. Call it once before ``s3prl.nn.S3PRLUpstream("wavlm_pruned", ...)``.
    """
    from s3prl_pruned.upstream.register import register as register_upstreams

    register_upstreams()
