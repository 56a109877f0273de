"""Iterative search by task scores: each round removes the layer with the smallest loss of task score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layercut.errors import InputError
from layercut.selection.base import Context, Objective, Selection, check_names, wanted_objective, whole_numbers
from layercut.selection.greedy import Propose, greedy
from layercut.selection.objective import TaskObjective, selected_on
from layercut.selection.perplexity import TextObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.trace_damage import correct_traces, first_traces
from layercut.surgery.plan import CutPlan

TRACES = 8
"""Right answers of each task that a shortlist reads. What scores best may do damage to them: of 27 layers of
Qwen2.5-Coder-1.5B the two best by scores are at places 8 and 24 by 17 answers (docs/experiments/qwen_selection.md)."""


def task_accuracy(context: Context) -> Selection:
    """Remove, one by one, the layer without which the task scores are best.

    Each round scores every remaining candidate on the selection items of all objective tasks, divides by the original
    model's score, takes the mean over tasks and removes the best; of equals the later layer. The "iterative" criterion
    of arXiv:2602.01997, which samples at temperature 0.9; here decoding is greedy by default.

    Layer 0 is protected, as in the paper, unless protected layers are given (``--protect``; ``none`` makes all
    candidates).

    Settings:
        shortlist: score only so many candidates a round, those with the least trace damage beside the layers that are
            gone; of equals the one with the least. All candidates if left out.
        traces: right answers of each task by which a shortlist is made (default 8).

    Raises:
        InputError: no objective, a setting that does not exist or has no such value, a shortlist where no task is
            written, or an original model that is no better than guessing.
    """
    objective = wanted_objective(context, "task_accuracy")
    check_names("task_accuracy", context.settings, ("shortlist", "traces"))
    if "traces" in context.settings and "shortlist" not in context.settings:
        raise InputError("traces have no effect without a shortlist; give shortlist=8, or leave them out.")
    context = context.with_first_protected()
    details: dict[str, Any] = {"protect": sorted(context.protected)}
    if "shortlist" not in context.settings:
        selection = greedy(context, objective, details)
    else:
        numbers = whole_numbers("task_accuracy", context.settings, shortlist=1, traces=TRACES)
        with SearchJournal(context.folder) as journal:
            propose = _shortlist(context, objective, journal, **numbers)
            selection = greedy(context, objective, details | numbers, propose)
    plan = CutPlan(num_layers=context.num_layers, removed=selection.removed)
    return selection._replace(details={**selection.details, **selected_on(objective, plan)})


def _shortlist(
    context: Context, objective: Objective, journal: SearchJournal, *, shortlist: int, traces: int
) -> Propose:
    """Proposes the plans of a round that damage right answers of the original model least."""
    if not isinstance(objective, TaskObjective):
        raise InputError("a shortlist reads answers to tasks; give the Context a TaskObjective.")
    requests = first_traces(correct_traces(objective).by_task, traces)
    damage = TextObjective(
        objective.engine, requests, name="traces", measure="kl", journal=journal, progress=context.progress
    )

    def propose(plans: Sequence[CutPlan]) -> Sequence[CutPlan]:
        values = damage.values(plans)
        best = sorted(range(len(plans)), key=lambda place: (values[place], place))[-shortlist:]
        return [plans[place] for place in best]

    return propose
