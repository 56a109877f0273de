"""Errors that a caller can mend. Each message says what came, what would be fine and what to do.

The command line prints these without a traceback (exit 1); any other exception is our fault and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """The caller's input cannot be used."""

    def __init__(self, message: str = "") -> None:
        """A message without the middle of a word of more than 300 characters, or of a text of more than 1,400.

        Names in a file may have megabytes; what to do is said at the end.
        """
        text = re.sub(r"\S{301,}", lambda word: f"{word[0][:200]}...{word[0][-50:]}", message)
        super().__init__(text if len(text) <= 1400 else f"{text[:1000]} ... {text[-350:]}")


class MissingExtra(InputError):
    """An optional part of layercut is not installed."""

    def __init__(self, doing: str, extra: str) -> None:
        super().__init__(f"{doing} needs an optional part: {install_command(extra)}")


class AtChance(InputError):
    """The original model is no better than guessing on a task, so nothing can be lost there."""


class RunMismatch(InputError):
    """A run folder holds a run that was begun with other settings."""


class CheckpointError(InputError):
    """A checkpoint is damaged, incomplete or of a kind that is not read."""


class VerificationError(RuntimeError):
    """Raised where the reloaded model differs from the one in memory."""


def install_command(extra: str) -> str:
    """The command that installs an optional part from where layercut came from: a clone or an address."""
    import json
    from importlib import metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        made = metadata.distribution("layercut").read_text("direct_url.json")
        origin = json.loads(made or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", ""))
    if url.startswith("file://") and "dir_info" in origin:
        editable = "--editable " if origin["dir_info"].get("editable") else ""
        folder = Path(url2pathname(urlsplit(url).path))
        return f"pip install {editable}'{'.' if folder == Path.cwd() else folder}[{extra}]'"
    if version := origin.get("vcs_info"):
        return f"pip install 'layercut[{extra}] @ {version['vcs']}+{url}@{version['commit_id']}'"
    return f"pip install 'layercut[{extra}] @ {url}'" if url else f"pip install '.[{extra}]' in a clone of layercut"


def first_line(error: Exception) -> str:
    """The first line of an error, for a message of one line.

    >>> first_line(ValueError("no such file\\nsee above")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(error: Exception, most: int = 300) -> str:
    """All that an error says, on one line; for libraries that put the reason on the second.

    >>> one_line(TypeError("Validation error for field 'x':\\n    expected int, got str"))
    "Validation error for field 'x': expected int, got str"
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 3] + "..."


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> InputError:
    """The error for a name that is not in a list, with the nearest right one and the whole list.

    >>> str(unknown_name("task", "arithmetics", ["arithmetic", "copy"]))
    "unknown task 'arithmetics'. Did you mean arithmetic? Known: arithmetic, copy."
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.replace("-", "_"), names, n=1, cutoff=0.6)
    guess = f" Did you mean {near[0]}?" if near else ""
    tail = f" {hint}" if hint else ""
    return InputError(f"unknown {kind} {name!r}.{guess} Known: {', '.join(names)}.{tail}")
