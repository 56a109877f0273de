"""result.json of a run of prune, put together from what its stages found."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layercut.evidence.clusters import cluster_codes
from layercut.evidence.comparison import ComparisonRow, compare_runs
from layercut.evidence.paired import ratio_interval
from layercut.evidence.resampling import METHOD, resampled_sums
from layercut.models.weights import safetensors_files
from layercut.pruning.confirm import LEVEL, Arm, FixedSequence, original_scores, removal_of
from layercut.pruning.run import PruneRun
from layercut.pruning.search import load_steps
from layercut.pruning.speed import request_time, speeds
from layercut.pruning.verdict import answer_of, beside, fastest, next_step
from layercut.runs.directory import RunFolder
from layercut.runs.environment import command_line, machine
from layercut.runs.prune import (
    MODEL,
    BothEstimated,
    Chosen,
    Goal,
    GoalTask,
    PruneResult,
    Served,
    SetAside,
    SideEffect,
    Size,
    TaskCost,
    measured,
)
from layercut.settings import UNCUT
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.gguf import gguf_bytes, gguf_file
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.pruning.speed import RequestTime


def task_costs(
    uncut: RunFolder, other: RunFolder, times: tuple[RequestTime, RequestTime], seed: int
) -> tuple[TaskCost, ...]:
    """Costs of each task whose answers were written; ``times`` of the original model and of the other one.

    Both models' items are resampled together; the times of a token are taken as exact.
    """
    rows = [row for row in compare_runs(uncut, [other], seed=seed) if row.is_headline]
    return tuple(cost for row in rows if (cost := _cost(row, (uncut, other), times, seed)) is not None)


def _cost(
    row: ComparisonRow, runs: tuple[RunFolder, RunFolder], times: tuple[RequestTime, RequestTime], seed: int
) -> TaskCost | None:
    assert row.items is not None, "rows of compare_runs carry their items"
    records = [{one["id"]: one for one in run.records(row.task, row.readout)} for run in runs]
    if any("num_new_tokens" not in side[item] for side in records for item in row.items.ids):
        return None  # options were ranked
    tokens = [[side[item]["num_new_tokens"] for item in row.items.ids] for side in records]
    seconds = [
        [time(side[item].get("num_prompt_tokens", 0), side[item]["num_new_tokens"]) for item in row.items.ids]
        for side, time in zip(records, times, strict=True)
    ]
    ones = [1.0] * row.n
    columns = np.array([ones, *tokens, *seconds, row.items.uncut, row.items.cut], dtype=np.float64)
    sums, whole = resampled_sums(columns, cluster_codes(row.items.clusters, row.n), seed), columns.sum(axis=1)

    def both(above: tuple[int, int], below: tuple[int, int]) -> BothEstimated | None:
        """Ratios of sums, by their columns, for both models; and the second by the first."""
        if not all(whole[one] > 0 for one in (*above, *below)):
            return None
        values, draws = whole[list(above)] / whole[list(below)], None
        if sums is not None:
            draws = sums[:, above], sums[:, below]
        found = [
            None if draws is None else ratio_interval(values[k], draws[0][:, k], draws[1][:, k], row.n, METHOD)
            for k in (0, 1)
        ]
        ratio = None
        if draws is not None:
            over = draws[0][:, 1] * draws[1][:, 0], draws[1][:, 1] * draws[0][:, 0]
            ratio = ratio_interval(values[1] / values[0], *over, row.n, METHOD)
        parts = [
            {"value": float(value), "n": row.n} if one is None else measured(one).model_dump()
            for value, one in zip((*values, values[1] / values[0]), (*found, ratio), strict=True)
        ]
        return BothEstimated.model_validate(dict(zip(("uncut", "this", "ratio"), parts, strict=True)))

    tokens_each, seconds_each, solved = both((1, 2), (0, 0)), both((3, 4), (0, 0)), both((3, 4), (5, 6))
    if tokens_each is None or seconds_each is None:
        return None
    return TaskCost(task=row.task, readout=row.readout, tokens=tokens_each, seconds=seconds_each, per_solved=solved)


def outcome_of(
    run: PruneRun, arms: Sequence[Arm], evidence: FixedSequence, arm: Arm, side_effects: tuple[SideEffect, ...]
) -> PruneResult:
    """All results of the run, from what its stages left in the notes and the folder.

    Args:
        arms: the tested models.
        arm: the one that is recommended, or the best one.
    """
    notes, settings, folder, model = run.notes, run.settings, run.folder, run.model
    checkpoint = MODEL if (folder / MODEL).exists() else None
    ignored = [SetAside.model_validate(one) for one in notes["ignored"]]
    ignored += [SetAside(task=task, readout=readout, reason=why) for task, readout, why in evidence.not_judged]
    chosen = Chosen(name=arm.name, healing=arm.healing, **removal_of(arm.plan))
    verdict, why = answer_of(evidence.tested, chosen, settings.keep, notes["path_ended"], run.parts)
    profile = run.profile
    timed = notes["timed"][profile.words]
    served = _served(run, evidence, arm)
    source = model.source.path
    disk_bytes = {tested.name: plan_cut(source, tested.plan).bytes_after for tested in arms}
    cut_bytes = _bytes_of(folder / MODEL) if checkpoint else disk_bytes[arm.name]
    labels = {one.name: one.label for one in evidence.tested if one.passed}
    labels |= {one.run: one.model for one in evidence.others if one.passed}
    passed = [(labels[one.run], one) for one in served if one.run in labels]
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
                    metric=one.metric,
                    data=next((task.data for task in run.goal.tasks if task.task == part.task.name), None),
                    chance=one.chance,
                    selection_items=one.estimate.n,
                    report_items=notes["report_items"][part.label],
                )
                for part, one in zip(run.path.parts, run.path.objective.uncut, strict=True)
            ),
            keep=settings.keep,
            level=LEVEL,
            max_depth=run.num_plans,
            smaller=run.sizes[-1] if run.sizes else None,
            unit=settings.unit,
            faster=settings.faster,
        ),
        ignored=tuple(ignored),
        original=original_scores(folder),
        resolution=notes.get("resolution", ""),
        path=tuple(load_steps(run)),
        path_ended=notes["path_ended"],
        tested=tuple(one.model_copy(update={"disk_bytes": disk_bytes[one.name]}) for one in evidence.tested),
        versus=evidence.others,
        error=(1 - LEVEL) * (1 if {one.model for one in evidence.others} <= {*notes["shared"]} else 2),
        verdict=verdict,
        chosen=chosen,
        why=beside(why, evidence.others, cut_bytes, is_passed=verdict == "passed"),
        fastest=fastest(passed, settings.faster) if evidence.others or settings.faster else "",
        next=next_step(run, evidence.tested),
        checkpoint=checkpoint,
        verified=str(notes.get("verified", "")),
        general=notes["general"],
        side_effects=side_effects,
        serve=profile.words,
        serve_tokens=profile.batch * profile.tokens,
        speed=next(one.speed for one in served if one.run == arm.name),
        served=served,
        size={
            "uncut": _size(run, timed[arm.name][UNCUT], model.plan(), _bytes_of(source)),
            "cut": _size(run, timed[arm.name][arm.name], arm.plan, cut_bytes),
        },
        where=machine(),
        seed=run.seed,
        command=command_line(sys.argv),
        seconds=notes.seconds,
    )


def _served(run: PruneRun, evidence: FixedSequence, arm: Arm) -> tuple[Served, ...]:
    """Every model that was timed: what its requests take, by the answers that it gave."""
    profile, timed = run.profile, run.notes["timed"][run.profile.words]
    names = [*(depth.name for depth in evidence.tested), arm.name, *(other.run for other in evidence.others)]
    uncut, served = RunFolder.open(run.folder / UNCUT), []
    for name in dict.fromkeys(names):
        if name not in timed:
            continue
        own, folder = timed[name], run.folder / name
        times = (request_time(own[UNCUT], profile), request_time(own[name], profile))
        served.append(
            Served(
                run=name,
                speed=speeds(own, name, profile),
                memory_bytes=own[name]["memory_bytes"],
                cache_bytes_per_token=own[name]["cache_bytes_per_token"],
                costs=task_costs(uncut, RunFolder.open(folder), times, run.seed) if folder.exists() else (),
            )
        )
    return tuple(served)


def _size(run: PruneRun, timed: Mapping[str, Any], plan: CutPlan, disk_bytes: int) -> Size:
    file = gguf_file(run.model.settings.model)
    return Size(
        parameters=run.model.num_parameters(plan),
        disk_bytes=disk_bytes,
        gguf_bytes=None if file is None else gguf_bytes(file, plan, tie=run.model.settings.tie),
        memory_bytes=timed["memory_bytes"],
        cache_bytes_per_token=timed["cache_bytes_per_token"],
    )


def _bytes_of(folder: Path) -> int:
    """Bytes of the weight files."""
    return sum(file.stat().st_size for file in set(safetensors_files(folder).values()))
