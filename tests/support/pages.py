"""Run folders of every kind, of one model, for pages that show them together; sweeps made from chosen scores."""

import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, RenderableType

from layercut.evidence.paired import compare_paired
from layercut.evidence.sweep import Sweep, SweepRow
from layercut.runs.atomic import write_json
from layercut.runs.directory import DIAGNOSIS, METRICS, RunFolder
from layercut.runs.prune import PruneResult
from tests.support.run_builder import Result, build_quickstart, build_run

HASH = "5a3c0de1f00d"
MODEL = {"model": "bundled:smollm2-135m", "model_hash": HASH}


# What of GSM8K is kept without each of 30 layers, in %: as read off a figure of arXiv:2602.01997, with its deep holes.
HOLES = (0, 72, 85, 78, 80, 75, 67, 66, 66, 66, 55, 51, 20, 40, 10)
HOLES += (37, 73, 21, 78, 87, 88, 89, 98, 90, 87, 93, 87, 93, 88, 71)


def curve(
    task: str, readout: str, kept: Mapping[int, float] | Sequence[float], *, uncut: float = 0.6,
    chance: float | None = 0.1, n: int = 64,
) -> list[SweepRow]:  # fmt: skip
    """Rows of one task and readout: in % what is kept above chance without each layer."""
    by_layer = dict(kept) if isinstance(kept, Mapping) else dict(enumerate(kept))
    level = chance or 0.0
    hardness = np.random.default_rng([ord(letter) for letter in task]).permutation(np.arange(n) / n + 1e-6)
    before = (hardness < uncut).astype(float)
    rows = []
    asked = {"task": task, "version": 1, "readout": readout, "metric": "accuracy", "chance": chance, "limit": n}
    for layer, percent in by_layer.items():
        after = (hardness < level + (uncut - level) * percent / 100).astype(float)
        rows.append(
            SweepRow(
                **asked,
                seed=0,
                layer=layer,
                values=compare_paired(list(before), list(after), chance=chance, num_resamples=1000),
                outcomes={"right": int(after.sum()), "wrong": int(n - after.sum())},
            )
        )
    return rows


def sweep_of(*curves: Sequence[SweepRow]) -> Sweep:
    """A sweep of a model of 30 layers."""
    return Sweep(
        model="bundled:smollm2-135m",
        model_hash="a" * 64,
        num_layers=30,
        items={rows[0].task: "b" * 64 for rows in curves},
        rows=tuple(row for rows in curves for row in rows),
    )


def write_study(folder: Path) -> Path:
    """Two plans of three layers."""
    build_quickstart(folder)
    return folder


def printed(*blocks: RenderableType, width: int = 200) -> str:
    """What a terminal of this width shows."""
    console = Console(file=StringIO(), width=width, highlight=False)
    for block in blocks:
        console.print(block)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def write_sweep(folder: Path, model_hash: str = HASH) -> Path:
    """Two tasks, one of them ranked and written."""
    mild = [min(100, 60 + percent / 2) for percent in HOLES]
    sweep = sweep_of(
        curve("gsm8k", "chain", HOLES), curve("arithmetic", "rank", mild, chance=0.25),
        curve("arithmetic", "short", HOLES),
    )  # fmt: skip
    with RunFolder.begin(folder, {**MODEL, "model_hash": model_hash}) as run:
        sweep.save(run.path)
        run.write_metrics([])
    return folder


def write_diagnosis(folder: Path, diagnostics: dict[str, Any]) -> Path:
    """The findings that are given, for one pruned model."""
    data = {
        "format_version": 2,
        "model": MODEL["model"],
        "arms": [
            {"name": "uncut", "describe": "uncut, 30 decoder layers", "layers": list(range(30))},
            {"name": "reverse-3", "describe": "removes 3 of 30 decoder layers", "layers": list(range(27))},
        ],
        "limit": 20,
        "seed": 0,
        "diagnostics": {n: {**one, "rows": [row.to_dict() for row in one["rows"]]} for n, one in diagnostics.items()},
    }
    with RunFolder.begin(folder, MODEL) as run:
        (run.path / DIAGNOSIS).write_text(json.dumps(data))
        run.write_metrics([])
    return folder


def about_arm(run: RunFolder, **about: Any) -> RunFolder:
    """Say in a run's metrics what it is in its study."""
    file = run.path / METRICS
    write_json(file, {**json.loads(file.read_text()), "arm": about})
    return run


DEPTHS = (2, 4, 6)
ARMS = ("none", "lora")


def write_deep_study(folder: Path) -> Path:
    """Two criteria, three depths, two healing arms: twelve cut runs of one task under two readouts."""

    def results(share: float) -> list[Result]:
        return [
            Result(task="arithmetic", readout="rank", score=max(0.25, 0.8 * (1 + share) / 2), n=48),
            Result(task="arithmetic", readout="short", score=0.7 * share, chance=0.05, n=48),
        ]

    build_run(folder / "uncut", results(1.0), num_parameters=134_515_008)
    for worse, criterion in enumerate(("block_influence", "reverse")):
        for arm in ARMS:
            for depth in DEPTHS:
                share = 1 - depth * (0.08 + 0.06 * worse) + 0.2 * (arm != "none")
                run = build_run(
                    folder / f"{criterion}-{depth}-{arm}",
                    results(min(1.0, share)),
                    removed=range(30 - depth, 30),
                    criterion=criterion,
                    num_parameters=134_515_008 - depth * 3_540_000,
                )
                about_arm(run, criterion=criterion, healing=None if arm == "none" else arm, seed=0)
    return folder


def write_prune(folder: Path, *, passed: bool = True) -> Path:
    """A finished run of prune: two depths tested on sums, of which the first passed or none did."""
    task = {"task": "arithmetic", "readout": "short"}
    results = {depth: Result(**task, score=score, chance=0.05, n=64) for depth, score in enumerate((0.8, 0.79, 0.5))}
    build_run(folder / "uncut", [results[0]], num_parameters=134_515_008)
    tested, path = [], []
    for depth in (1, 2):
        removed, name = tuple(range(20, 20 + depth)), f"size-{3 * depth}"
        build_run(folder / name, [results[depth]], removed=removed, num_parameters=134_515_008 - depth * 3_540_000)
        share = {"value": 1 - 0.1 * depth, "low": 0.96 - 0.1 * depth, "high": 1.04 - 0.1 * depth, "n": 64}
        kept = {**task, "uncut": {"value": 0.8, "n": 64}, "cut": {"value": 0.8 - 0.1 * depth, "n": 64}, "kept": share}
        path.append({"size": 0.03 * depth, "depth": depth, "removed": removed, "tried": [{"kept": [kept]}]})
        fine = passed and depth == 1
        bound = {"bound": 0.97 - 0.1 * depth, "passed": fine}
        verdict = "passed" if fine else "undecided"
        test = {"name": name, "depth": depth, "removed": removed, "kept": [{**kept, **bound}], "passed": fine}
        test["disk_bytes"] = 538_000_000 - 14_000_000 * depth
        if passed or depth == 1:
            tested.append({**test, "verdict": verdict, "items_needed": None if fine else 240})
    speed = {"value": 40.0, "n": 7}, {"value": 43.2, "n": 7}, {"value": 1.08, "low": 1.05, "high": 1.11, "n": 7}
    timed = dict(zip(("uncut", "cut", "ratio"), speed, strict=True))
    size = {"uncut": {"parameters": 134_515_008, "disk_bytes": 538_000_000}}
    size["cut"] = {"parameters": 130_975_008, "disk_bytes": 524_000_000}
    data: dict[str, Any] = {
        "model": MODEL["model"], "model_hash": HASH, "num_layers": 30, "dtype": "float32", "seed": 0,
        "goal": {
            "use": "math", "keep": 0.85, "smaller": 0.1,
            "tasks": [{**task, "metric": "accuracy", "chance": 0.05, "selection_items": 64, "report_items": 64}],
        },
        "resolution": "with 64 report items, a plan that keeps 95% passes in 4 of 5 runs", "path": path,
        "tested": tested, "verdict": "passed" if passed else "undecided",
        "chosen": {"name": "size-3", "depth": 1, "removed": (20,)},
        "why": "Without 1 layer (20) the model keeps enough." if passed else "No plan passed 85%. Best: 1 layer.",
        "next": None if passed else 240,
        "checkpoint": "model" if passed else None, "verified": "equal" if passed else "", "size": size,
        "speed": [{"name": "decode", "unit": "tokens/s", "better": "higher", "batch_size": 1, **timed}],
        "serve": "batch 1",
        "where": "some CPU", "command": "layercut prune bundled:smollm2-135m --use math --keep 0.85",
        "seconds": {"search": 120.0, "confirm": 60.0},
    }  # fmt: skip
    PruneResult.model_validate(data).save(folder)
    return folder
