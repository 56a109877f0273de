"""Predict which layers can be removed without loss in generation, from forward passes alone.

Only the original model generates. Its right answers are scored under each plan that skips one layer, all layers in
one pass over the depth (``SharedEngine`` runs shared parts once). If every token of an answer is still the likeliest
one, greedy decoding writes the same answer. So the share of such answers is a lower bound of what generation keeps; a
pruned model may also be right in other words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layercut.errors import InputError
from layercut.evidence.intervals import proportion_interval
from layercut.progress import Progress, silent
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.text_objective import TextObjective
from layercut.selection.trace_damage import Traces
from layercut.surgery.plan import CutPlan

KEEP = 0.9
"""Share of the right answers that a cut should leave word for word."""


def predict(
    objective: TaskObjective,
    traces: Traces,
    influence: Mapping[int, float],
    *,
    journal: SearchJournal | None = None,
    keep: float = KEEP,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Rank layers by the damage that their absence does to the original model's right answers; JSON-able.

    Layers are ordered by KL(uncut || without the layer), the mean per token, the least first; of equals the later one.
    Then the first, the first two, ... of them are skipped together, until fewer than ``keep`` of the answers are left
    word for word for sure (upper end of the interval).

    Args:
        objective: whose engine is asked.
        traces: of ``correct_traces``.
        influence: block influence of each layer on the same answers, for comparison.
        journal: what is known and where more goes.
        keep: see above, between 0 and 1.
        progress: called with how many texts are done.

    Returns:
        ``layers``, ascending: ``layer``, means per token ``kl``, ``js``, ``nll``, ``top1`` (share of tokens where
        another is the likeliest), ``kept`` (answers that stay word for word, with Wilson's interval) and
        ``influence``; ``order``; ``depths``: ``removed``, ``kl`` and ``kept`` for 1, 2, ... layers; ``safe``: the most
        layers up to which ``kept`` is at least ``keep`` for sure (lower end); ``traces``, ``num_traces``,
        ``num_tokens``, ``keep``.

    Raises:
        InputError: a share that is none, or a measure that is not a number.
    """
    if not 0 < keep < 1:
        raise InputError(f"keep {keep} is not a share of the answers; use one between 0 and 1, such as {KEEP}.")
    num_layers = objective.num_layers
    text = TextObjective(
        objective.engine, traces.requests, name="traces", measure="kl", journal=journal, progress=progress
    )
    alone = [CutPlan(num_layers=num_layers, removed=(layer,)) for layer in range(num_layers)]
    layers = [
        {"layer": layer, **_measured(text, plan, records), "influence": influence[layer]}
        for layer, (plan, records) in enumerate(zip(alone, text.per_text(alone), strict=True))
    ]
    order = sorted(range(num_layers), key=lambda layer: (layers[layer]["kl"], -layer))
    depths: list[dict[str, Any]] = []
    for count in range(1, num_layers):
        plan = CutPlan(num_layers=num_layers, removed=tuple(order[:count]))
        depths.append({"removed": list(plan.removed), **_measured(text, plan, text.per_text([plan])[0])})
        if depths[-1]["kept"]["high"] < keep:
            break
    safe = next((count for count, one in enumerate(depths) if one["kept"]["low"] < keep), len(depths))
    return {
        "layers": layers,
        "order": order,
        "depths": depths,
        "safe": safe,
        "keep": keep,
        "traces": dict(traces.num_right),
        "num_traces": len(traces.requests),
        "num_tokens": text.num_tokens(),
        "tasks": dict(objective.describe()),
    }


def _measured(text: TextObjective, plan: CutPlan, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means per token, and the texts whose every token is still the likeliest."""
    kept = sum(record["top1"] == 0 for record in records)
    return {**text.means(plan), "kept": proportion_interval(kept, len(records))._asdict()}
