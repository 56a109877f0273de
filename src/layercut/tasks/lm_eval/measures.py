"""Measure: the numbers that lm-eval's filters and metrics give an item, each so that higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from layercut.errors import InputError
from layercut.tasks.lm_eval.subject import reason

NOTHING_FOUND = "[invalid]"  # result of lm-eval's filters where they find no answer


class Measure(NamedTuple):
    """One metric of a task behind one of its filters."""

    filter: str
    metric: str
    over_items: Callable[[Sequence[Any]], Any]  # lm-eval's own way from the items' values to the task's number
    is_mean: bool  # True if that way is the mean, so that an item's value is a number of its own
    higher_is_better: bool


class Graded(NamedTuple):
    """lm-eval's grade of one answer."""

    found: str  # the answer that its first filter takes from the text; empty where it takes none
    values: Mapping[str, Any]
    """By the measure's name, what its metric gives: a number, or parts of one that needs all items."""


def measures(task: Any) -> dict[str, Measure]:
    """The measures of a task by name, in the order of its file; without metrics that measure nothing.

    A metric whose number is the mean over items keeps its name. Behind several filters it has theirs: ``strict-match``,
    or ``exact_match,strict-match`` where there are several metrics as well. Any other (BLEU of a corpus, accuracy over
    all instructions of all prompts, perplexity) is given item by item, by lm-eval's own aggregation of this item alone,
    and says so: ``bleu_by_item``. One of which lower is better is negated: ``neg_ter_by_item``.
    """
    from lm_eval.api.metrics import bypass_agg, mean, nanmean

    several, higher = len(task._filters) > 1, task.higher_is_better()
    only = len(task.aggregation()) == 1
    found = {}
    for one in task._filters:
        for metric, over_items in task.aggregation().items():
            if over_items is bypass_agg:
                continue
            is_mean, is_up = over_items in (mean, nanmean), higher.get(metric) is not False
            name = one.name if several and only else f"{metric},{one.name}" if several else metric
            name = f"{'' if is_up else 'neg_'}{name}{'' if is_mean else '_by_item'}"
            found[name] = Measure(one.name, metric, over_items, is_mean, is_up)
    return found


def graded(task: Any, known: Mapping[str, Measure], docs: Sequence[Any], texts: Sequence[str]) -> list[Graded]:
    """Texts as lm-eval filters and grades them, all at once, because some filters are slow to set up.

    Raises:
        InputError: lm-eval's own code fails on a row.
    """
    from lm_eval.api.instance import Instance

    if not docs:
        return []
    name = task.config.task
    instances = [
        Instance("generate_until", doc, ("", {}), 0, resps=[text]) for doc, text in zip(docs, texts, strict=True)
    ]
    try:
        task._instances = instances
        task.apply_filters()
        results = []
        for one in instances:
            values = {key: task.process_results(one.doc, [found]) for key, found in one.filtered_resps.items()}
            first = next(iter(one.filtered_resps.values()))
            results.append(Graded(_text(first), {key: values[part.filter][part.metric] for key, part in known.items()}))
    except Exception as error:  # filters and metrics of hundreds of task files raise what they like
        raise InputError(f"lm-eval's {name} cannot grade an answer ({reason(error)}).") from error
    return results


def number(measure: Measure, value: Any) -> float:
    """The number of one item, higher is better. Raises InputError: lm-eval's metric gives none."""
    try:
        found = float(value if measure.is_mean else measure.over_items([value]))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"lm-eval's metric {measure.metric} gives no number for an item ({reason(error)}).") from error
    if not math.isfinite(found):
        raise InputError(f"lm-eval's metric {measure.metric} gives {found} for an item, which is no number.")
    return found if measure.higher_is_better else -found


def over_items(known: Mapping[str, Measure], values: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """lm-eval's own number over all items, of each measure that is not a mean, under lm-eval's name for it."""
    several = len({measure.filter for measure in known.values()}) > 1
    return {
        f"{measure.metric},{measure.filter}" if several else measure.metric: float(
            measure.over_items([one[name] for one in values])
        )
        for name, measure in known.items()
        if not measure.is_mean
    }


def _text(found: Any) -> str:
    while isinstance(found, list | tuple):
        found = found[0] if found else ""
    text = "" if found is None else str(found).strip()
    return "" if text == NOTHING_FOUND else text
