"""Tasks with worked examples ask as plain text, as published, and are graded as without; lm-eval's tasks as a chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import GenerationRequest, LikelihoodRequest, Message
from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from layercut.tasks import base_name_of_task, check_task, load_task
from layercut.tasks.evaluate import evaluate_items
from tests.support.answers import completion
from tests.support.harness import Rows, write_rows
from tests.support.loaded import tiny_loaded

pytest.importorskip("lm_eval", reason="worked examples come with the extra lm-eval")

MBPP: Rows = [
    {
        "task_id": number,
        "prompt": f"Write a function to add {number}.",
        "code": f"def add(x):\n    return x + {number}",
        "test_imports": [],
        "test_list": [f"assert add({i}) == {i + number}" for i in range(3)],
    }
    for number in range(11, 15)
]
MATH: Rows = [
    {"problem": f"What is ${i} / 7$?", "answer": f"\\frac{{{i}}}{{7}}", "solution": "s", "level": 1}
    for i in range(1, 9)
]
HUMAN: Rows = [
    {
        "task_id": f"HumanEval/{i}",
        "prompt": f'def add{i}(x):\n    """Add {i}."""\n',
        "entry_point": f"add{i}",
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + i}\n",
    }
    for i in range(8)
]
GSM: Rows = [{"question": f"What is {i}?", "answer": f"It is.\n#### {i}"} for i in range(9)]
FORMS: dict[str, Rows] = {"mbpp:0": MBPP, "math500:0": MATH, "humaneval:0": HUMAN, "gsm8k:0": GSM}


def prompt_of(task: Any, number: int = 0) -> str:
    request = task.request(task.samples("report", None)[number], "chain")
    assert isinstance(request, GenerationRequest) and isinstance(request.prompt, str)
    return request.prompt


@pytest.mark.parametrize("name", FORMS)
def test_a_base_model_answers_the_completion_form(name: str, tmp_path: Path) -> None:
    loaded = tiny_loaded("llama")
    loaded.tokenizer.chat_template = None
    data = write_rows(tmp_path, {"test": FORMS[name]})
    check_task(name, ["chain"], data=data)
    task = load_task(name, data=data, max_new_tokens=6)
    plan = CutPlan(num_layers=loaded.num_layers)
    result = evaluate_items(task, PlainEngine(loaded, batch_size=2), plan, limit=2)
    assert len(result.records) == 2 and all("completion" in record for record in result.records)
    assert all(record["finish_reason"] in ("stop", "length") for record in result.records)
    chat = load_task(name.removesuffix(":0"), data=data, max_new_tokens=6)
    assert chat.name == name.removesuffix(":0") and task.name == name
    with pytest.raises(InputError, match="no chat template"):
        evaluate_items(chat, PlainEngine(loaded, batch_size=2), plan, limit=2)


def test_mbpp_has_the_published_examples_and_runs_in_the_sandbox(tmp_path: Path) -> None:
    data = write_rows(tmp_path, {"test": MBPP})
    task = load_task("mbpp:2", data=data)
    asserts = "\n".join(MBPP[0]["test_list"])
    asked = f"Write a function to add 11. Your code should pass these tests:\n\n{asserts}\n[BEGIN]\n"
    head = "You are an expert Python programmer, and here is your task: "
    prompt = prompt_of(task)
    assert prompt.endswith(head + asked) and prompt.count(head) == 3 and prompt.count("\n[DONE]\n\n") == 2
    assert prompt.startswith(f"{head}Write a function to find the similar elements from the given two tuple lists.")
    assert prompt_of(load_task("mbpp:0", data=data)) == head + asked
    sample = task.samples("report", 1)[0]
    assert task.request(sample, "chain").stop == ("[DONE]",)  # type: ignore[union-attr]
    assert task.settings()["examples"] == "2 of mbpp"
    assert task.grade(sample, "chain", completion("def add(x):\r\n    return x + 11\n")).metrics == {"pass": 1.0}
    assert task.grade(sample, "chain", completion("def add(x):\n    return x")).metrics == {"pass": 0.0}
    plain = load_task("mbpp", data=data)
    assert [one.id for one in plain.samples("report", None)] == [one.id for one in task.samples("report", None)]


def test_math_has_the_published_examples_and_our_grades(tmp_path: Path) -> None:
    data = write_rows(tmp_path, {"test": MATH})
    task = load_task("math500:4", data=data)
    prompt, sample = prompt_of(task), task.samples("report", 1)[0]
    assert prompt.count("I hope it is correct.\n\nProblem:\n") == 4 and prompt.endswith("$?\n\nSolution:")
    assert prompt.startswith("Problem:\nFind the domain of the expression")
    text = (
        f" We see $\\boxed{{{sample.gold}}}$.\nFinal Answer: The final answer is ${sample.gold}$. I hope it is correct."
    )
    assert task.grade(sample, "chain", completion(text)).metrics == {"boxed": 1.0, "anywhere": 1.0}
    assert task.settings()["examples"] == "4 of minerva_math_algebra" and task.readouts == ("chain",)


def test_humaneval_continues_the_function_as_published(tmp_path: Path) -> None:
    data = write_rows(tmp_path, {"test": HUMAN})
    task = load_task("humaneval:0", data=data)
    sample = task.samples("report", 1)[0]
    number = int(sample.id.rpartition("-")[2])
    request = task.request(sample, "chain")
    assert isinstance(request, GenerationRequest) and request.prompt == HUMAN[number]["prompt"]
    assert "\ndef" in request.stop
    assert task.grade(sample, "chain", completion(f"    return x + {number}")).metrics == {"pass": 1.0}
    assert task.grade(sample, "chain", completion("    return x + 99")).metrics == {"pass": 0.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mbpp:4", "mbpp has 3 worked examples, not 4; use 0 to 3"),
        ("math500:5", "has 4 worked examples, not 5; use 0 to 4"),
        ("humaneval:2", "humaneval has no worked examples; humaneval:0 has the model continue the function"),
        ("gsm8k:9", "9 worked examples were asked for, and its data has 8 rows"),
    ],
)
def test_more_examples_than_published_are_refused(name: str, message: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path, {"test": FORMS[f"{base_name_of_task(name)}:0"]})
    with pytest.raises(InputError, match=message) as caught:
        load_task(name, data=data).settings()
    assert "\n" not in str(caught.value)


def test_gsm8k_with_examples_is_the_chain_of_thought_prompt(tmp_path: Path) -> None:
    data = write_rows(tmp_path, {"train": GSM, "test": GSM[:4]})
    task = load_task("gsm8k:8", data=data)
    assert task.name == "gsm8k:8" and prompt_of(task) == prompt_of(load_task("gsm8k_cot", data=data))
    assert prompt_of(task).count("The answer is ") == 8
    check_task("gsm8k:8", ["chain"])


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
    gold = task.request(sample, "gold")
    assert isinstance(gold, LikelihoodRequest) and gold.continuations == ("0",)
    for name in ("gsm8k+chat", "arithmetic+chat", "mbpp:3+chat"):
        with pytest.raises(InputError, match="takes no chat"):
            load_task(name)
