"""Predict which layers can be removed without loss in generation, from forward passes alone.

    layercut sweep bundled:smollm2-135m --predict --objective arithmetic,copy --out runs/sweep

Only the original model generates. Its right answers are scored under each plan that skips one layer, all layers in one
pass over the depth (``SharedEngine`` runs shared parts once). If every token of an answer is still the likeliest one,
greedy decoding writes the same answer. So the share of such answers is a lower bound of what generation keeps; a pruned
model may also be right in other words.

A mean over all tokens hardly shows a layer that only few of them need, so the damage is also given by kind of token.

The folder may hold a sweep or a search on the same objective: its answers of the original model are reused, and a sweep
in it is compared with the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.base import Decoding, LikelihoodRequest
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.intervals import proportion_interval
from layercut.evidence.prediction import FORMAT_VERSION
from layercut.evidence.sweep import Sweep, is_sweep
from layercut.progress import Progress, Say, silent
from layercut.progress.bars import SelectionProgress
from layercut.runs.atomic import write_json
from layercut.runs.directory import PREDICTION, RunFolder
from layercut.runs.settings import settings_hash
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.block_influence import block_influence
from layercut.selection.calibration import Calibration
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.sweep import ask, sweep_settings
from layercut.selection.text_objective import TextObjective
from layercut.selection.token_kinds import mean_rises
from layercut.selection.trace_damage import Traces, correct_traces
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import announce_isolation
from layercut.tasks.run import slug
from layercut.tasks.shortfall import tell_shortfalls

KEEP = 0.9
"""Share of the right answers that should stay word for word."""


class Predicted(NamedTuple):
    """The prediction and its file."""

    file: Path
    """predict.json in the run folder."""
    data: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.file.parent

    @property
    def report(self) -> Path:
        """The Markdown page that ``layercut.write_reports`` makes of the file."""
        return self.file.with_suffix(".md")


def predict_layers(
    model: ModelSettings,
    *,
    objective: Sequence[TaskSettings],
    out: Path | None,
    seed: int,
    decoding: DecodingSettings,
    dry_run: bool,
    progress: SelectionProgress,
    say: Say,
) -> Predicted | None:
    """Predict the order of the layers; ``layercut sweep --predict``. A dry run prints the plan and returns None.

    Args:
        objective: tasks whose selection items the original model answers; readouts that generate give traces.
        out: the run folder; ``runs/<model>-sweep``, as for a sweep, if left out.

    Raises:
        InputError: a task that cannot be used, none that generates, no right answer, or a folder that holds another
            run.
    """
    handle = ModelHandle(model)
    parts = [one.part for one in ask(objective, seed, "selection")]
    folder = out or Path("runs", slug(f"{model.model}-sweep"))
    say(f"{model.model}: {handle.num_layers} layers, each skipped alone on the original model's own right answers")
    isolation = announce_isolation((part.task for part in parts), say)
    tell_shortfalls(parts, "selection", say)
    if dry_run:
        RunFolder.check(folder)
        say(f"would ask {', '.join(part.label for part in parts)} of the original model and write to {folder}")
        return None
    draw = Decoding(**decoding.as_dict(), seed=seed)
    settings = sweep_settings(handle.describe(), parts, draw, "selection")
    flags = {"limit": "limit", "objective": "objective"}
    with RunFolder.begin(folder, settings, flags=flags, sandbox=isolation) as run:
        found = measure(handle, parts, draw, run, progress)
        sweep = Sweep.load(run.path) if is_sweep(run.path) else None
        data = {
            "format_version": FORMAT_VERSION,
            "model": model.model,
            "num_layers": handle.num_layers,
            "seed": seed,
            **found,
            "sweep": None
            if sweep is None
            else [
                {"name": curve.label, "scores": {str(row.layer): row.values.cut.value for row in curve.rows}}
                for curve in sweep.curves
                if not curve.refused
            ],
        }
        write_json(run.path / PREDICTION, data)
        if not run.is_finished:
            run.write_metrics([])
        return Predicted(run.path / PREDICTION, data)


def measure(
    handle: ModelHandle, parts: Sequence[ObjectiveTask], decoding: Decoding, run: RunFolder, progress: SelectionProgress
) -> dict[str, Any]:
    """Make the forward passes that the folder does not hold."""
    with SearchJournal(run) as journal:
        objective = TaskObjective(handle.engine, parts, decoding=decoding, journal=journal, progress=progress)
        traces = correct_traces(objective)
        texts = [_whole_text(handle, request) for request in traces.requests]
        context = Context(
            num_layers=handle.num_layers,
            num_remove=1,
            engine=handle.engine,
            calibration=Calibration(
                texts=tuple(texts), num_tokens=0, source="traces", content_hash=settings_hash({"texts": texts})
            ),
            progress=progress,
        )
        influence = block_influence(context).importance
        return predict(objective, traces, influence, journal=journal, progress=progress)


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
    Then the first, the first two, ... of them are skipped together, until the interval of the answers that stay word
    for word is below ``keep``.

    Args:
        objective: its engine is used.
        traces: of ``correct_traces``.
        influence: block influence of each layer on the same answers, for comparison.
        keep: a share of the answers.

    Returns:
        ``layers``, ascending: ``layer``, means per token ``kl``, ``js``, ``nll``, ``sure``, ``top1`` (share of tokens
        where another is the likeliest), ``kept`` (answers that stay word for word, with Wilson's interval), ``kinds``
        (of ``mean_rises``) and ``influence``; ``order``; ``depths``: ``removed``, ``kl`` and ``kept`` for 1, 2, ...
        layers; ``safe``: the most layers up to which the lower end of ``kept`` is at least ``keep``; ``traces``,
        ``num_traces``, ``num_tokens``, ``keep``.
    """
    if not 0 < keep < 1:
        raise InputError(f"keep {keep} is not a share of the answers; use one between 0 and 1, such as {KEEP}.")
    num_layers = objective.engine.num_layers
    text = TextObjective(
        objective.engine,
        traces.requests,
        name="traces",
        measure="kl",
        by_kind=True,
        journal=journal,
        progress=progress,
    )
    alone = [CutPlan(num_layers=num_layers, removed=(layer,)) for layer in range(num_layers)]
    layers = [
        {"layer": layer, **_measured(text, plan, records), "kinds": _kinds(records), "influence": influence[layer]}
        for layer, (plan, records) in enumerate(zip(alone, text.records(alone), strict=True))
    ]
    order = sorted(range(num_layers), key=lambda layer: (layers[layer]["kl"], -layer))
    depths: list[dict[str, Any]] = []
    for count in range(1, num_layers):
        plan = CutPlan(num_layers=num_layers, removed=tuple(order[:count]))
        depths.append({"removed": list(plan.removed), **_measured(text, plan, text.records([plan])[0])})
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
    """Means per token, and the share of texts whose every token is still the likeliest."""
    kept = sum(record["top1"] == 0 for record in records)
    return {**text.means(plan), "kept": proportion_interval(kept, len(records))._asdict()}


def _kinds(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {kind: rise._asdict() for kind, rise in mean_rises(one["kinds"] for one in records).items()}


def _whole_text(handle: ModelHandle, request: LikelihoodRequest) -> str:
    """Prompt and answer as the model reads them."""
    from layercut.engine.prompts import render

    prompt = request.prompt
    text = prompt if isinstance(prompt, str) else render(handle.reader.tokenizer, prompt, handle.settings.model).text
    return text + request.continuations[0]
