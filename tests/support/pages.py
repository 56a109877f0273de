"""Run folders of every kind, of one model, for pages that show them together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layercut.evidence.sweep import Ranking
from layercut.report.diagnosis.verdict import FILE
from layercut.runs.atomic import write_json
from layercut.runs.directory import METRICS, RunFolder
from tests.support.run_builder import Result, build_quickstart, build_run
from tests.support.sweeps import HOLES, curve, sweep_of

HASH = "5a3c0de1f00d"
MODEL = {"model": "bundled:smollm2-135m", "model_hash": HASH}


def write_study(folder: Path) -> Path:
    """Two plans of three layers."""
    build_quickstart(folder)
    return folder


def write_sweep(folder: Path, model_hash: str = HASH) -> Path:
    """Two tasks, one of them ranked and written, with a criterion that agrees with them."""
    mild = [min(100, 60 + percent / 2) for percent in HOLES]
    criterion = Ranking(name="block_influence", importance={layer: -kept for layer, kept in enumerate(HOLES)})
    sweep = sweep_of(
        curve("gsm8k", "chain", HOLES), curve("arithmetic", "rank", mild, chance=0.25),
        curve("arithmetic", "short", HOLES), rankings=[criterion],
    )  # fmt: skip
    with RunFolder.begin(folder, {**MODEL, "model_hash": model_hash}) as run:
        sweep.save(run.path)
        run.write_metrics([])
    return folder


def write_diagnosis(folder: Path, diagnostics: dict[str, Any]) -> Path:
    """The findings that are given, for one pruned model."""
    data = {
        "format_version": 1,
        "model": MODEL["model"],
        "arms": [
            {"name": "uncut", "describe": "uncut, 30 decoder layers", "layers": list(range(30))},
            {"name": "reverse-3", "describe": "removes 3 of 30 decoder layers", "layers": list(range(27))},
        ],
        "limit": 20,
        "seed": 0,
        "diagnostics": diagnostics,
    }
    with RunFolder.begin(folder, MODEL) as run:
        (run.path / FILE).write_text(json.dumps(data))
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
