"""Cost of answers: tokens and seconds of a request, and of a request that was solved.

A model that rambles writes fast and answers late. Tokens are those of the real answers to report items; seconds follow
from them and the times that one token takes in the serving profile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layercut.evidence.clusters import cluster_codes
from layercut.evidence.comparison import ComparisonRow, compare_runs
from layercut.evidence.paired import ratio_interval
from layercut.evidence.resampling import METHOD, resampled_sums
from layercut.pruning.path import measured
from layercut.runs.directory import RunFolder
from layercut.runs.prune import BothEstimated, TaskCost

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
