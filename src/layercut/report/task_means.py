"""Ranked tasks together, and written tasks together: what a pruned model keeps of each, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from layercut.evidence.task_means import TaskMean, task_mean
from layercut.report.table import Column, Table
from layercut.report.words import is_written, retained
from layercut.text.numbers import number, with_interval

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow

Form = Literal["ranked", "written"]


class FormMean(NamedTuple):
    """The mean of one run's tasks of one form."""

    run: str
    form: Form
    mean: TaskMean

    @property
    def words(self) -> str:
        """``mean of 7 ranked tasks, n 448``."""
        return f"mean of {len(self.mean.tasks)} {self.form} tasks, n {self.mean.difference.n:,}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"run": self.run, "form": self.form, **self.mean.to_dict()}


def form_means(rows: Sequence[ComparisonRow]) -> list[FormMean]:
    """For each run and form with two tasks or more. Of a task, the main metric of the first readout of the form counts;
    likelihoods in nats and answers under a budget of tokens do not."""
    found: list[FormMean] = []
    main = [row for row in rows if row.is_headline and row.is_share and row.items and "@" not in row.readout]
    for run in dict.fromkeys(row.cut.name for row in main):
        forms: dict[Form, dict[str, ComparisonRow]] = {"ranked": {}, "written": {}}
        for row in main:
            if row.cut.name == run:
                forms["written" if is_written(row.readout) else "ranked"].setdefault(row.task, row)
        found += [
            FormMean(run, form, task_mean(list(tasks.values()))) for form, tasks in forms.items() if len(tasks) > 1
        ]
    return found


def form_mean_table(rows: Sequence[ComparisonRow]) -> Table | None:
    """A line for each run and form, in %; None where no run has two tasks of one form."""
    found = form_means(rows)
    if not found:
        return None
    return Table(
        name="task-means",
        caption="Ranked tasks together, and written tasks together: means over tasks, in %",
        columns=[
            Column("plan", lambda one: one.run),
            Column("form", lambda one: one.form),
            Column("tasks", lambda one: str(len(one.mean.tasks)), numeric=True),
            Column("n", lambda one: f"{one.mean.difference.n:,}", numeric=True),
            Column("uncut", lambda one: number(one.mean.uncut, digits=1), numeric=True),
            Column("cut", lambda one: number(one.mean.cut, digits=1), numeric=True),
            Column("difference", lambda one: with_interval(one.mean.difference, digits=1, sign=True)),
            Column("retention", lambda one: retained(one.mean.retention)),
            Column("above chance", lambda one: retained(one.mean.retention_above_chance)),
        ],
        rows=found,
    )


def form_mean_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """A line for each form of one run's rows.

    ``mean of 7 ranked tasks, n 448: uncut 50, cut 45, difference -6 [-9, -2]; retention 88 [82, 96], above chance ...``
    """
    lines = []
    for one in form_means(rows):
        mean = one.mean
        kept = f"retention {retained(mean.retention)}, above chance {retained(mean.retention_above_chance)}"
        scores = f"uncut {number(mean.uncut)}, cut {number(mean.cut)}"
        difference = with_interval(mean.difference, sign=True)
        lines.append(f"{one.words}: {scores}, difference {difference}; {kept}")
    return lines
