"""How long layercut takes to begin: ``import layercut``, ``layercut --help`` and the answer to a typo, side by side.

    python benchmarks/startup.py --rounds 10

In each round every command runs once in a process of its own, in turn, so that load on the machine falls on all of
them alike; the first round only warms the page cache. Printed are the median and the least wall time and CPU time
(user and system) of a whole process, the interpreter's own start included, which stands in the first row. The exit
code is 1 where a median CPU time exceeds its limit.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

LAYERCUT = ("-c", "from layercut.cli.main import main; main()")
STUDY = "model: bundled:smollm2-135m\ntsks: [copy]\nplans: [reverse:1]\nout: runs/x\n"
MODEL = "bundled:smollm2-135m"


class Command(NamedTuple):
    """What is timed."""

    name: str
    arguments: tuple[str, ...]
    limit: float | None
    """CPU seconds."""


class Took(NamedTuple):
    """One process."""

    wall: float
    cpu: float


def commands(study: Path) -> list[Command]:
    """All of them; the interpreter alone first."""
    return [
        Command("python -c pass", ("-c", "pass"), None),
        Command("import layercut", ("-c", "import layercut"), 0.1),
        Command("layercut --help", (*LAYERCUT, "--help"), 0.3),
        Command("layercut eval --help", (*LAYERCUT, "eval", "--help"), 0.5),
        Command("typo in a YAML key", (*LAYERCUT, "run", str(study)), 0.5),
        Command("typo in a task", (*LAYERCUT, "eval", MODEL, "--tasks", "arithmetc"), 0.5),
        Command("typo in a criterion", (*LAYERCUT, "select", MODEL, "--criterion", "refin", "--remove", "5%"), 0.5),
        Command("layer out of range", (*LAYERCUT, "cut", MODEL, "--remove", "99"), 0.5),
        Command("typo in a flag", (*LAYERCUT, "eval", MODEL, "--tsks", "copy"), 0.5),
    ]


def took(command: Command) -> Took:
    """Run it once."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command.arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> int:
    """Time all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="rounds that count")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder, "study.yaml")
        study.write_text(STUDY, encoding="utf-8")
        wanted = commands(study)
        times: dict[str, list[Took]] = {one.name: [] for one in wanted}
        for number in range(rounds + 1):
            for one in wanted:
                found = took(one)
                if number:
                    times[one.name].append(found)
    print(f"{'':<22}{'wall s, median':>16}{'least':>8}{'CPU s, median':>16}{'least':>8}{'limit':>8}")
    failed = False
    for one in wanted:
        wall, cpu = ([getattr(found, kind) for found in times[one.name]] for kind in ("wall", "cpu"))
        median = statistics.median(cpu)
        failed = failed or (one.limit is not None and median > one.limit)
        limit = "" if one.limit is None else f"{one.limit:.1f}"
        print(
            f"{one.name:<22}{statistics.median(wall):>16.3f}{min(wall):>8.3f}{median:>16.3f}{min(cpu):>8.3f}{limit:>8}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
