"""Chains that are stopped after a number of tokens and made to answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Completion, GenerationRequest, Message
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Task, budget_of, check_readout, generates
from layercut.tasks.budget import ANSWER_TOKENS, asked
from layercut.tasks.evaluate import evaluate
from layercut.tasks.few_shot import FewShotTask
from tests.support.fake_engine import FakeEngine, Killed
from tests.support.loaded import tiny_loaded

UNCUT = CutPlan(num_layers=6)


def gsm_symbolic() -> Task:
    return load_task("gsm_symbolic")


def gsm8k(folder: Path) -> Task:
    rows = [{"question": f"What is {n} plus 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(12)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task("gsm8k", data=str(folder))


def by_record(task: Task, engine: Any, readout: str, limit: int = 6, **more: Any) -> dict[str, dict[str, Any]]:
    records = evaluate(task, engine, UNCUT, readout=readout, limit=limit, **more).records
    return {record["id"]: record for record in records}


def test_a_chain_is_cut_at_its_budget_and_made_to_answer() -> None:
    task = gsm_symbolic()
    gold = {sample.id: sample.gold for sample in task.samples("report", 6)}
    asked_for: list[GenerationRequest] = []

    def says(request: GenerationRequest, plan: CutPlan) -> str:
        asked_for.append(request)
        name = request.id.removesuffix(" answer")
        return f" {gold[name]}." if request.id != name else " ".join("abcdefghij")

    found = by_record(task, FakeEngine(texts=says), "chain@4")
    assert [request.max_new_tokens for request in asked_for] == [4] * 6 + [ANSWER_TOKENS] * 6
    whole = {sample.id: task.request(sample, "chain") for sample in task.samples("report", 6)}
    for request in asked_for[6:]:
        assert request.prompt == f"{whole[request.id.removesuffix(' answer')].prompt}a b c d The answer is"
    for name, record in found.items():
        assert record["completion"] == f"a b c d The answer is {gold[name]}."
        assert (record["outcome"], record["finish_reason"], record["forced_at"]) == ("right", "length", 7)
        assert (record["answer_depth"], record["chain_tokens"], record["num_new_tokens"]) == (4, 4, 6)


def test_a_chain_that_ends_with_an_answer_within_its_budget_stands_as_it_is() -> None:
    task = gsm_symbolic()
    texts = {sample.id: f"So. The answer is {sample.gold}." for sample in task.samples("report", 6)}
    budgeted = by_record(task, FakeEngine(texts=texts), "chain@64")
    for name, record in by_record(task, FakeEngine(texts=texts), "chain").items():
        assert budgeted[name] == {**record, "forced_at": None}


def test_a_chain_that_ends_without_an_answer_is_made_to_give_one(tmp_path: Path) -> None:
    task = gsm8k(tmp_path)

    def says(request: GenerationRequest, plan: CutPlan) -> str:
        return "No.} Or \\boxed{5}" if request.id.endswith(" answer") else "I do not know."

    for record in by_record(task, FakeEngine(texts=says), "chain@64").values():
        assert record["finish_reason"] == "stop"
        assert record["completion"].startswith("I do not know.\n\nThe final answer is \\boxed{No.}")
        assert record["answer"] == "5"
        assert record["outcome"] in ("right", "wrong")


def test_only_what_the_model_was_made_to_say_counts() -> None:
    task = gsm_symbolic()
    gold = {sample.id: sample.gold for sample in task.samples("report", 6)}

    def says(request: GenerationRequest, plan: CutPlan) -> str:
        name = request.id.removesuffix(" answer")
        return " 0" if request.id != name else f"The answer is {gold[name]} and the answer is more than"

    # The budget ends in the middle of a sentence, so what stands there may be half a number.
    assert {record["outcome"] for record in by_record(task, FakeEngine(texts=says), "chain@5").values()} == {"wrong"}


def test_dots_stand_in_the_place_of_a_chain() -> None:
    task = gsm_symbolic()
    prompts: list[Any] = []

    def says(request: GenerationRequest, plan: CutPlan) -> str:
        prompts.append(request.prompt)
        return " 12."

    found = by_record(task, FakeEngine(texts=says), "filler@3")
    assert all(str(prompt).endswith("\nA: . . . The answer is") for prompt in prompts)
    assert {record["answer_depth"] for record in found.values()} == {3}
    assert len(prompts) == len(found) == 6


def test_without_a_budget_the_answer_comes_at_once(tmp_path: Path) -> None:
    task = gsm8k(tmp_path)
    prompts: list[Any] = []

    def says(request: GenerationRequest, plan: CutPlan) -> Completion:
        prompts.append(request.prompt)
        return Completion(id=request.id, text="3}.", finish_reason="length", num_prompt_tokens=9, num_new_tokens=32)

    found = by_record(task, FakeEngine(texts=says), "chain@0")
    assert {prompt[-1] for prompt in prompts} == {Message("assistant", "The final answer is \\boxed{")}
    assert {record["answer"] for record in found.values()} == {"3"}
    assert {record["outcome"] for record in found.values()} <= {"right", "wrong"}
    assert {record["answer_depth"] for record in found.values()} == {0}


@pytest.mark.parametrize("readout", ["chain@0", "chain@6", "filler@5"])
def test_stopped_and_resumed_is_run_through(tmp_path: Path, readout: str) -> None:
    task = gsm_symbolic()

    def says(request: GenerationRequest, plan: CutPlan) -> str:
        steps = "So. The answer is 3." if request.id < "gsm_symbolic-8" else "a b c d e f g h i j"
        return steps if not request.id.endswith(" answer") else f" {len(str(request.prompt))}."

    whole = by_record(task, FakeEngine(texts=says), readout, limit=20)
    batches: set[tuple[str, ...]] = set()
    for kill_after in (3, 6, 7, 4, None):
        with Journal(tmp_path / f"{readout}.jsonl") as journal:
            engine = FakeEngine(texts=says, kill_after=kill_after)
            try:
                found = by_record(task, engine, readout, limit=20, journal=journal)
            except Killed:
                found = {}
            batches |= {tuple(batch) for batch in engine.batches}
    assert found == whole
    straight = FakeEngine(texts=says)
    by_record(task, straight, readout, limit=20)
    assert batches == {tuple(batch) for batch in straight.batches}


@pytest.mark.parametrize("budget", [0, 3, 40])
def test_both_engines_give_the_same(budget: int) -> None:
    loaded, task = tiny_loaded("llama"), gsm_symbolic()
    assert isinstance(task, FewShotTask)
    task = replace(task, examples="")  # its context is short
    plain, shared = (by_record(task, kind(loaded), f"chain@{budget}", 4) for kind in (PlainEngine, SharedEngine))
    assert plain == shared
    assert {record["chain_tokens"] for record in plain.values()} <= set(range(budget + 1))


def test_which_tasks_take_a_budget(tmp_path: Path) -> None:
    check_readout(gsm_symbolic(), "chain@32")
    check_readout(gsm8k(tmp_path), "chain@0")
    for readout in ("chain@", "chain@N", "chain@-1", "chain@1.5", "chain@²", "short@8", "filler@N"):
        with pytest.raises(InputError, match="gsm_symbolic .*chain@N"):
            check_readout(gsm_symbolic(), readout)
        assert not generates(readout)
        assert budget_of(readout) is None
    with pytest.raises(InputError, match="unknown readout of arithmetic"):
        check_readout(load_task("arithmetic"), "chain@8")
    request = asked(gsm_symbolic(), gsm_symbolic().samples("report", 1)[0], "chain@32")
    assert isinstance(request, GenerationRequest)
    assert request.max_new_tokens == 32 + ANSWER_TOKENS
