"""Command line, versions, code and machine of a run. Environment variables are never read, so no secrets get here."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from shutil import which
from typing import Any

import layercut

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "accelerate", "gguf", "numpy", "scipy", "reasoning-gym",
    "math-verify", "lm-eval", "datasets", "peft", "trl", "vllm", "xllamacpp", "ray",
)  # fmt: skip
"""Packages that can change numbers; those that are not installed are left out."""

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def collect_environment(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Versions, machine and code, JSON-able, for a reader who judges or repeats a run.

    Args:
        argv: the command line, ``sys.argv`` by default. It is recorded without the program's folder, with ``~`` for the
            home folder and without Hugging Face tokens.

    Returns:
        ``time`` (UTC), ``command``, ``layercut``, ``python``, ``packages`` (name: version), ``git`` (commit and dirty
        flag, null outside a checkout of layercut), ``platform``, ``cpu``, ``cores`` (usable by this process),
        ``memory_gib`` and ``accelerator`` (null where torch has none or was not imported yet).
    """
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command_line(sys.argv if argv is None else argv),
        "layercut": layercut.__version__,
        "python": platform.python_version(),
        "packages": _versions(),
        "git": _git(Path(layercut.__file__).parent),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_gib": None if (memory := memory_bytes()) is None else round(memory / 2**30, 1),
        "accelerator": _accelerator(),
    }


def describe_machine() -> str:
    """The machine in a few words; an accelerator only once torch was imported."""
    return _accelerator() or f"{_cpu()}, {_cores()} cores"


def command_line(argv: Sequence[str]) -> str:
    """The command as a user types it, without machine paths and tokens.

    >>> command_line(["/opt/x/bin/layercut", "eval", "a model"])
    "layercut eval 'a model'"
    """
    if not argv:
        return ""
    program = Path(argv[0]).name
    if program in ("__main__.py", "main.py"):  # python -m layercut...
        program = "layercut"
    return _join_words([program, *(_TOKEN.sub("hf_...", hide_home(word)) for word in argv[1:])])


def _join_words(words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) if "~" not in word or " " in word else word for word in words)


def change_command(command: str, **options: str) -> str:
    """A recorded command with other options, ready to paste where layercut is on the path or was called by its path.

    >>> change_command("/bin/layercut prune m --out=runs/m --items 8", items="20", out="runs/m-20", smallest="")
    '/bin/layercut prune m --items 20 --out runs/m-20 --smallest'
    """
    words, kept = shlex.split(command), list[str]()
    flags = {f"--{name}": value for name, value in options.items()}
    for before, word in pairwise(["", *words]):
        if word.partition("=")[0] not in flags and not flags.get(before):
            kept.append(word)
    if kept[0] == "layercut" and which("layercut") is None and Path(sys.argv[0]).name == "layercut":
        kept[0] = shown_path(Path(sys.argv[0]))
    return _join_words([*kept, *filter(None, (word for pair in flags.items() for word in pair))])


def hide_home(text: str) -> str:
    """The text with ``~`` for the home folder."""
    home = str(Path.home())
    if len(home) < 2:  # a process whose home is the root of the disk
        return text
    return re.sub(rf"(?<![\w/.-]){re.escape(home)}(?=/|$|[\s,:;'\")\]])", "~", text)


def shown_path(path: Path) -> str:
    """A path for messages."""
    return hide_home(str(path))


def memory_bytes() -> int | None:
    """Of the machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git(package: Path) -> dict[str, Any] | None:
    """Commit of the package's own checkout; None if it is installed, also inside another repository."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(package), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        model = None
    return model[1].strip() if model else platform.processor() or platform.machine()


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return "Apple MPS" if torch.backends.mps.is_available() else None
