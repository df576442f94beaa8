"""Make s3prl know our upstreams. Called by our command lines, or once by the user; never at import."""

from s3prl_pruned.models.spec import FAMILIES

NAMES = (
    *(f"{family}_pruned{kind}" for family in FAMILIES for kind in ("", "_local", "_url")),
    "wavlm_embedded",
    "wavlm_random",
)


def register() -> None:
    """Add our hub entries to `s3prl.hub`, after making s3prl importable on today's torch (`compat.apply`).

    Then `s3prl.nn.S3PRLUpstream("wavlm_pruned")` and s3prl's own runners know them. Calling it twice is harmless.
    """
    from s3prl_pruned import compat

    compat.apply()
    import s3prl.hub

    from s3prl_pruned.upstream import hubconf

    for name in NAMES:
        setattr(s3prl.hub, name, getattr(hubconf, name))
