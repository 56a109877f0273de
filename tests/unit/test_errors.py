"""The hint for an optional part names an install that works where layercut came from."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest

from layercut.errors import MissingExtra, install_command

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Installed:
    """A distribution as pip records it."""

    def __init__(self, origin: dict[str, Any] | None) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'layercut[vllm]'"),
        (
            {"url": "file:///my%20clone", "dir_info": {"editable": True}},
            "pip install --editable '/my clone[vllm]'",
        ),
        ({"url": "file:///src/clone", "dir_info": {}}, "pip install '/src/clone[vllm]'"),
        (
            {"url": "https://example.org/layercut.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            f"pip install 'layercut[vllm] @ git+https://example.org/layercut.git@{COMMIT}'",
        ),
        (
            {"url": "file:///wheels/layercut-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'layercut[vllm] @ file:///wheels/layercut-0.1.0-py3-none-any.whl'",
        ),
    ],
)
def test_the_hint_names_where_layercut_came_from(
    origin: dict[str, Any] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(origin))
    assert install_command("vllm") == command
    assert str(MissingExtra("running a model with vLLM", "vllm")).endswith(f"needs an optional part: {command}")


def test_without_metadata_the_package_index_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", none)
    assert install_command("heal") == "pip install 'layercut[heal]'"
