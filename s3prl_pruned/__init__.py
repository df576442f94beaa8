"""s3prl_pruned: distil and prune self-supervised speech encoders, inside s3prl.

Importing this package is cheap and changes nothing: no torch, no registration, no patch.
"""

__version__ = "0.1.0"

__all__ = ["__version__", "register"]


def register() -> None:
    """Add ``wavlm_pruned``, ``wavlm_pruned_local`` and ``wavlm_pruned_url`` to ``s3prl.hub``.

    Idempotent. Call it once before ``s3prl.nn.S3PRLUpstream("wavlm_pruned", ...)``.
    """
    from s3prl_pruned.upstream.register import register as register_upstreams

    register_upstreams()
