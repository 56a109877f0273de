"""Lines of the retention plot, and the tasks that a use is judged by."""

import subprocess
import sys
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.evidence.comparison import compare_runs
from layercut.evidence.study import Place, places_of_runs
from layercut.evidence.uses import USES, named_use, tasks_for_use
from layercut.runs.directory import RunFolder
from layercut.tasks import OF_LM_EVAL, TASKS, load_task
from tests.support.pages import about_arm
from tests.support.run_builder import Result, build_run

RESULT = Result(task="copy", readout="short", score=0.8, n=8)


def placed(folder: Path, runs: list[RunFolder]) -> dict[str, Place]:
    return places_of_runs(runs, compare_runs(build_run(folder / "uncut", [RESULT]), runs))


def test_runs_are_joined_by_criterion_arm_and_seed(tmp_path):
    def run(name: str, depth: int, criterion: str = "reverse", **about: object):
        made = build_run(tmp_path / name, [RESULT], removed=range(depth), criterion=criterion)
        return about_arm(made, **about) if about else made

    runs = [
        run("a", 2),
        run("b", 4, criterion="reverse", healing=None, seed=0),
        run("c", 4, healing=None, seed=1),
        run("d", 4, healing="lora", seed=0),
        run("e", 4, plan="late-4", criterion="explicit", healing="distill", seed=0),
        *(run(name, depth, criterion="explicit") for name, depth in (("late-2", 2), ("late-4", 4), ("late_x", 4))),
    ]
    found = placed(tmp_path, runs)
    assert found["a"].part == found["b"].part != found["c"].part
    assert {found[name].series for name in "abc"} == {"reverse"}
    assert found["d"].series == "reverse, healed: lora"
    assert found["e"].series == "late, healed: distill"
    assert found["late-2"].part == found["late-4"].part
    assert found["late_x"].series == "late_x"
    assert found["b"].depth == 4


def test_two_runs_at_one_depth_are_not_joined(tmp_path):
    runs = [build_run(tmp_path / name, [RESULT], removed=layers) for name, layers in (("a", (1, 2)), ("b", (5, 6)))]
    found = placed(tmp_path, runs)
    assert found["a"].series == found["b"].series
    assert found["a"].part != found["b"].part


@pytest.mark.parametrize("name", USES)
def test_the_tasks_of_a_use_exist_and_decide_it(name):
    use = named_use(name)
    asked = tasks_for_use(name)
    with_data = tasks_for_use(name, data=list(TASKS))
    assert asked
    assert with_data
    for task, readout in (*asked, *with_data):
        assert use.speaks_of(task) and use.counts(readout), (task, readout)
        if TASKS[task].factory.startswith("lm_eval."):
            assert readout in OF_LM_EVAL
        else:
            load_task(task).check_readout(readout)
    for task, _ in asked:
        load_task(task).samples("report", 1)  # built in: needs no data


def note_of(name: str, **data: list[str]) -> str:
    return named_use(name).note([task for task, _ in tasks_for_use(name, **data)])


def test_benchmarks_replace_built_in_tasks_proxies_are_named_and_an_unknown_use_is_refused():
    assert tasks_for_use("code", data=["mbpp_plus", "gsm8k"]) == [("mbpp_plus", "chain")]
    assert note_of("code", data=["mbpp_plus"]) == ""
    note = "Judged by a proxy: copy, a part of writing summaries. All of it: xsum."
    assert note_of("summarize") == note
    assert "copy and gsm_symbolic" in note_of("chat")
    assert [note_of(name) for name in ("math", "copy", "all", "classify")] == [""] * 4
    with pytest.raises(InputError, match="use 'math,copy' names several, and one is taken"):
        named_use("math,copy")
    with pytest.raises(InputError, match="unknown use 'summarise'.*summarize"):
        tasks_for_use("summarise")


def test_uses_need_no_torch():
    code = "import sys; from layercut.evidence.uses import tasks_for_use; tasks_for_use('chat')\n"
    code += "print([name for name in ('torch', 'scipy', 'numpy', 'transformers') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
