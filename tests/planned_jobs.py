"""Jobs for tests of the planner: small commands that record their order in the working directory."""

import sys
from pathlib import Path

from s3prl_pruned.plan.jobs import Job


def job(name, code=None, *, done=True, **fields):
    """A job that appends its name to `order`, runs `code`, and writes its file."""
    path = Path("out") / f"{name}.json"
    body = f"import os, sys; open('order', 'a').write({name + ' '!r})\n{code or ''}\n"
    body += f"os.makedirs('out', exist_ok=True); open({str(path)!r}, 'w').close()" if done else ""
    fields = {"log": Path("logs") / f"{name}.log", "done": path if done else None, **fields}
    return Job(name=name, command=(sys.executable, "-c", body), **fields)


def order():
    return Path("order").read_text().split()
