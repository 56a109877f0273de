"""Progress of runs: a line for each finished part, and what is going on now.

A terminal shows the present step in one live line with a bar; elsewhere a line is printed at least every half minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, NamedTuple, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from layercut.progress import OnProgress
from layercut.progress.activity import Tokens, listening_to
from layercut.progress.cost import Eta, Pace, Workload, clock_text
from layercut.progress.heartbeat import print_above_live, under_way
from layercut.text import count_of

State = Literal["waiting", "searching", "asking", "healing", "finished", "failed"]


def _joined(*facts: str, by: str = ", ") -> str:
    return by.join(fact for fact in facts if fact)


class _Live:
    """Long work. Its subclasses describe the present step in ``_now``."""

    def __init__(self, console: Console) -> None:
        self._console, self._tokens, self._began = console, Tokens(), time.monotonic()

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Show the progress inside the block; that of a step within is shown below it."""
        live = Live(self, console=self._console, refresh_per_second=4, transient=True)
        shown = live if self._console.is_terminal else nullcontext()
        with listening_to(self._tokens), under_way(self._console, self._now), shown:
            yield self

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table.grid(Column(width=12), Column(ratio=1), padding=(0, 1), expand=True)
        done, total = self._share()
        now = Text(_joined(self._now(), f"{clock_text(time.monotonic() - self._began)} so far", by=" · "), style="cyan")
        table.add_row(ProgressBar(max(1, total), done, width=12), now)
        yield table

    def _share(self) -> tuple[int, int]:
        """How much of the work that the bar shows is done, and all of it."""
        raise NotImplementedError

    def _now(self) -> str:
        raise NotImplementedError


class Progressing(_Live):
    """Progress over a list of pieces of work with names: one bar over all."""

    def __init__(
        self, work: Sequence[tuple[str, Workload]], console: Console, *, verb: str = "", unit: str | None = "items"
    ) -> None:
        """``work``: names and sizes; ``verb``: of each piece, such as ``Scoring``, if names do not include it;
        ``unit``: of the sizes, None for steps without meaning to users, which are shown as a percentage."""
        super().__init__(console)
        self._names = [f"{verb} {name}".strip() for name, _ in work]
        self._unit = unit and unit.removesuffix("s")
        self._eta = Eta([piece for _, piece in work], self._tokens.seconds_left)
        self.skip, self.learn = self._eta.skip, self._eta.learn
        self._doing, self._active = "Loading", list[int]()

    @contextmanager
    def piece(self, index: int) -> Iterator[OnProgress]:
        """Do one piece: the block reports (items done, items in all), first with those done before."""
        with self._working([index], self._names[index], self._names[index]):
            yield self._eta.reports(index)

    @contextmanager
    def _working(self, indices: list[int], name: str, doing: str) -> Iterator[None]:
        """Do pieces, and print a line if items were new."""
        self._active, self._doing = indices, doing
        self._eta.begin(indices[0])
        self._tokens.begin()
        began, (before, _) = time.monotonic(), self._eta.count(indices)
        try:
            yield
        finally:
            self._active = []
        if (done := self._eta.count(indices)[0]) > before:
            count = count_of(done, self._unit) if self._unit and self._eta.cells[indices[0]].is_item else ""
            all_done, total = self._share()
            left = self._left() if all_done < total else ""
            print_above_live(self._console, f"{name}: {_joined(count, clock_text(time.monotonic() - began), left)}")

    def _share(self) -> tuple[int, int]:
        return self._eta.count(range(len(self._names)))

    def _now(self) -> str:
        if not (active := self._active):
            return _joined("Loading or writing", self._left())
        done, total = self._eta.count(active)
        count = f": {done:,} of {count_of(total, self._unit)}" if self._unit else f": {done / max(1, total):.0%}"
        count = count if self._eta.cells[active[0]].is_item else ""
        return _joined(f"{self._doing}{count}", self._tokens.describe(), self._left())

    def _left(self) -> str:
        """The time of all pieces, or of the present one until every kind of piece was measured, or when it is known."""
        active = self._active
        cell = self._eta.cells[active[0]] if active else None
        if (seconds := self._eta.remaining) is not None:
            unknown = self._eta.unknown
            steps = f"{unknown} untimed {'search or healing run' if unknown == 1 else 'searches or healing runs'}"
            return _joined(f"{clock_text(seconds)} left", f"excluding {steps}" if unknown else "")
        if cell and cell.is_item and (seconds := self._eta.remaining_of(active)) is not None:
            return f"{clock_text(seconds)} left of this step"
        wanted = self._eta.wanted(cell.kind) if cell else 0
        return f"time left: after {count_of(wanted, self._unit or 'step')}" if wanted else ""


@contextmanager
def progress_bar(name: str, total: int, console: Console, unit: str) -> Iterator[OnProgress]:
    """Progress over one piece of work: the block calls what it gets with (pieces done, pieces in all)."""
    progress = Progressing([(name, Workload(kind=name, num_items=total))], console, unit=unit)
    with progress.running(), progress.piece(0) as on_progress:
        yield on_progress


class StageProgress(_Live):
    """The stages of a run of prune in the order in which they begin, and the number of the step.

    How deep a path goes is open, so only the present counter has a time left.
    """

    def __init__(self, console: Console, steps: Sequence[str] = ()) -> None:
        """``steps``: names of the steps of the run, in order; see ``step``."""
        super().__init__(console)
        self._steps, self._at = list(steps), 0
        self._active = self._doing = self._what = ""
        self._paces: dict[str, Pace] = {}
        self.cells: Sequence[str] = ()  # names of the pieces that ``piece`` and ``skip`` speak of

    def step(self, name: str) -> None:
        """A step of the run begins; the number never falls, and a name that is no step changes nothing."""
        self._at = max(self._at, self._steps.index(name) + 1 if name in self._steps else 0)

    def begin(self, stage: str, doing: str) -> None:
        """A stage or depth is worked on."""
        self._active, self._doing, self._paces = stage, doing, {}
        self._tokens.begin()

    def end(self, stage: str, *, chosen: str = "", shown: str = "", note: str = "") -> None:
        """It is done, with retained scores on selection items and on report items."""
        kept = [chosen and f"keeps {chosen} on selection items", shown and f"keeps {shown} on report items"]
        print_above_live(self._console, f"{stage}: {_joined(note, *kept, self._position)}")

    def __call__(self, what: str, done: int, total: int) -> None:
        """A counter of the active stage, such as rounds or answers."""
        if done == 0:
            self._tokens.begin()
        self._paces.setdefault(what, Pace()).reach(done, total)
        self._what = what

    def skip(self, index: int) -> None:
        """A piece was done before."""

    @contextmanager
    def piece(self, index: int) -> Iterator[OnProgress]:
        """Do one piece: the block reports (items done, items in all)."""
        self._tokens.begin()
        yield lambda done, total: self(self.cells[index], done, total)

    def _share(self) -> tuple[int, int]:
        pace = self._paces.get(self._what)
        return (pace.done, pace.total) if pace else (0, 1)

    def _now(self) -> str:
        doing = _joined(self._doing, self._step, self._tokens.describe(), self._position) or "loading the model"
        return f"{self._active}: {doing}" if self._active else _joined("loading the model", self._position)

    @property
    def _step(self) -> str:
        """The counter of the active stage that was reported last."""
        if (pace := self._paces.get(self._what)) is None:
            return ""
        part = f", part {pace.part}:" if pace.part > 1 else ""
        left = pace.left and f"{pace.left} of this step"
        return _joined(f"{self._what}{part} {pace.done:,} of {pace.total:,}", left)

    @property
    def _position(self) -> str:
        """``step 2 of 6``; empty before the first."""
        return f"step {self._at} of {len(self._steps)}" if self._at else ""


class SelectionProgress(StageProgress):
    """Progress of a criterion: all counters that are at work, with the time left of the one that began first."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.begin("Choosing layers", "")

    @property
    def _step(self) -> str:
        paces = [(what, pace) for what, pace in list(self._paces.items()) if pace.done < pace.total]
        counts = [f"{what} {pace.done:,} of {pace.total:,}" for what, pace in paces]
        return _joined(*counts, paces[0][1].left if paces else "")


class StudyStep(NamedTuple):
    """One piece of a study's work: a cell of an arm, a search, or a healing."""

    arm: str  # the arm whose line counts it; empty for none
    name: str
    work: Workload


class StudyProgress(Progressing):
    """Progress over the pieces of a study, and how many of its arms are finished."""

    def __init__(self, pieces: Sequence[StudyStep], console: Console) -> None:
        work = [(f"{piece.arm}: {piece.name}" if piece.arm else piece.name, piece.work) for piece in pieces]
        super().__init__(work, console)
        self._pieces = list(pieces)
        self._states: dict[str, State] = dict.fromkeys((piece.arm for piece in pieces if piece.arm), "waiting")
        self._arm = ""

    def state(self, arm: str, state: State) -> None:
        self._states[arm] = state
        if state not in ("finished", "failed", "waiting"):
            self._arm = arm

    def searching(self, what: str, done: int, total: int) -> None:
        if self._arm:
            self._doing = f"{self._arm}: choosing layers: {what} {done:,} of {total:,}"

    @contextmanager
    def step(self, index: int) -> Iterator[None]:
        """Do a piece without items, such as a search."""
        with self.piece(index) as on_progress:
            on_progress(0, 1)
            yield
            on_progress(1, 1)

    @contextmanager
    def cell(self, index: int) -> Iterator[OnProgress]:
        """Do one cell: the block reports (items done, items in all), first with those done before."""
        with self._asking([index]):
            yield self._eta.reports(index)

    @contextmanager
    def cells(self, indices: Sequence[int]) -> Iterator[Callable[[int, int], None]]:
        """Do some cells of one task at once: the block reports (index, new items)."""
        last = time.monotonic()

        def report(index: int, num_items: int) -> None:
            nonlocal last
            before, last = last, time.monotonic()
            self._eta.advance(index, num_items, last - before)

        with self._asking(indices):
            yield report

    @contextmanager
    def _asking(self, indices: Sequence[int]) -> Iterator[None]:
        name, arms = self._pieces[indices[0]].name, [self._pieces[index].arm for index in indices]
        for arm in arms:
            self.state(arm, "asking")
        try:
            with self._working([*indices], f"{', '.join(arms)}: {name}", f"{', '.join(arms)}: scoring {name}"):
                yield
        except BaseException:
            for index in indices:
                self.skip(index)  # no time is left for cells that fail
            raise

    def _now(self) -> str:
        states = list(self._states.values())
        failed = states.count("failed")
        finished = f"{states.count('finished')} of {count_of(len(states), 'arm')} finished"
        return _joined(super()._now(), finished, f"{failed} failed" if failed else "")
