"""Lines of the retention plot, and readouts of the same items."""

from __future__ import annotations

from pathlib import Path

from layercut.evidence.comparison import compare_runs
from layercut.evidence.study import Place, places_of_runs
from layercut.runs.directory import RunFolder
from tests.support.pages import about_arm
from tests.support.run_builder import Result, build_run

RESULT = Result(task="copy", readout="short", score=0.8, n=8)


def placed(folder: Path, runs: list[RunFolder]) -> dict[str, Place]:
    return places_of_runs(runs, compare_runs(build_run(folder / "uncut", [RESULT]), runs))


def test_runs_are_joined_by_criterion_arm_and_seed(tmp_path: Path) -> None:
    def run(name: str, depth: int, criterion: str = "reverse", **about: object):
        made = build_run(tmp_path / name, [RESULT], removed=range(depth), criterion=criterion)
        return about_arm(made, **about) if about else made

    found = placed(
        tmp_path,
        [
            run("a", 2),
            run("b", 4, criterion="reverse", healing=None, seed=0),
            run("c", 4, healing=None, seed=1),
            run("d", 4, healing="lora", seed=0),
            run("e", 4, plan="late-4", criterion="explicit", healing="distill", seed=0),
            run("late-2", 2, criterion="explicit"),
            run("late-4", 4, criterion="explicit"),
            run("late_x", 4, criterion="explicit"),
        ],
    )
    assert found["a"].part == found["b"].part != found["c"].part
    assert {found[name].series for name in "abc"} == {"reverse"}
    assert found["d"].series == "reverse, healed: lora"
    assert found["e"].series == "late, healed: distill"
    assert found["late-2"].part == found["late-4"].part
    assert found["late_x"].series == "late_x"
    assert found["b"].depth == 4


def test_two_runs_at_one_depth_are_not_joined(tmp_path: Path) -> None:
    runs = [build_run(tmp_path / name, [RESULT], removed=layers) for name, layers in (("a", (1, 2)), ("b", (5, 6)))]
    found = placed(tmp_path, runs)
    assert found["a"].series == found["b"].series
    assert found["a"].part != found["b"].part
