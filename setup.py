"""Which packages there are; all else stands in setup.cfg, where `packages` cannot be found and named in one list."""

from setuptools import find_packages, setup

# Recipes and settings lie at the clone's top level, and inside the package where it is installed (resources.py).
setup(
    packages=[
        *find_packages(include=["s3prl_pruned", "s3prl_pruned.*"]),
        "s3prl_pruned.downstream_runs",
        "s3prl_pruned.upstream_configs",
    ]
)
