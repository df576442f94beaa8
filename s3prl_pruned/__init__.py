"""s3prl_pruned: distil and prune self-supervised speech encoders, inside s3prl.

Importing this package is cheap and changes nothing: no torch, no registration, no patch.
"""

__version__ = "0.1.0"

__all__ = ["__version__", "register"]


def register() -> None:
    """Add ``<family>_pruned``, ``<family>_pruned_local`` and ``<family>_pruned_url`` to ``s3prl.hub``.

    Families: ``wavlm``, ``hubert``, ``wav2vec2``, ``data2vec``.

    Idempotent. Call it once before ``s3prl.nn.S3PRLUpstream("wavlm_pruned", ...)``.
    """
    from s3prl_pruned.upstream.register import register as register_upstreams

    register_upstreams()
