"""Write what the docs take from the code: docs/cli.md, and the marked parts of docs/architecture.md.

python docs/generate.py
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "layercut"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
ORDER = (
    "cli", "steps", "tools", "pruning", "study", "healing", "diagnostics", "selection", "report", "tasks", "engine",
    "sandbox", "evidence", "surgery", "models", "settings", "base_settings", "progress", "runs", "text", "seed",
    "errors",
)  # fmt: skip
"""Packages in the tree and in the picture, from the top down."""


def command_reference() -> str:
    """The text of docs/cli.md."""
    from layercut.cli.reference import reference

    return reference() + "\n"


def architecture(page: str) -> str:
    """The page with the picture, the table of arrows and the tree made again between their markers."""
    arrows, base = allowed_arrows()
    parts = {"picture": picture(arrows, base), "arrows": arrow_table(arrows, base), "tree": tree()}
    for name, text in parts.items():
        marked = re.compile(rf"(<!-- {name}: generated -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        assert len(marked.findall(page)) == 1, f"docs/architecture.md: one pair of markers for {name}"
        page = marked.sub(lambda found, text=text: f"{found[1]}\n{text}\n{found[2]}", page)
    return page


def allowed_arrows() -> tuple[dict[str, set[str]], set[str]]:
    """Which package may import which, and those that all may import, from tests/unit/test_architecture.py."""
    sys.path.insert(0, str(ROOT))
    from tests.unit.test_architecture import BASE, MAY_USE

    return MAY_USE, BASE


def picture(arrows: dict[str, set[str]], base: set[str]) -> str:
    """A Mermaid flowchart. An arrow that follows from two others is left out, and so are arrows to the base."""
    reached = {name: _reached(name, arrows) for name in arrows}
    lines = ["```mermaid", "flowchart TD"]
    for name in (name for name in ORDER if name not in base):
        used = arrows[name] - base
        direct = {other for other in used if not any(other in reached[third] for third in used - {other})}
        lines += [f"    {name} --> {other}" for other in sorted(direct, key=ORDER.index)]
    lines.append(f'    base["{", ".join(name for name in ORDER if name in base)}: used by all"]')
    return "\n".join([*lines, "```"])


def _reached(name: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    new = set(arrows[name])
    while new:
        found |= new
        new = {other for one in new for other in arrows[one]} - found
    return found


def arrow_table(arrows: dict[str, set[str]], base: set[str]) -> str:
    """What each package may import, every arrow."""
    lines = ["| package | may import |", "|---|---|"]
    for name in ORDER:
        used = [other for other in ORDER if other in arrows[name]]
        lines.append(f"| `{name}` | {', '.join(f'`{other}`' for other in used) or 'nothing of layercut'} |")
    return "\n".join(lines)


def tree() -> str:
    """Every package and file with the first sentence of its docstring."""
    lines = []
    for name in ORDER:
        file = SOURCE / f"{name}.py"
        if file.exists():
            lines += [f"- `{name}.py`: {_first_sentence(file)}"]
            continue
        lines += [f"- **`{name}/`**: {_first_sentence(SOURCE / name / '__init__.py')}"]
        for path in sorted((SOURCE / name).rglob("*.py"), key=lambda path: (path.parent, path.name)):
            if path != SOURCE / name / "__init__.py":
                shown = path.relative_to(SOURCE / name)
                shown = shown.parent if path.name == "__init__.py" else shown
                lines.append(f"  - `{shown}{'/' * (path.name == '__init__.py')}`: {_first_sentence(path)}")
    return "\n".join(lines)


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(docstring.partition("\n\n")[0].split()).partition(". ")[0]
    text = re.sub(r"``(.+?)``", r"`\1`", sentence.rstrip("."))
    return "".join(part if part.startswith("`") else re.sub(r"([<>*_])", r"\\\1", part) for part in _by_code(text))


def _by_code(text: str) -> list[str]:
    """Pieces of text, each all code or none."""
    return re.split(r"(`[^`]*`)", text)


def main() -> None:
    """Write both files."""
    (ROOT / "docs" / "cli.md").write_text(command_reference(), encoding="utf-8")
    ARCHITECTURE.write_text(architecture(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
