"""One piece of work, watched: a bar where stderr is a terminal, else a line for every tenth, with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console

from layercut.study import eta
from layercut.study.progress import Progressing

LINES = 10


@contextmanager
def watched(name: str, total: int, console: Console) -> Iterator[Callable[[int, int], None]]:
    """What the block gets is called with (pieces done, pieces in all), first with what was there."""
    progress = Progressing([(name, eta.Cell(kind=name, num_items=total, weight=1))], console)
    first: tuple[int, float] | None = None
    shown = 0
    with progress.running(), progress.piece(0) as report:

        def on_progress(done: int, total: int) -> None:
            nonlocal first, shown
            report(done, total)
            now = time.monotonic()
            if first is None:
                first, shown = (done, now), LINES * done // max(total, 1)
            fresh, tenth = done - first[0], LINES * done // max(total, 1)
            if console.is_terminal or not fresh or done >= total or tenth <= shown:
                return
            shown = tenth
            left = timedelta(seconds=round((now - first[1]) / fresh * (total - done)))
            console.print(f"{name}: {done} of {total}, about {left} left", markup=False, soft_wrap=True)

        yield on_progress
