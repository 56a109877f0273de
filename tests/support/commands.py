"""The commands in the code blocks of README and docs, and a small copy of what the README's first block works on."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_FENCED = re.compile(r"^```[^\n`]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}\S[^\n]*\n(?:(?<=\\\n) +[^\n]*\n)*)+", re.MULTILINE)
_LAYERCUT = re.compile(r"^(?:.*-m layercut\.cli\.main|layercut)\s+(.*)$")
MODEL = "bundled:smollm2-135m"


class Said(NamedTuple):
    """One command and where it stands."""

    where: str
    words: list[str]
    """Without ``layercut``."""


def blocks(page: Path) -> list[str]:
    """Code blocks of a page, fenced and indented; the reference shows help, not commands."""
    text = page.read_text(encoding="utf-8")
    return [] if page.name == "cli.md" else [*_FENCED.findall(text), *_INDENTED.findall(_FENCED.sub("", text))]


def commands(block: str, where: str) -> list[Said]:
    """The commands of layercut in a block, without comments, pipes and redirections."""
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        for part in line.split(" #")[0].split(";"):
            if match := _LAYERCUT.match(part.strip()):
                found.append(Said(where, shlex.split(re.split(r" [|>]", match[1])[0])))
    return found


def all_commands() -> list[Said]:
    """Those of every page."""
    return [
        said
        for page in PAGES
        for block in blocks(page)
        for said in commands(block, f"{page.relative_to(ROOT)}: {block.splitlines()[0]}")
    ]


def use_block() -> list[Said]:
    """The commands under "Try the steps" of the installation's page, which work in order."""
    page = (ROOT / "docs" / "start" / "install.md").read_text(encoding="utf-8")
    first = _FENCED.search(page, page.index("\n## Try the steps\n"))
    assert first is not None
    return commands(first[1], "docs/start/install.md")


def lay_out(folder: Path) -> None:
    """The files of a clone that the commands name, in a folder of their own."""
    (folder / "examples").mkdir()
    for file in (ROOT / "examples").glob("*.yaml"):
        (folder / "examples" / file.name).write_bytes(file.read_bytes())


def smaller(words: list[str], limit: int, model: str | None = None) -> list[str]:
    """The same command on fewer items, layers and texts; and on a random model, whose answers never end."""
    words = [model if model and word == MODEL else word for word in words]
    for flag, value in {"--limit": limit, "--samples": 1, "--items": max(limit, 8)}.items():
        if flag in words:
            words[words.index(flag) + 1] = str(value)
    less = {
        "select": ("--calibration-texts", "2", "--calibration-tokens", "32"),
        "heal": ("--keep-unfinished",),
        "sweep": ("--layers", "28-29"),
        "diagnose": ("--only", "brackets"),
        "generate": ("--max-new-tokens", "8"),
        "run": ("--limit", str(limit)),
    }
    return [*words, *less.get(words[0], ())]
