"""The look of tables in the terminal, and of results in Python and in notebooks."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from functools import cache
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 60
_HTML = '<pre style="line-height:normal;overflow-x:auto">{code}</pre>'


def bare_table() -> Table:
    """A table with a line under its head and no other."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")


class Printed:
    """Base of results: ``print`` and notebooks show what a terminal shows, where a verb gave the result."""

    def __str__(self) -> str:
        if (draw := vars(self).get("_draw")) is not None:
            return str(draw(None).export_text().rstrip())
        return str(self.describe()) if hasattr(self, "describe") else repr(self)

    def _repr_html_(self) -> str | None:
        draw = vars(self).get("_draw")
        return draw and draw(120).export_html(code_format=_HTML, inline_styles=True)

    def __repr__(self) -> str:
        if isinstance(self, list):
            return _SHORT.repr([*self])
        names = getattr(self, "_fields", None) or [name for name in vars(self) if name != "_draw"]
        return f"{type(self).__name__}({', '.join(f'{name}={_SHORT.repr(getattr(self, name))}' for name in names)})"


def printed(result: Any, draw: Callable[[int | None], Console]) -> Any:
    """A result that prints what ``draw`` records at a width; a tuple or list becomes an equal one of a subclass."""
    if isinstance(result, tuple | list):
        kind = _printed_kind(type(result))
        result = kind(result) if isinstance(result, list) else kind(*result)
    parts = result if isinstance(result, tuple) else vars(result).values() if isinstance(result, Printed) else ()
    for part in (result, *parts):
        if isinstance(part, Printed):
            object.__setattr__(part, "_draw", draw)
    return result


@cache
def _printed_kind(kind: Any) -> Any:
    space = {"__doc__": kind.__doc__, "__reduce__": lambda self: (kind, ([*self],) if kind is list else tuple(self))}
    return type(kind.__name__, (Printed, kind), space)
