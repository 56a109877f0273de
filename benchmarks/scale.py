"""What a pool of engines is worth: the same small search by one process, and by pools of 1, 2, ... members.

    python benchmarks/scale.py --actors 1,2

Each way is a process of its own, one after the other, with as many threads an engine, and begins with nothing known.
What is timed is the search; starting (Ray, imports, loading the model) is told apart. The layers chosen, the values of
all candidates and every graded answer must be those of one process, or the benchmark fails. On a machine with fewer
free cores than members x threads the times say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from engines import in_a_process

from layercut.engine.handle import ModelHandle
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import task_accuracy
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan, parse_layers
from layercut.tasks import load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tasks", default="arithmetic,copy")
    parser.add_argument("--readout", default="short")
    parser.add_argument("--items", type=int, default=16, help="of each task")
    parser.add_argument("--remove", type=int, default=1, help="layers; each is one round of the search")
    parser.add_argument("--candidates", help="layers that may go, such as 9,17,22-25; all but 0 if left out")
    parser.add_argument("--actors", default="1,2", help="sizes of the pools")
    parser.add_argument("--threads", type=int, default=1, help="of each engine")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(python=[])
    asked = parser.parse_args()
    if asked.one:
        asked.out.write_text(json.dumps(search(asked, None if asked.one == "alone" else asked.one)))
        return
    load = os.getloadavg()[0]
    work = f"{asked.tasks} ({asked.readout}), {asked.items} items each, candidates {asked.candidates or 'all but 0'}"
    print(f"{asked.model}, {asked.dtype}, {work}, {asked.remove} go")
    print(f"{os.cpu_count()} cores, {asked.threads} thread(s) an engine, load {load:.1f} before, nice {os.nice(0)}")
    alone = in_a_process(asked, "alone", __file__)
    print(f"{'engine':16} {'start':>8} {'search':>8} {'speed-up':>9}  same layers, values and answers")
    row("one process", alone, alone)
    for num in asked.actors.split(","):
        row(f"local:{num}", in_a_process(asked, f"local:{num}", __file__), alone)


def row(name: str, found: dict[str, Any], alone: dict[str, Any]) -> None:
    same = all(found[key] == alone[key] for key in ("removed", "rounds", "answers"))
    speed_up = alone["search"] / found["search"]
    print(f"{name:16} {found['start']:6.1f} s {found['search']:6.1f} s {speed_up:9.2f}  {'yes' if same else 'NO'}")
    if not same:
        raise SystemExit(f"{name} found something else than one process did")


def search(asked: argparse.Namespace, pool: str | None) -> dict[str, Any]:
    """One search, with what it found in a form that can be compared."""
    from layercut.engine.ray_pool import RayPool

    began = time.perf_counter()
    handle = ModelHandle(ModelSettings(model=asked.model, dtype=asked.dtype, device="auto", engine_pool=pool))
    engine: Any = handle.engine
    model_hash = engine.describe()["model_hash"]
    if isinstance(engine, RayPool):
        assert engine.num_layers  # members that are still starting would make the search look slow
    started = time.perf_counter()
    tasks = [load_task(name) for name in asked.tasks.split(",")]
    parts = [
        ObjectiveTask(task=task, readout=asked.readout, limit=asked.items)
        for task in tasks
        if asked.readout in task.readouts
    ]
    journal = SearchJournal()
    objective = TaskObjective(engine, parts, journal=journal)
    layers = range(engine.num_layers)
    may_go = frozenset(layers[1:] if asked.candidates is None else parse_layers(asked.candidates))
    context = Context(
        num_layers=len(layers), num_remove=asked.remove, protect=frozenset(layers) - may_go, objective=objective
    )
    selection = task_accuracy(context)
    ended = time.perf_counter()
    plans = [CutPlan(num_layers=len(layers), removed=(layer,)) for layer in sorted(may_go)]
    answers = [
        [sorted((record["id"], record["outcome"]) for record in objective.known.part(index, plan).records)]
        for index in range(len(parts))
        for plan in plans
    ]
    assert model_hash == handle.metadata.model_hash
    return {
        "start": started - began,
        "search": ended - started,
        "removed": list(selection.removed),
        "rounds": json.loads(json.dumps(selection.details["rounds"])),
        "answers": json.loads(json.dumps(answers)),
    }


if __name__ == "__main__":
    main()
