"""GSM8K with worked examples, and lm-eval's tasks as a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import GenerationRequest, Message
from layercut.errors import InputError
from layercut.tasks import base_name_of_task, check_task, load_task
from tests.support.harness import Rows, write_rows

pytest.importorskip("lm_eval", reason="worked examples come with the extra lm-eval")

GSM: Rows = [{"question": f"What is {i}?", "answer": f"It is.\n#### {i}"} for i in range(9)]


def prompt_of(task: Any, number: int = 0) -> str:
    request = task.request(task.samples("report", None)[number], "chain")
    assert isinstance(request, GenerationRequest) and isinstance(request.prompt, str)
    return request.prompt


def test_gsm8k_with_examples_is_the_chain_of_thought_prompt(tmp_path: Path) -> None:
    data = write_rows(tmp_path, {"train": GSM, "test": GSM[:4]})
    task = load_task("gsm8k:8", data=data)
    assert task.name == "gsm8k:8" and prompt_of(task) == prompt_of(load_task("gsm8k_cot", data=data))
    assert prompt_of(task).count("The answer is ") == 8
    check_task("gsm8k:8", ["chain"])
    with pytest.raises(InputError, match="its data has 8 rows for 9 worked examples"):
        load_task("gsm8k:9", data=write_rows(tmp_path / "few", {"test": GSM})).settings()


def test_a_task_of_lm_eval_as_a_conversation(tmp_path: Path) -> None:
    data = write_rows(tmp_path, {"train": GSM, "test": GSM[:4]})
    task = load_task("gsm8k:2+chat", data=data)
    assert task.name == "gsm8k:2+chat" and base_name_of_task("lm-eval:gsm8k+chat") == "gsm8k"
    sample = task.samples("report", 1)[0]
    request = task.request(sample, "chain")
    assert isinstance(request, GenerationRequest) and not isinstance(request.prompt, str)
    assert [one.role for one in request.prompt] == ["user", "assistant"] * 2 + ["user"]
    assert request.prompt[-1] == Message("user", f"{sample.question}")
    assert str(request.prompt[1].content).endswith("The answer is 6.")
    assert [one.id for one in load_task("gsm8k:2", data=data).samples("report", None)] == [
        one.id for one in task.samples("report", None)
    ]
    for name in ("gsm8k+chat", "arithmetic+chat"):
        with pytest.raises(InputError, match="takes no chat"):
            load_task(name)
