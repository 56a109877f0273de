"""Uses: every one names tasks that exist, needs no torch, and says where it is judged by a proxy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from layercut.errors import InputError
from layercut.evidence.uses import USES, named_use, tasks_for_use
from layercut.tasks import OF_LM_EVAL, TASKS, load_task


def test_all_uses_of_the_issue_are_there() -> None:
    assert set(USES) == {"math", "code", "summarize", "classify", "chat", "copy", "all"}


@pytest.mark.parametrize("name", USES)
def test_the_tasks_of_a_use_exist_and_decide_it(name: str) -> None:
    use = named_use(name)
    asked = tasks_for_use(name)
    with_data = tasks_for_use(name, data=list(TASKS))
    assert asked and with_data
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


def test_benchmarks_take_the_place_of_built_in_tasks_where_their_data_is_given() -> None:
    assert tasks_for_use("code", data=["mbpp_plus", "gsm8k"]) == [("mbpp_plus", "chain")]
    assert note_of("code", data=["mbpp_plus"]) == ""


def test_a_proxy_is_named_in_one_note() -> None:
    note = "Judged by a proxy: copy, a part of writing summaries. All of it: xsum."
    assert note_of("summarize") == note
    assert "copy and gsm_symbolic" in note_of("chat")
    assert [note_of(name) for name in ("math", "copy", "all", "classify")] == [""] * 4


def test_an_unknown_use_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="use 'math,copy' names several, and one is taken"):
        named_use("math,copy")
    with pytest.raises(InputError, match="unknown use 'summarise'.*summarize"):
        tasks_for_use("summarise")


def test_uses_need_no_torch() -> None:
    code = "import sys; from layercut.evidence.uses import tasks_for_use; tasks_for_use('chat')\n"
    code += "print([name for name in ('torch', 'scipy', 'numpy', 'transformers') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
