"""Plans and other models of a run of prune on the same report items: what each weighs, takes and keeps."""

from __future__ import annotations

from layercut.evidence.study import task_verdict
from layercut.report import words
from layercut.report.table import Cell, Styled, Table, text_columns
from layercut.runs.disk import size_text
from layercut.runs.prune import Alternative, PruneResult, TestedDepth


def versus_table(result: PruneResult) -> Table:
    """A row for each tested plan or other model and task, the largest first; the answer's model is strong."""
    served, uncut = {model.run: model for model in result.served}, result.size["uncut"].disk_bytes
    taken = result.better or next((plan for plan in result.tested if plan.name == result.chosen.name), None)
    models: list[tuple[TestedDepth | Alternative, str, str]] = [
        (plan, f"{plan.label}, {plan.healing}" if plan.healing else plan.label, plan.name) for plan in result.tested
    ]
    models += [(other, other.model, other.run) for other in result.versus]
    lines: list[list[Cell]] = []
    for model, label, run in sorted(models, key=lambda model: -model[0].disk_bytes):
        is_taken = model is taken and (result.better is not None or result.verdict == "passed")
        weights = f"{size_text(model.disk_bytes)} ({100 * (model.disk_bytes / uncut - 1):+.0f} %)"
        request = "not timed"
        if run in served:
            timed = served[run].request
            request = f"{timed.cut.value:.3g} s ({words.times_words(timed)})"
        for task in model.kept:
            verdict = words.finding_cell(task_verdict(model, task, result.goal.keep))
            name, bound = words.task_cell(task.task, task.readout), words.bound_words(task.bound, "-")
            label_cell = Styled(label, "strong" if is_taken else "plain")
            lines.append([label_cell, weights, request, name, words.kept_words(task.kept), bound, verdict])
    heads = ("model", "weights", "a request", "task", "keeps", "at least", "verdict")
    columns = text_columns(*heads, numeric=("weights", "a request", "at least"), narrow={"at least": 1})
    caption = "Plans and other models on the same items, with 95 % intervals"
    return Table(name="versus", caption=caption, columns=columns, rows=lines if result.versus else [])


def how_weighed(result: PruneResult) -> str:
    """How plans and other models were tested, and on which items."""
    promise = "5 % of all cases" if result.error < 0.1 else "10 %, as others were named after the plans were tested"
    return (
        f"Report items, 95 % intervals, seed {result.seed}. A model that passed keeps less in at most {promise}. GGUF "
        f"files run in llama.cpp, all else in transformers. Timed by turns with the original model, {result.serve}."
    )
