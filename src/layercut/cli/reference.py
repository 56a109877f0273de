"""docs/reference/cli.md, made from the command line's own help.

python -m layercut.cli.reference > docs/reference/cli.md
"""

from __future__ import annotations

import inspect
from typing import Any

from layercut.cli.main import verbs


def reference() -> str:
    """The command reference in Markdown: every verb, its words and its options."""
    parts = [
        "# Command reference",
        "",
        "Made from `--help` by `python -m layercut.cli.reference`. Results go to stdout, all else to stderr. Exit "
        "codes: 0 well, 1 error, 2 usage, 130 Ctrl-C. `LAYERCUT_TRACEBACK=1` shows where an error arose; "
        "`LAYERCUT_CACHE` says where converted models are kept.",
        "",
    ]
    for name, command in verbs().items():
        parts += [f"## layercut {name}", "", inspect.cleandoc(command.help or ""), ""]
        for title, hidden in (("", False), ("Shown by `--help-all`, and reached by `--set NAME=VALUE` as well:", True)):
            rows = [_row(one) for one in command.params if bool(getattr(one, "hidden", False)) is hidden]
            if rows:
                parts += [*([title, ""] if title else []), "| | | default |", "|---|---|---|", *rows, ""]
    return "\n".join(parts)


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name.upper()).strip('{}[]')}`"
    else:
        names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    empty = default is None or default is False or callable(default)
    shown = "required" if parameter.required else "" if empty else f"`{default}`"
    return f"| {names} | {' '.join((parameter.help or '').split())} | {shown} |"


if __name__ == "__main__":
    print(reference())
