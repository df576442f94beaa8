"""Fixtures for the tests of the planner."""

from pathlib import Path

import pytest

from tests.plan.suites import FAKE, REPO


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that is used as the clone's root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    Path("run_downstream.py").write_text(FAKE)
    Path("tools").symlink_to(REPO / "tools")
    return tmp_path
