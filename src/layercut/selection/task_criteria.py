"""Criteria by the tasks of an objective: scores, searched one layer at a time, and damage to right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.errors import InputError
from layercut.selection import CRITERIA
from layercut.selection.base import Context, Selection, check_names, chosen_settings, wanted_objective, whole_numbers
from layercut.selection.greedy import remove_greedily
from layercut.selection.objective import TaskObjective, TaskRecords, selected_on
from layercut.selection.perplexity import TextObjective, select_by_text
from layercut.selection.search_journal import SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import GENERATED
from layercut.tasks.selected_items import SELECTION_ITEMS, record_items

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
    objective, settings = wanted_objective(context, "task_accuracy"), context.settings
    check_names("task_accuracy", settings, ("shortlist", "traces"))
    if "traces" in settings and "shortlist" not in settings:
        raise InputError("traces have no effect without a shortlist; give shortlist=8, or leave them out.")
    context = context.with_first_protected()
    details: dict[str, Any] = {"protect": sorted(context.protected)}
    if "shortlist" not in settings:
        selection = remove_greedily(context, objective, details)
    else:
        numbers = whole_numbers("task_accuracy", settings, shortlist=1, traces=TRACES)
        if not isinstance(objective, TaskObjective):
            raise InputError("a shortlist reads answers to tasks; give the Context a TaskObjective.")
        requests = first_traces(correct_traces(objective).by_task, numbers["traces"])
        with SearchJournal(context.folder) as journal:
            damage = TextObjective(
                objective.engine, requests, name="traces", measure="kl", journal=journal, progress=context.progress
            )

            def propose(plans: Sequence[CutPlan]) -> Sequence[CutPlan]:
                """The plans of a round that damage right answers of the original model least."""
                values = damage.values(plans)
                best = sorted(range(len(plans)), key=lambda place: (values[place], place))[-numbers["shortlist"] :]
                return [plans[place] for place in best]

            selection = remove_greedily(context, objective, details | numbers, propose)
    plan = CutPlan(num_layers=context.num_layers, removed=selection.removed)
    return selection._replace(details={**selection.details, **selected_on(objective, plan)})


class Traces(NamedTuple):
    """The original model's right answers."""

    requests: list[LikelihoodRequest]  # the prompt, with the completion as its one continuation
    num_right: dict[str, int]
    items: dict[str, list[str]]  # per task, the ids of all items
    by_task: dict[str, list[LikelihoodRequest]]  # the requests of each task that is written


def first_traces(by_task: Mapping[str, Sequence[LikelihoodRequest]], number: int) -> list[LikelihoodRequest]:
    """The first requests of each task."""
    return [request for requests in by_task.values() for request in requests[:number]]


def trace_damage(context: Context) -> Selection:
    """Choose decoder layers by what their absence does to the original model's correct solutions.

    The original model answers the objective's selection items (only readouts that generate). The pruned model gets its
    right completions word for word; its damage is the mean of KL(uncut || cut) over their tokens, in nats. That shows
    long before answers turn wrong, and costs one forward pass instead of a generation. After RTD of
    github.com/3314787995/RTP-Gate-RTD, a reproduction of arXiv:2602.01997, whose score mixes several such measures. The
    stop token is not among the tokens.

    Settings:
        search: ``one_shot`` (default) skips each layer alone; ``greedy`` removes one and repeats.

    The original model's answers are those of the objective's journal, so a task search in the same folder shares them;
    each trace is measured once per plan and kept in the run folder's journal.

    Details: those of ``select_by_text``; ``search``, ``num_traces``, ``traces`` per task, the ``tasks`` and the
    selection items.

    Raises:
        InputError: an unknown setting or value, no objective of tasks or none with a readout that generates, no right
            answer by the original model, or measures that are not numbers.
    """
    chosen = chosen_settings("trace_damage", context.settings, search=CRITERIA["trace_damage"].searches)
    tasks = wanted_objective(context, "trace_damage")
    if context.engine is None or not isinstance(tasks, TaskObjective):
        raise InputError(
            "trace_damage lets the model answer the objective's tasks; give the Context an engine and a TaskObjective."
        )
    traces = correct_traces(tasks)
    with SearchJournal(context.folder) as journal:
        objective = TextObjective(
            context.engine, traces.requests, name="traces", measure="kl", journal=journal, progress=context.progress
        )
        selection = select_by_text(context, objective, chosen["search"])
    details: dict[str, Any] = {
        **chosen,
        "num_traces": len(traces.requests),
        "traces": traces.num_right,
        "tasks": dict(tasks.describe()),
        SELECTION_ITEMS: record_items(traces.items),
    }
    return selection._replace(details={**details, **selection.details})


def correct_traces(tasks: TaskObjective) -> Traces:
    """The original model's right answers as text to be predicted; InputError if there are none."""
    uncut = CutPlan(num_layers=tasks.engine.num_layers)
    answered = tasks.answers(uncut, GENERATED)
    if not answered:
        raise InputError(
            "trace_damage reads what the model writes; add a task that generates, such as arithmetic with short."
        )
    traces = Traces([], {}, {}, {})
    for answers in answered:
        part, right = answers.task, right_answers(answers)
        traces.requests.extend(right)
        traces.num_right[part.label] = len(right)
        traces.items.setdefault(part.task.name, []).extend(record["id"] for record in answers.records)
        traces.by_task.setdefault(part.task.name, []).extend(right)
    if not traces.requests:
        labels = ", ".join(traces.num_right)
        raise InputError(
            f"the original model answers none of the selection items of {labels} right, so there is no trace to score. "
            "Take easier tasks, or raise their limit."
        )
    return traces


def right_answers(answers: TaskRecords) -> list[LikelihoodRequest]:
    """The right answers among a model's answers to a task that is written, each with its prompt."""
    part, requests = answers.task, []
    for sample, record in zip(answers.samples, answers.records, strict=True):
        request = part.task.request(sample, part.readout)
        assert isinstance(request, GenerationRequest), f"{part.label} must generate"
        if record["outcome"] == "right" and record["completion"].strip():
            id = f"{part.task.name}.{part.readout}.{sample.id}"
            requests.append(LikelihoodRequest(id=id, prompt=request.prompt, continuations=(record["completion"],)))
    return requests
