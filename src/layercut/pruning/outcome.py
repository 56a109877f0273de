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
from layercut.pruning.confirm import LEVEL, Arm, FixedSequence, gone_of, original_scores
from layercut.pruning.context import PruneContext
from layercut.pruning.original import OriginalModel
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
    PathStep,
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
    context: PruneContext,
    original: OriginalModel,
    steps: Sequence[PathStep],
    found: FixedSequence,
    arm: Arm,
    sizes: Mapping[str, int],
    side_effects: tuple[SideEffect, ...],
) -> PruneResult:
    """All that the run found, from what its stages left in the state and the folder.

    Args:
        arm: the model that is recommended, or the best one.
        sizes: bytes of the weights of every tested plan, by its name.
    """
    state, settings, folder, model = context.state, context.settings, context.folder, context.model
    checkpoint = MODEL if (folder / MODEL).exists() else None
    ignored = [SetAside.model_validate(one) for one in state["ignored"]]
    ignored += [SetAside(task=task, readout=readout, reason=why) for task, readout, why in found.not_judged]
    chosen = Chosen(name=arm.name, healing=arm.healing, **gone_of(arm.plan))
    verdict, why = answer_of(found.tested, chosen, settings.keep, state["path_ended"], original.parts)
    profile = context.profile
    timed = state["timed"][profile.words]
    served = _served(context, found, arm)
    source = model.source.path
    cut_bytes = _bytes_of(folder / MODEL) if checkpoint else plan_cut(source, arm.plan).bytes_after
    labels = {one.name: one.label for one in found.tested if one.passed}
    labels |= {one.run: one.model for one in found.others if one.passed}
    passed = [(labels[one.run], one) for one in served if one.run in labels]
    return PruneResult(
        model=model.settings.model,
        model_hash=model.metadata.model_hash,
        num_layers=model.num_layers,
        dtype=model.dtype,
        goal=Goal(
            use=settings.use,
            note=context.goal.note,
            tasks=tuple(
                GoalTask(
                    task=part.task.name,
                    readout=part.readout,
                    metric=one.metric,
                    data=next((task.data for task in context.goal.tasks if task.task == part.task.name), None),
                    chance=one.chance,
                    selection_items=one.estimate.n,
                    report_items=state["report_items"][part.label],
                )
                for part, one in zip(original.path.parts, original.path.objective.uncut, strict=True)
            ),
            keep=settings.keep,
            level=LEVEL,
            max_depth=context.max_depth,
            smaller=context.sizes[-1] if context.sizes else None,
            unit=context.unit,
            faster=settings.faster,
        ),
        ignored=tuple(ignored),
        original=original_scores(folder),
        resolution=state.get("resolution", ""),
        path=tuple(steps),
        path_ended=state["path_ended"],
        tested=tuple(one.model_copy(update={"disk_bytes": sizes[one.name]}) for one in found.tested),
        versus=found.others,
        error=(1 - LEVEL) * (1 if {one.model for one in found.others} <= {*state["shared"]} else 2),
        verdict=verdict,
        chosen=chosen,
        why=beside(why, found.others, cut_bytes, is_passed=verdict == "passed"),
        fastest=fastest(passed, settings.faster) if found.others or settings.faster else "",
        next=next_step(
            found.tested, original.parts, settings, context.goal.tasks, model.settings, folder, context.seed
        ),
        checkpoint=checkpoint,
        verified=str(state.get("verified", "")),
        general=state["general"],
        side_effects=side_effects,
        serve=profile.words,
        serve_tokens=profile.batch * profile.tokens,
        speed=next(one.speed for one in served if one.run == arm.name),
        served=served,
        size={
            "uncut": _size(context, timed[arm.name][UNCUT], model.plan(), _bytes_of(source)),
            "cut": _size(context, timed[arm.name][arm.name], arm.plan, cut_bytes),
        },
        where=machine(),
        seed=context.seed,
        command=command_line(sys.argv),
        seconds=state.seconds,
    )


def _served(context: PruneContext, found: FixedSequence, arm: Arm) -> tuple[Served, ...]:
    """Every model that was timed: what its requests take, by the answers that it gave."""
    profile, timed = context.profile, context.state["timed"][context.profile.words]
    named = [*(one.name for one in found.tested), arm.name, *(one.run for one in found.others)]
    runs = [run for run in dict.fromkeys(named) if run in timed]
    uncut, served = RunFolder.open(context.folder / UNCUT), []
    for run in runs:
        own = timed[run]
        times = (request_time(own[UNCUT], profile), request_time(own[run], profile))
        answered = context.folder / run
        served.append(
            Served(
                run=run,
                speed=speeds(own, run, profile),
                memory_bytes=own[run]["memory_bytes"],
                cache_bytes_per_token=own[run]["cache_bytes_per_token"],
                costs=task_costs(uncut, RunFolder.open(answered), times, context.seed) if answered.exists() else (),
            )
        )
    return tuple(served)


def _size(context: PruneContext, timed: Mapping[str, Any], plan: CutPlan, disk_bytes: int) -> Size:
    file = gguf_file(context.model.settings.model)
    return Size(
        parameters=context.model.num_parameters(plan),
        disk_bytes=disk_bytes,
        gguf_bytes=None if file is None else gguf_bytes(file, plan, tie=context.model.settings.tie),
        memory_bytes=timed["memory_bytes"],
        cache_bytes_per_token=timed["cache_bytes_per_token"],
    )


def _bytes_of(folder: Path) -> int:
    """Bytes of the weight files."""
    return sum(file.stat().st_size for file in set(safetensors_files(folder).values()))
