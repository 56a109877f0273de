"""A Hugging Face hub on localhost for tests of hub models, and two studies: a usual one and one at the edges."""

from __future__ import annotations

import huggingface_hub
import pytest

from tests.support.run_builder import build_extreme, build_quickstart
from tests.unit.models.hub_server import fake_hub


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """One cache of converted models for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERCUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def online(tmp_path, monkeypatch):
    """Point the hub library at an address, with an empty cache."""

    def point(url):
        constants = huggingface_hub.constants
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)

    return point


@pytest.fixture
def hub(online):
    with fake_hub() as server:
        online(server.url)
        yield server


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    return build_quickstart(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="session")
def extreme(tmp_path_factory):
    return build_extreme(tmp_path_factory.mktemp("runs") / "extreme")
