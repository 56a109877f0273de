"""Two readouts of the same items: how often one comes right and the other does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from layercut.evidence.uses import is_written
from layercut.report.elements import Part, Table

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow
    from layercut.runs.directory import RunFolder


class Discordance(NamedTuple):
    """One model on the items that it was asked under two readouts."""

    run: str
    task: str
    ranked: str
    """The readout that compares given answers."""
    written: str
    """The readout whose answers the model writes itself."""
    n: int
    both: int
    only_ranked: int
    """Items whose right answer it ranks first, and does not write."""
    only_written: int
    neither: int


def discordances(runs: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> list[Discordance]:
    """A line for each task with a ranked and a written readout, and each run that was asked both.

    Args:
        runs: the uncut run, then the cut ones.
        rows: of compare_runs; only main metrics that are right or wrong for every item count.
    """
    main = [row for row in rows if row.is_headline and row.values.lost is not None]
    found = []
    for task in dict.fromkeys(row.task for row in main):
        names = list(dict.fromkeys(row.readout for row in main if row.task == task))
        for ranked in (name for name in names if not is_written(name)):
            for written in (name for name in names if is_written(name)):
                asked = {row.cut.name for row in main if row.task == task and row.readout == ranked}
                asked &= {row.cut.name for row in main if row.task == task and row.readout == written}
                for place, run in enumerate(runs):
                    if place == 0 or run.name in asked:
                        found.append(_count(run, task, ranked, written))
    return found


def discordance_table(found: Sequence[Discordance]) -> Table:
    """A line for each of them. Heads are short, so that no name is broken at 80 columns."""
    return Table(
        name="discordant-items",
        caption="Number of items on which the two readouts agree and disagree, for each model",
        head=["task", "readouts", "model", "n", "both right", "ranked only", "written only", "neither"],
        rows=[
            [one.task, f"{one.ranked} / {one.written}", one.run, f"{one.n:,}"]
            + [str(count) for count in (one.both, one.only_ranked, one.only_written, one.neither)]
            for one in found
        ],
        numeric=frozenset(range(3, 8)),
    )


def discordance_section(found: Sequence[Discordance]) -> list[Part]:
    """Markdown of the whole section; nothing where no task has a ranked and a written readout."""
    if not found:
        return []
    return [
        "## The same items, scored by likelihood and by generation",
        "",
        "Number of items whose right answer a model ranks first, writes, both or neither. Guessing gets more rankings "
        "right than writings, so compare the models, not the columns.",
        "",
        discordance_table(found),
        "",
    ]


def _count(run: RunFolder, task: str, ranked: str, written: str) -> Discordance:
    right = [
        {record["id"]: record["outcome"] == "right" for record in run.records(task, readout)}
        for readout in (ranked, written)
    ]
    shared = [item for item in right[0] if item in right[1]]
    counts = Counter((right[0][item], right[1][item]) for item in shared)
    return Discordance(
        run=run.name,
        task=task,
        ranked=ranked,
        written=written,
        n=len(shared),
        both=counts[True, True],
        only_ranked=counts[True, False],
        only_written=counts[False, True],
        neither=counts[False, False],
    )
