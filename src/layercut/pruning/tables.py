"""The result of prune on a terminal: what each depth keeps, and what the chosen model costs."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from layercut.runs.disk import size
from layercut.runs.prune import Measured, PruneResult, TaskKept
from layercut.surgery.plan import format_layers


def result_tables(result: PruneResult) -> Iterator[RenderableType]:
    """A table of the depths, then lines about the task scores of the original model, size and speed."""
    goal = ", ".join(f"{one.task} ({one.readout})" for one in result.goal.tasks)
    yield Text(f"{result.model}: keep {result.goal.keep:.0%} of {goal}", style="bold")
    scores = [f"{one.task} {_share(one.score)} (n {one.score.n})" for one in result.original]
    yield Text(f"original model, report items: {', '.join(scores)}")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("removed", overflow="fold")
    table.add_column("healed")
    table.add_column("task", overflow="ellipsis")
    for name in ("kept, selection", "kept, report", "at least"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    tested = {(one.depth, one.healing): one for one in result.tested}
    for step in result.path:
        on_selection = next(one.kept for one in step.tried if one.healing == step.healing)
        found = tested.get((step.depth, step.healing))
        for number, task in enumerate(on_selection):
            shown = next((one for one in found.kept if one.task == task.task), None) if found else None
            table.add_row(
                format_layers(step.removed) if not number else "",
                (step.healing or "") if not number else "",
                task.task,
                _kept(task),
                "" if shown is None else _kept(shown),
                "" if shown is None or shown.bound is None else f"{100 * shown.bound:.0f}",
                "" if found is None or number else ("passed" if found.passed else found.verdict),
            )
    yield table
    yield Text(
        f"Shares of the score above chance in %, 95 % intervals; at least: one-sided bound at {result.goal.level:.0%}."
    )
    before, after = result.size["uncut"], result.size["cut"]
    share = after.parameters / before.parameters - 1
    yield Text(
        f"size: {before.parameters / 1e6:,.1f}M to {after.parameters / 1e6:,.1f}M parameters ({share:+.1%}), "
        f"{size(before.disk_bytes)} to {size(after.disk_bytes)} on disk"
    )
    for one in result.speed:
        ends = f" [{one.ratio.low:.2f}, {one.ratio.high:.2f}]" if one.ratio.low and one.ratio.high else ""
        yield Text(
            f"{one.name}: {one.uncut.value:.3g} to {one.cut.value:.3g} {one.unit}, x {one.ratio.value:.2f}{ends} "
            f"(batch {one.batch_size}, {one.ratio.n} rounds, {result.where})"
        )


def _share(one: Measured) -> str:
    ends = "" if one.low is None or one.high is None else f" [{100 * one.low:.0f}, {100 * one.high:.0f}]"
    return f"{100 * one.value:.0f}{ends}"


def _kept(one: TaskKept) -> str:
    return "n/a" if one.kept is None else _share(one.kept)
