"""A tiny recipe, shared by the tests of runs."""

import pytest

from tests.tiny_run import TinyRecipe


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    return TinyRecipe(tmp_path_factory.mktemp("tiny"))
