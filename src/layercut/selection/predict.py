"""Predict which layers can be removed without loss in generation, without generating with a pruned model.

    layercut sweep bundled:smollm2-135m --predict --objective arithmetic,copy --out runs/sweep

The folder may hold a sweep or a search on the same objective: its answers of the original model are reused, and a
sweep in it is compared with the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.base import Decoding, LikelihoodRequest
from layercut.engine.handle import ModelHandle
from layercut.evidence.sweep import Sweep, is_sweep
from layercut.progress.bars import SelectionProgress
from layercut.report.prediction import FORMAT_VERSION, PREDICTION, prediction_report
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder
from layercut.runs.settings import settings_hash
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.block_influence import block_influence
from layercut.selection.calibration import Calibration
from layercut.selection.objective import TaskObjective
from layercut.selection.prediction import predict
from layercut.selection.search_journal import SearchJournal
from layercut.selection.sweep import ask, sweep_settings
from layercut.selection.trace_damage import correct_traces
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.tasks.cells import announce_isolation
from layercut.tasks.run import slug
from layercut.tasks.shortfall import tell_shortfalls


class Predicted(NamedTuple):
    """Where the results are, and what predict.json holds."""

    report: Path
    data: dict[str, Any]


def predict_layers(
    model: ModelSettings,
    *,
    objective: Sequence[TaskSettings],
    out: Path | None,
    seed: int,
    decoding: DecodingSettings,
    dry_run: bool,
    progress: SelectionProgress,
    say: Callable[[str], None],
) -> Predicted | None:
    """Predict the order of the layers; ``layercut sweep --predict``. A dry run says what would be done.

    Args:
        model: which model.
        objective: tasks whose selection items the original model answers; those with a readout that writes give traces.
        out: the run folder; ``runs/<model>-sweep``, as for a sweep, if left out.
        seed: random seed.
        decoding: how the original model's answers are drawn.
        dry_run: only say what would be done, and give None back.
        progress: where progress is shown.
        say: called with each line for people.

    Raises:
        InputError: a task that cannot be used, none that is written, no right answer, or a folder that holds another
            run.
    """
    handle = ModelHandle(model)
    parts = [one.part for one in ask(objective, seed, "selection")]
    folder = out or Path("runs", slug(f"{model.model}-sweep"))
    say(f"{model.model}: {handle.num_layers} layers, each skipped alone on the original model's own right answers")
    isolation = announce_isolation((part.task for part in parts), say)
    tell_shortfalls(parts, "selection", say)
    if dry_run:
        say(f"would ask {', '.join(part.label for part in parts)} of the original model and write to {folder}")
        return None
    draw = Decoding(**asdict(decoding), seed=seed)
    settings = sweep_settings(handle.describe(), parts, draw, "selection")
    flags = {"limit": "--limit", "objective": "--objective"}
    with RunFolder.begin(folder, settings, flags=flags, sandbox=isolation) as run:
        found = measure(handle, parts, draw, run, progress)
        sweep = Sweep.load(run.path) if is_sweep(run.path) else None
        data = {
            "format_version": FORMAT_VERSION,
            "model": model.model,
            "num_layers": handle.num_layers,
            "seed": seed,
            **found,
            "sweep": None if sweep is None else [_curve(curve) for curve in sweep.curves if not curve.refused],
        }
        write_json(run.path / PREDICTION, data)
        report = prediction_report(run.path)
        if not run.is_finished:
            run.write_metrics([])
        return Predicted(report, data)


def measure(
    handle: ModelHandle,
    parts: Sequence[ObjectiveTask],
    decoding: Decoding,
    run: RunFolder,
    progress: SelectionProgress,
) -> dict[str, Any]:
    """The forward passes; what the folder knows is not run again."""
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


def _whole_text(handle: ModelHandle, request: LikelihoodRequest) -> str:
    """Prompt and answer as the model reads them."""
    from layercut.engine.prompts import render

    prompt = request.prompt
    text = prompt if isinstance(prompt, str) else render(handle.reader.tokenizer, prompt, handle.settings.model).text
    return text + request.continuations[0]


def _curve(curve: Any) -> dict[str, Any]:
    return {"name": curve.label, "scores": {str(row.layer): row.values.cut.value for row in curve.rows}}
