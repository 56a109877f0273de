"""The look of tables in the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table


def bare_table() -> Table:
    """A table with a line under its head and no other."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
