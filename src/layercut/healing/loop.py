"""Remove one layer, heal briefly, remove the next: ``layercut heal UNCUT --loop N``.

IteRABRe (arXiv:2503.06291): each layer is chosen on the healed model of the round before. The original model is the
teacher in every round, on the same prompts and answers.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator
from rich.console import Console

from layercut.base_settings import Settings
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.generate import answer_prompts
from layercut.healing.guard import guard_tasks
from layercut.healing.heal import FLAGS, Healed, check_method, ended, heal_model
from layercut.healing.job import CHECKPOINT
from layercut.healing.process_group import ProcessGroup
from layercut.healing.prompt_sources import Answering, PromptSource, asked, check_sources
from layercut.healing.recorded import train_as_recorded
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.progress import Say
from layercut.progress.bars import SelectionProgress
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable
from layercut.selection import criterion_row
from layercut.selection.select import select_layers
from layercut.settings import CalibrationSettings, ModelSettings
from layercut.surgery.checkpoint import PLAN_FILE
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan

ROUNDS = "rounds.json"
"""The results of the finished rounds, each added once its healed checkpoint is complete."""


class LoopSettings(Settings):
    """How one layer is removed each round."""

    num_remove: int = Field(ge=1, description="Rounds.")
    criterion: str = Field(
        "block_influence",
        description="Criterion for each layer, on the model of the round before. It must not use task scores.",
    )
    calibration: CalibrationSettings = CalibrationSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if criterion_row(self.criterion).needs_objective:
            raise InputError(
                f"{self.criterion} uses task scores, which a loop does not measure; use block_influence, perplexity or "
                "another that uses text, weights or positions."
            )
        return self


def heal_in_a_loop(
    uncut: ModelSettings,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    loop: LoopSettings,
    *,
    out: Path,
    console: Console,
    say: Say,
) -> Healed:
    """Cut and heal alternately; the last healed model is the checkpoint of ``out``, and its plan.json records all
    rounds.

    Each round has a folder: ``select``, ``cut`` and ``heal``. A cut is deleted once it is healed, and a healed model
    once the next cut exists. The same call again continues where it was stopped.

    Raises:
        InputError: settings that do not fit, a model of too few layers, or several processes.
    """
    group = ProcessGroup.of_this_process()
    if group.size > 1:
        raise InputError(f"a loop runs in one process, and {group.size} were launched; start it without a launcher.")
    if settings.keep_adapter:
        raise InputError("a loop cuts healed weights again, so adapters must be folded in; leave out `keep_adapter`.")
    if settings.train.method == "seam" and settings.train.seam == "magnitude" and loop.num_remove > 1:
        raise InputError(
            "magnitudes are matched to the original model's, so a second round would match them twice; use `seam` "
            "linear, or cut all layers first."
        )
    settings = settings.replace(train=train_as_recorded(settings.train, out, "heal", "train"))
    check_sources(settings.train, source)
    check_method(settings.train, group)
    guard_tasks(settings.train, settings.data, source)
    whole = ModelHandle(uncut)
    if loop.num_remove >= whole.num_layers:
        raise InputError(f"{loop.num_remove} rounds leave no layer of {whole.num_layers}; take fewer.")
    run_settings = {
        "loop": loop.as_dict(),
        "heal": settings.as_dict(),
        "uncut": whole.describe(),
        **asked(source, how),
    }
    with resumable(out), RunFolder.begin(out, run_settings, flags=FLAGS | {"num_remove": "loop"}) as run:
        final = run.path / CHECKPOINT
        if not (final / PLAN_FILE).is_file():
            if source.records is None and settings.asks_teacher:
                seed, answers = settings.train.seed, run.path / "answers"  # generated once for all rounds
                answered = answer_prompts(
                    uncut, source, how, remove=None, out=answers, seed=seed, console=console, say=say
                )
                source = replace(source, records=answered.chosen)
            rounds, current = _finished(run.path), uncut
            for number in range(1, loop.num_remove + 1):
                folder = run.path / f"round-{number}"
                before, current = current, uncut.replace(model=str(folder / "heal" / CHECKPOINT), revision=None)
                if number <= len(rounds):
                    continue
                if not (folder / "cut" / PLAN_FILE).is_file():
                    plan = whole.plan() if before is uncut else CutPlan.load(Path(before.model, PLAN_FILE))
                    say(f"round {number} of {loop.num_remove}: {plan.describe()}")
                    _cut_one(before, plan, settings.train, loop, folder, console, say)
                if before is not uncut:
                    shutil.rmtree(before.model, ignore_errors=True)
                plan = CutPlan.load(folder / "cut" / PLAN_FILE)
                cut = uncut.replace(model=str(folder / "cut"), revision=None)
                healed = heal_model(cut, uncut, source, settings, how, out=folder / "heal", console=console, say=say)
                assert healed is not None, "a loop runs in one process"
                rounds.append({"removed": plan.removed[-1], "held_out_loss": healed.healing.get("held_out_loss", {})})
                write_json(run.path / ROUNDS, rounds)
                shutil.rmtree(folder / "cut")
            Path(current.model).replace(final)
        plan = CutPlan.load(final / PLAN_FILE)
        return ended(run, plan)


def _finished(folder: Path) -> list[dict[str, Any]]:
    file = folder / ROUNDS
    rounds: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.is_file() else []
    return rounds


def _cut_one(
    model: ModelSettings,
    plan: CutPlan,
    train: TrainSettings,
    loop: LoopSettings,
    folder: Path,
    console: Console,
    say: Say,
) -> None:
    """Choose one more layer of a model, which ``plan`` has made, and write the model without that layer."""
    handle = ModelHandle(model)
    with SelectionProgress(console) as progress:
        chosen = select_layers(
            handle,
            criterion=loop.criterion,
            num_remove=1,
            out=folder / "select",
            calibration=loop.calibration,
            protect="0" if train.method == "seam" else None,  # a seam needs a layer below
            seed=train.seed,
            progress=progress,
            say=say,
        ).plan
    layer = plan.kept[chosen.removed[0]]
    importance = {str(plan.kept[int(index)]): value for index, value in chosen.scores.get("importance", {}).items()}
    recorded_plan = replace(
        plan,
        removed=(*plan.removed, layer),
        criterion=loop.criterion,
        settings={**loop.as_dict(), "loop": True, "seed": train.seed},
        scores={"loop": [*plan.scores.get("loop", ()), {"removed": layer, "importance": importance}]},
    )
    cut_model(handle.source, chosen, folder / "cut", uncut=lambda: handle.loaded, recorded_plan=recorded_plan, say=say)
