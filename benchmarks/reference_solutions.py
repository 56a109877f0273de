"""Do the published solutions of the code benchmarks pass their own tests in the sandbox?

    python benchmarks/reference_solutions.py data/humaneval_plus data/mbpp_plus

Each solution is given as a model would write it, found in that text, and run against all tests of its problem, those
problems included that are never asked. Printed is how many pass; the exit code is 1 where one does not, and its problem
is named. ``data`` holds a folder for each benchmark, called as its task.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from layercut.engine.base import Completion
from layercut.sandbox.runner import describe_isolation
from layercut.tasks import load_task
from layercut.tasks.base import Sample
from layercut.tasks.benchmarks.code_problems import CodeTask
from layercut.tasks.data_files import read_local_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA/TASK")
    folders: list[Path] = parser.parse_args().folders
    print(f"isolation of programs: {describe_isolation()}; load average {os.getloadavg()[0]:.1f}", flush=True)
    sys.exit(0 if {True} == {all_pass(folder) for folder in folders} else 1)


def all_pass(folder: Path) -> bool:
    """Grade one benchmark and print its line."""
    task = load_task(folder.resolve().name, data=str(folder))
    assert isinstance(task, CodeTask)
    parts = read_local_data(str(folder), task.published_as).splits.values()
    samples = [task.sample(row) for rows in parts for row in rows]
    began = time.monotonic()
    scores = task.grade_all(samples, "chain", [written(sample) for sample in samples])
    failed = [
        f"{one.id} ({score.answer})" for one, score in zip(samples, scores, strict=True) if score.answer != "passed"
    ]
    passed, seconds = len(samples) - len(failed), time.monotonic() - began
    print(f"{task.name}: {passed} of {len(samples)} reference solutions pass, {seconds:.0f} s", flush=True)
    for name in failed:
        print(f"  {name}")
    return not failed


def written(sample: Sample) -> Completion:
    """The published solution behind what the answer is begun with."""
    text = f"\n{sample.gold}" if sample.data["head"] else sample.gold
    return Completion(id=sample.id, text=text, finish_reason="stop", num_prompt_tokens=1, num_new_tokens=1)


if __name__ == "__main__":
    main()
