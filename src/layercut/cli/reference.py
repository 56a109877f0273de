"""The page of the docs that is made from the command line's own help; `python docs/generate.py` writes it."""

from __future__ import annotations

import inspect
import re
from typing import Any

from layercut.cli.main import verbs
from layercut.text.markup import table

EXIT_CODES = (
    ("0", "success"),
    ("1", "an error, or a study of which something failed"),
    ("2", "a command that cannot be understood"),
    ("130", "stopped by Ctrl-C; what was measured is saved"),
)
VARIABLES = (
    ("`LAYERCUT_CACHE`", "where converted models are kept"),
    ("`LAYERCUT_TRACEBACK=1`", "show where an error arose"),
)


def reference() -> str:
    """The command reference in Markdown: every verb, its words and its options."""
    parts = [
        "# Command line",
        "",
        "Every verb and flag, made from `--help`. Results go to stdout, everything else to stderr.",
        "",
        *table(["exit code", "meaning"], EXIT_CODES),
        "",
        *table(["environment variable", "meaning"], VARIABLES),
        "",
    ]
    for name, command in verbs().items():
        parts += [
            f"## layercut {name}",
            "",
            re.sub(r"^Example: (.+)$", r"```bash\n\1\n```", inspect.cleandoc(command.help or ""), flags=re.MULTILINE),
            "",
        ]
        for title, hidden in (("", False), ("Shown by `--help-all`, and reached by `--set NAME=VALUE` as well:", True)):
            rows = [_row(one) for one in command.params if bool(getattr(one, "hidden", False)) is hidden]
            if rows:
                parts += [*([title, ""] if title else []), *table(["flag", "meaning", "default"], rows), ""]
    return "\n".join(parts)


def _row(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name.upper()).strip('{}[]')}`"
    else:
        names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    empty = default is None or default is False or callable(default)
    shown = "required" if parameter.required else "" if empty else f"`{default}`"
    text = " ".join((parameter.help or "").split()).replace("<", "&lt;").replace("|", r"\|")
    return names, text, shown
