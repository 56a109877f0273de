"""Diagnose what each layer is needed for: every layer is skipped alone and compared with the original model.

    layercut sweep bundled:smollm2-135m --diagnose --limit 16 --out runs/layers

Answers go to journals of the run folder at once, one for each layer: a killed run resumes where it stopped, and a
later command may add layers or diagnostics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from layercut.diagnostics import LAYER_FORMS, known
from layercut.diagnostics.diagnose import Diagnosed, announce_isolation, arithmetic_settings, run_diagnostics, uncut_arm
from layercut.diagnostics.session import SessionModel
from layercut.engine.handle import ModelHandle
from layercut.report.diagnosis.layers import LAYERS_FILE, arm_name, layers_report
from layercut.report.diagnosis.verdict import FORMAT_VERSION, load
from layercut.runs.directory import RunFolder
from layercut.selection.sweep import swept_layers
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan, format_layers
from layercut.tasks.run import slug
from layercut.text.counting import counted

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
    say: Callable[[str], None],
) -> Diagnosed | None:
    """Diagnose the model without each layer; ``layercut sweep --diagnose``. A dry run says what would be done.

    Args:
        model: which model.
        layers: which layers are skipped, as people write them; all of them if left out.
        only: names among ``LAYER_FORMS``; all of them if empty.
        limit: items of each kind of question.
        arithmetic_data: the arithmetic files of GPT-3, or one of them, in place of generated expressions.
        out: the run folder; ``runs/<model>-layers`` if left out.
        seed: random seed.
        dry_run: only say what would be done, and give None back.
        console: where the progress bar goes.
        say: called with each line for people.

    Raises:
        InputError: a layer or diagnostic that is not known, or a run folder that holds another run.
    """
    names = known(only, LAYER_FORMS)
    handle = ModelHandle(model)
    wanted = swept_layers(layers, handle.num_layers, model.model)
    folder = out or Path("runs", slug(f"{model.model}-layers"))
    say(f"{model.model}: layers {format_layers(wanted)} of {handle.num_layers}, each skipped alone, and uncut")
    if dry_run:
        for name in names:
            say(f"{name}: {LAYER_FORMS[name].summary}")
        say(f"would ask at most {counted(limit, 'item')} of each kind and write to {folder}")
        return None
    arms = [uncut_arm(handle), *(_without(handle, layer) for layer in wanted)]
    isolation = announce_isolation(names, say)
    # The layers and diagnostics are no part of the settings: a second command may add some.
    settings = {**handle.describe(), "limit": limit, "seed": seed, "per_layer": True}
    settings |= arithmetic_settings(arithmetic_data)
    with RunFolder.begin(folder, settings, flags={"limit": "--limit"}, sandbox=isolation) as run:
        data = {
            "format_version": FORMAT_VERSION,
            "model": model.model,
            "num_layers": handle.num_layers,
            "arms": [{"name": arm.name, "describe": arm.plan.describe(), "layers": list(arm.layers)} for arm in arms],
            "limit": limit,
            "seed": seed,
            "diagnostics": _earlier(run.path, arms),
        }
        run_diagnostics(
            run, arms, names, data, limit=limit, num_samples=1, seed=seed, console=console, say=say,
            arithmetic_data=arithmetic_data, forms=LAYER_FORMS, file=LAYERS_FILE,
        )  # fmt: skip
        report = layers_report(run.path)
        if not run.is_finished:
            run.write_metrics([])
        return Diagnosed(report, data)


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


def _earlier(folder: Path, arms: Sequence[SessionModel]) -> dict[str, object]:
    """What an earlier command found for the very same layers; for others it is made again, from the journals."""
    if not (folder / LAYERS_FILE).is_file():
        return {}
    held = load(folder, LAYERS_FILE)
    same = [arm["name"] for arm in held["arms"]] == [arm.name for arm in arms]
    found: dict[str, object] = held["diagnostics"] if same else {}
    return found
