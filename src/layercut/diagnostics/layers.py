"""Diagnose what each layer is needed for: every layer is skipped alone and compared with the original model.

    layercut sweep bundled:smollm2-135m --diagnose --limit 16 --out runs/layers

Answers go to journals of the run folder at once, one for each layer: a killed run resumes where it stopped, and a
later command may add layers or diagnostics.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from layercut.diagnostics import LAYER_FORMS, known
from layercut.diagnostics.diagnose import Diagnosed, DiagnoseSettings, run_diagnostics, uncut_arm
from layercut.diagnostics.session import SessionModel
from layercut.engine.handle import ModelHandle
from layercut.progress import Say
from layercut.report.diagnosis.layers import LAYERS_FILE, arm_name, layers_report
from layercut.selection.sweep import swept_layers
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan, format_layers
from layercut.tasks.run import slug

LIMIT = 16
"""Items of each kind of question, if nothing is said: all of them are asked once for every layer."""


def diagnose_layers(
    model: ModelSettings,
    *,
    layers: str | None = None,
    only: Sequence[str] = (),
    limit: int = LIMIT,
    arithmetic_data: Path | None = None,
    out: Path | None,
    seed: int,
    dry_run: bool,
    console: Console,
    say: Say,
) -> Diagnosed | None:
    """Diagnose the model without each layer; ``layercut sweep --diagnose``. A dry run prints the plan, returns None.

    Args:
        layers: which layers are skipped, as people write them; all of them if left out.
        only: names among ``LAYER_FORMS``; all of them if empty.
        limit, arithmetic_data, seed: see ``DiagnoseSettings``.
        out: the run folder; ``runs/<model>-layers`` if left out.

    Raises:
        InputError: a layer or diagnostic that is not known, or a run folder that holds another run.
    """
    names = known(only, LAYER_FORMS)
    handle = ModelHandle(model)
    wanted = swept_layers(layers, handle.num_layers, model.model)
    say(f"{model.model}: layers {format_layers(wanted)} of {handle.num_layers}, each skipped alone, and uncut")
    return run_diagnostics(
        out or Path("runs", slug(f"{model.model}-layers")),
        [uncut_arm(handle), *(_without(handle, layer) for layer in wanted)],
        names,
        DiagnoseSettings(limit=limit, num_samples=1, arithmetic_data=arithmetic_data, seed=seed),
        # The layers and diagnostics are no part of the settings: a second command may add some.
        settings={**handle.describe(), "limit": limit, "seed": seed, "per_layer": True},
        head={"model": model.model, "num_layers": handle.num_layers},
        report=layers_report,
        dry_run=dry_run,
        console=console,
        say=say,
        forms=LAYER_FORMS,
        file=LAYERS_FILE,
    )


def _without(handle: ModelHandle, layer: int) -> SessionModel:
    plan = CutPlan(num_layers=handle.num_layers, removed=(layer,))
    return SessionModel(
        name=arm_name(layer),
        source="uncut",
        plan=plan,
        layers=plan.kept,
        engine=lambda: handle.engine,
        model=lambda: handle.loaded,
    )
