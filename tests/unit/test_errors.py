"""The hint for an optional part names an install that works where layercut came from."""

import ast
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from layercut.cli import console
from layercut.errors import MissingExtra, install_command

SOURCE = Path(__file__).parents[2] / "src" / "layercut"
COMMANDS = r"layercut [a-z]+ .*--|llama-gguf-split|--no-deps"
"""Whole commands that a message may say."""
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
        (None, "pip install '.[vllm]' in a clone of layercut"),
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
def test_the_hint_names_where_layercut_came_from(origin, command, monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(origin))
    assert install_command("vllm") == command
    assert str(MissingExtra("running a model with vLLM", "vllm")).endswith(f"needs an optional part: {command}")


def test_without_metadata_the_package_index_is_named(monkeypatch):
    def none(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", none)
    assert install_command("heal") == "pip install '.[heal]' in a clone of layercut"


def test_errors_of_the_library_name_fields_and_no_flags():
    """Python and study files have no flags; the command line puts them in, see layercut.cli.console.set_flag_names."""
    found = []
    for path in sorted((SOURCE).rglob("*.py")):
        if path.relative_to(SOURCE).parts[0] in ("cli", "sandbox"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name == "unknown" or name.endswith(("Error", "Mismatch")):
                words = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
                text = " ".join(word for word in words if isinstance(word, str))
                if re.search(r"--[a-z]", text) and not re.search(COMMANDS, text):
                    found.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {text}")
    assert found == []


def test_the_command_line_says_flags_for_the_fields_of_its_verb():
    try:
        console.set_flag_names({"rank": "--rank", "top_p": "--top-p", "batch_size": "--train-batch", "out": "--out"})
        with console.log.capture() as said:
            console.print_error("rank 0 is too small; write 1 or more.")
            console.print_error("batch_size 6 is no multiple of micro_batch 4; use another `out`, not `elsewhere`.")
            console.print_error("unknown setting 'top'. Did you mean top_p? Known: batch_size, top_p.")
            console.print_error("/tmp/rank/top_p/batch_size.txt is no file, and rank is a word.")
    finally:
        console.set_flag_names({})
    flags = [re.findall(r"--[a-z-]+", line) for line in said.get().splitlines()]
    assert flags == [["--rank"], ["--train-batch", "--out"], ["--top-p"], []]
