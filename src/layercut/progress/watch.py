"""Progress of one piece of work: a bar on a terminal, else a line every half minute, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from layercut.progress import estimate as eta
from layercut.progress.bars import Progressing

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def watched(name: str, total: int, console: Console, unit: str) -> Iterator[Callable[[int, int], None]]:
    """What the block gets is called with (pieces done, pieces in all), first with what was there."""
    work = [(name, eta.Workload(kind=name, num_items=total, weight=1))]
    progress = Progressing(work, console, unit=unit)
    with progress.running(), progress.piece(0) as on_progress:
        yield on_progress
