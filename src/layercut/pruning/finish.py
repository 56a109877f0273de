"""After the test: write the checkpoint of the plan that passed, and time models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from layercut.engine.timing import Timer
from layercut.errors import InputError
from layercut.models.weights import fingerprint
from layercut.pruning.confirm import Arm
from layercut.pruning.healing import healed_checkpoint
from layercut.pruning.run import PruneRun
from layercut.pruning.speed import other_model, run_of, timed_rounds, timer_of
from layercut.runs.atomic import new_directory
from layercut.runs.directory import RunFolder
from layercut.runs.environment import shown
from layercut.runs.json_text import load
from layercut.runs.prune import MODEL
from layercut.settings import UNCUT
from layercut.surgery.cut import cut_model

WRITTEN = "fingerprint of the checkpoint"  # a note: its weights, when they were verified


def has_checkpoint(store: RunFolder) -> bool:
    """True if the checkpoint is there, as it was verified.

    Raises:
        InputError: its weights are others by now.
    """
    folder = store.path / MODEL
    if not folder.exists():
        return False
    if fingerprint(folder) != store.notes[WRITTEN]:
        raise InputError(
            f"the weights in {shown(folder)} are not those that were verified, so this verdict does not hold for "
            "them. Move that folder elsewhere, and the same command writes it again."
        )
    return True


def write_checkpoint(run: PruneRun, arm: Arm) -> None:
    """Write the checkpoint of a plan, verified by reload, where that was not done before."""
    target = run.folder / MODEL
    if "verified" in run.notes and has_checkpoint(run.store):
        return
    if target.exists():  # stopped before it was known how it was verified
        shutil.rmtree(target)
    run.progress.begin("checkpoint", "writing and reloading")
    if arm.healing:
        healed = healed_checkpoint(run, arm.plan, arm.healing)
        if not healed.exists():
            raise InputError(f"{shown(target)} is gone, and only there were the healed weights; use another `out`.")
        with new_directory(target) as folder:
            shutil.copytree(healed, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        checked = "; ".join(load(target / "plan.json")["healing"][-1].get("checked", []))
    else:
        checked = cut_model(run.model.source, arm.plan, target, uncut=lambda: run.model.loaded).verified
    run.notes.put(WRITTEN, fingerprint(target))
    run.notes.put("verified", checked)
    run.progress.end("checkpoint", note=str(target))


def time_arms(run: PruneRun, arms: Sequence[Arm]) -> None:
    """Note speed and memory of the original model by turns with the plans, and then with each other model.

    A plan is timed on the original's weights: what they hold does not change the time.
    """
    profile = run.profile
    timed: dict[str, Any] = dict(run.notes.get("timed", {}).get(profile.words, {}))

    def time(others: Mapping[str, Timer]) -> None:
        rounds = timed_rounds({UNCUT: timer_of(run.model, profile=profile), **others}, profile, run.seed, run.progress)
        timed.update({name: {UNCUT: rounds[UNCUT], name: rounds[name]} for name in others})
        run.notes.put("timed", {**run.notes.get("timed", {}), profile.words: timed})

    run.progress.begin("speed", "timing plans by turns with the original model")
    if new := [arm for arm in arms if arm.name not in timed]:
        time({arm.name: timer_of(run.model, arm.plan, profile) for arm in new})
    for name in run.settings.versus:
        if run_of(name) not in timed:
            run.progress.begin("speed", f"timing {name} by turns with the original model")
            model = other_model(run.model.settings.replace(batch_size=profile.batch), name)
            time({run_of(name): timer_of(model)})
            model.release()
    run.progress.end("speed", note="timed")
