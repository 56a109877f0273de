"""Any two runs of the same items, paired item by item: two plans of a study, or two evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow, Margin, Verdict, arm_of, compare_runs, left_out
from layercut.evidence.equivalence import answer_changes, judge_by_margin, two_sided_verdict
from layercut.evidence.intervals import plain_estimates
from layercut.evidence.means import overall_means
from layercut.evidence.uses import is_written
from layercut.runs.directory import RunFolder, is_run_folder
from layercut.runs.environment import shown_path
from layercut.runs.logs import open_foreign_log
from layercut.runs.logs.logged import LoggedRun, settings_differences
from layercut.runs.study import UNCUT

_OF_ROW = {
    "task", "version", "readout", "metric", "n", "items", "limit", "chance", "uncut", "cut", "difference", "lost",
    "gained", "p_value", "p_adjusted", "test", "num_clusters", "seed", "note",
}  # fmt: skip
"""What a row of ``compare --json`` has of the row of a study."""


def open_run(path: Path) -> RunFolder:
    """A run with answers of one model, or another tool's log of an evaluation. InputError: neither, or a study."""
    if not is_run_folder(path) and path.exists() and (logged := open_foreign_log(path)) is not None:
        return logged
    if is_run_folder(path / UNCUT):
        raise InputError(
            f"{shown_path(path)} is a whole study; give two of its runs, such as {shown_path(path / UNCUT)}."
        )
    return RunFolder.open(path)


def compare_two(first: RunFolder, second: RunFolder, *, seed: int = 0) -> list[ComparisonRow]:
    """Compare two runs on every task, readout and metric that both hold; ``uncut`` of a row is the first run.

    What only one run holds is passed over, see ``comparison_notes``. Where one run holds a whole test set and the other
    its rest, the items in common are compared.

    Raises:
        InputError: a run that is not finished, or two that cannot be compared.
    """
    if first.path.resolve() == second.path.resolve():
        raise InputError(f"both runs are {shown_path(first.path)}; give two different ones.")
    are_logs = any(isinstance(run, LoggedRun) for run in (first, second))
    decoding = [run.settings.get("decoding") for run in (first, second)]
    if decoding[0] != decoding[1] and not are_logs:
        named = [
            ", ".join(f"{name} {value}" for name, value in how.items()) if isinstance(how, dict) else "nothing recorded"
            for how in decoding
        ]
        raise InputError(
            f"{first.name} was decoded with {named[0]}, {second.name} with {named[1]}; run both with the same decoding."
        )
    rows = compare_runs(first, [second], seed=seed)
    if are_logs:
        return rows
    for task, readout in dict.fromkeys((row.task, row.readout) for row in rows):
        ids = [{record["id"] for record in run.records(task, readout)} for run in (first, second)]
        if ids[0] != ids[1] and _split(first, task, readout) == _split(second, task, readout):
            raise InputError(
                f"{first.name} and {second.name} hold different items of {task} ({readout}): {len(ids[0])} and "
                f"{len(ids[1])}, {len(ids[0] & ids[1])} in common. Run both with the same seed, data and `limit`."
            )
    return rows


def compare_in_full(
    first: RunFolder, second: RunFolder, *, margin: Margin | None = None, seed: int = 0
) -> list[ComparisonRow]:
    """``compare_two``, with what changed in the answers behind each main metric, and a margin's verdicts."""
    rows = []
    for row in compare_two(first, second, seed=seed):
        sides = ({item["id"]: item for item in run.records(row.task, row.readout)} for run in (first, second))
        rows.append(replace(row, changes=answer_changes(row, *sides)) if row.is_headline else row)
    return rows if margin is None else judge_by_margin(rows, margin)


def comparison_notes(first: RunFolder, second: RunFolder) -> list[str]:
    """Remarks on tasks that one run lacks, and on special models or choices of layers, a line each."""
    if isinstance(first, LoggedRun) and isinstance(second, LoggedRun):
        return [*settings_differences(first, second), *left_out(first, [second])]
    if isinstance(first, LoggedRun) or isinstance(second, LoggedRun):
        return [*left_out(first, [second]), "a log of another tool and a run of layercut: prompts were not compared"]
    origins = [f"{run.name}: {origin}" for run in (first, second) if (origin := arm_of(run).origin)]
    names = [_uncut_model(run) for run in (first, second)]
    if names[0] != names[1]:
        origins.append(
            f"{first.name} is of the original model {names[0]}, {second.name} of {names[1]}: two models are compared "
            "on the same items, and no plan is known that leads from one to the other."
        )
    return [*left_out(first, [second]), *origins, *_equal_answers(first, second)]


def _equal_answers(first: RunFolder, second: RunFolder) -> list[str]:
    """How many written answers are the same texts, where a model lost tokens: those of covered items have to be."""
    plans = [run.metrics().get("plan") or {} for run in (first, second)]
    if not any(step.get("tokens") for plan in plans for step in plan.get("earlier", ())):
        return []
    cells, others = (
        dict.fromkeys((row["task"], row["readout"]) for row in run.metrics()["rows"]) for run in (first, second)
    )
    counts = []
    for task, readout in cells:
        if is_written(readout) and (task, readout) in others:
            texts, later = (
                {record["id"]: record["completion"] for record in run.records(task, readout)} for run in (first, second)
            )
            same = [texts[item] == text for item, text in later.items() if item in texts]
            counts.append(f"{task} ({readout}) {sum(same)} of {len(same)}")
    return [f"answers that are equal to the letter: {'; '.join(counts)}"] if counts else []


def verdict_on_row(row: ComparisonRow) -> Verdict:
    """Judge the second run against the first: by the margin, where there is one."""
    return two_sided_verdict(row) if row.by_margin is None else row.by_margin.verdict


def to_dict(rows: Sequence[ComparisonRow], notes: Sequence[str] = ()) -> dict[str, Any]:
    """JSON-able."""
    renamed = {"uncut": "first", "cut": "second"}
    data: dict[str, Any] = {}
    for name, run in (("first", rows[0].uncut), ("second", rows[0].cut)):
        data[name] = {"run": run.name, "removed": list(run.removed), **({"mlp": run.mlp} if run.mlp else {})}
    data["rows"] = [
        {renamed.get(name, name): value for name, value in row.to_dict().items() if name in _OF_ROW} | _extras(row)
        for row in rows
    ]
    if means := overall_means(rows):
        data["means"] = {
            kind: {renamed.get(name, name): value for name, value in plain_estimates(mean._asdict()).items()}
            for kind, mean in means.items()
        }
    return {**data, "notes": list(notes)}


def _extras(row: ComparisonRow) -> dict[str, Any]:
    """What only ``compare`` knows of a row."""
    extras = {
        "group": list(row.group),
        "changes": row.changes and plain_estimates(row.changes._asdict()),
        "by_margin": row.by_margin and row.by_margin._asdict() | {"margin": row.by_margin.margin._asdict()},
    }
    return {"verdict": verdict_on_row(row), **{name: value for name, value in extras.items() if value}}


def _split(run: RunFolder, task: str, readout: str) -> str:
    """Split of a run's items; ``report`` for a task without a test set."""
    rows = run.metrics()["rows"]
    return next((row.get("split", "report") for row in rows if (row["task"], row["readout"]) == (task, readout)), "")


def _uncut_model(run: RunFolder) -> str:
    """Fingerprint of the model that a run's model was cut from."""
    plan = run.metrics().get("plan") or {}
    oldest = next(iter(plan.get("earlier", ())), plan)
    return str(oldest.get("model_hash") or run.settings.get("model"))
