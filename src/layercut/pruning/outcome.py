"""After the test: write the checkpoint, time models, and put result.json together."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layercut.engine.timing import Timer
from layercut.errors import InputError
from layercut.models.weights import fingerprint_weights, safetensors_files
from layercut.pruning.confirm import LEVEL, Arm, FixedSequence
from layercut.pruning.healing import healed_checkpoint
from layercut.pruning.run import PruneRun, removal_of
from layercut.pruning.search import load_steps
from layercut.pruning.speed import other_model, run_of, timed_rounds, timed_speeds, timer_of
from layercut.pruning.verdict import answer_of, answer_with_others, describe_fastest, items_to_decide
from layercut.runs.atomic import new_directory
from layercut.runs.directory import RunFolder
from layercut.runs.environment import command_line, describe_machine, shown_path
from layercut.runs.json_text import load_json
from layercut.runs.prune import (
    MODEL,
    Chosen,
    Goal,
    GoalTask,
    PruneResult,
    Served,
    SetAside,
    SideEffect,
    Size,
)
from layercut.settings import UNCUT
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.cut import cut_model
from layercut.surgery.gguf import gguf_bytes, gguf_file
from layercut.surgery.plan import CutPlan

WRITTEN = "fingerprint of the checkpoint"  # a note: its weights, when they were verified


def has_checkpoint(store: RunFolder) -> bool:
    """True if the checkpoint is there, as it was verified.

    Raises:
        InputError: its weights are others by now.
    """
    folder = store.path / MODEL
    if not folder.exists():
        return False
    if fingerprint_weights(folder) != store.notes[WRITTEN]:
        raise InputError(
            f"the weights in {shown_path(folder)} are not those that were verified, so this verdict does not hold for "
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
        healed = healed_checkpoint(run, arm.plan)
        if not healed.exists():
            raise InputError(
                f"{shown_path(target)} is gone, and only there were the healed weights; use another `out`."
            )
        with new_directory(target) as folder:
            shutil.copytree(healed, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        checked = "; ".join(load_json(target / "plan.json")["healing"][-1].get("checked", []))
    else:
        checked = cut_model(run.model.source, arm.plan, target, uncut=lambda: run.model.loaded).verified
    run.notes.put(WRITTEN, fingerprint_weights(target))
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


def outcome_of(run: PruneRun, evidence: FixedSequence, arm: Arm, side_effects: tuple[SideEffect, ...]) -> PruneResult:
    """All results of the run, from what its stages left in the notes and the folder; ``arm`` is the recommended model,
    or the best one.
    """
    notes, settings, folder, model, profile = run.notes, run.settings, run.folder, run.model, run.profile
    has_model, source = (folder / MODEL).exists(), model.source.path
    ignored = [SetAside.model_validate(task) for task in notes["ignored"]]
    chosen = Chosen(name=arm.name, healing=arm.healing, **removal_of(arm.plan))
    verdict, why = answer_of(evidence.tested, chosen, settings.keep, notes["path_ended"], run.parts)
    cut_bytes = _bytes_of(folder / MODEL) if has_model else plan_cut(source, arm.plan).bytes_after
    served = _served_models(run, evidence, arm)
    labels = {plan.name: plan.label for plan in evidence.tested if plan.passed}
    labels |= {other.run: other.model for other in evidence.others if other.passed}
    passed = [(labels[timed.run], timed) for timed in served if timed.run in labels]
    data = {task.task: task.data for task in run.goal.tasks}

    def size(name: str, plan: CutPlan, stored: int) -> Size:
        timed, file = notes["timed"][profile.words][arm.name][name], gguf_file(model.settings.model)
        return Size(
            parameters=model.num_parameters(plan),
            disk_bytes=stored,
            gguf_bytes=None if file is None else gguf_bytes(file, plan),
            memory_bytes=timed["memory_bytes"],
        )

    return PruneResult(
        model=model.settings.model,
        model_hash=model.metadata.model_hash,
        num_layers=model.num_layers,
        dtype=model.dtype,
        goal=Goal(
            use=settings.use,
            note=run.goal.note,
            tasks=tuple(
                GoalTask(
                    task=part.task.name,
                    readout=part.readout,
                    metric=uncut.metric,
                    data=data.get(part.task.name),
                    chance=uncut.chance,
                    selection_items=uncut.estimate.n,
                    report_items=notes["report_items"][part.label],
                )
                for part, uncut in zip(run.path.parts, run.path.objective.uncut, strict=True)
            ),
            keep=settings.keep,
            level=LEVEL,
            smaller=run.sizes.most_bytes(settings),
            faster=settings.faster,
        ),
        ignored=(*ignored, *evidence.not_judged),
        resolution=notes.get("resolution", ""),
        path=tuple(load_steps(run)),
        path_ended=notes["path_ended"],
        tested=evidence.tested,
        versus=evidence.others,
        error=(1 - LEVEL) * (1 if {other.model for other in evidence.others} <= {*notes["shared"]} else 2),
        verdict=verdict,
        chosen=chosen,
        why=answer_with_others(why, evidence.others, cut_bytes, is_passed=verdict == "passed"),
        fastest=describe_fastest(passed, settings.faster) if evidence.others or settings.faster else "",
        next=items_to_decide(run, evidence.tested),
        checkpoint=MODEL if has_model else None,
        verified=str(notes.get("verified", "")),
        general=run.asks_general,
        side_effects=side_effects,
        serve=profile.words,
        serve_tokens=profile.batch * profile.tokens,
        speed=next(timed.speed for timed in served if timed.run == arm.name),
        served=served,
        size={"uncut": size(UNCUT, model.plan(), _bytes_of(source)), "cut": size(arm.name, arm.plan, cut_bytes)},
        where=describe_machine(),
        seed=run.seed,
        command=command_line(sys.argv),
        seconds=notes.seconds,
    )


def _served_models(run: PruneRun, evidence: FixedSequence, arm: Arm) -> tuple[Served, ...]:
    """Every model that was timed."""
    timed = run.notes["timed"][run.profile.words]
    names = [*(plan.name for plan in evidence.tested), arm.name, *(other.run for other in evidence.others)]
    return tuple(
        Served(
            run=name,
            speed=timed_speeds(timed[name], name, run.profile),
            memory_bytes=timed[name][name]["memory_bytes"],
            cache_bytes_per_token=timed[name][name]["cache_bytes_per_token"],
        )
        for name in dict.fromkeys(names)
        if name in timed
    )


def _bytes_of(folder: Path) -> int:
    """Bytes of the weight files."""
    return sum(file.stat().st_size for file in set(safetensors_files(folder).values()))
