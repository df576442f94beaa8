"""Fixtures for the tests of the timing harness."""

import pytest

from tests.tiny_benchmark import write_structure


@pytest.fixture(scope="session")
def structure_file(tmp_path_factory):
    """A ragged structure of a tiny shape, as JSON that the timing harness reads."""
    return write_structure(tmp_path_factory.mktemp("structure") / "structure.json")
