"""Two studies, built once: a usual one and one at the edges."""

import pytest

from tests.support.run_builder import build_extreme, build_quickstart


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    return build_quickstart(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="session")
def extreme(tmp_path_factory):
    return build_extreme(tmp_path_factory.mktemp("runs") / "extreme")
