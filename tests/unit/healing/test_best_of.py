from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import LikelihoodRequest
from layercut.healing.best_of import choose, chosen, contenders
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from tests.support.fake_engine import FakeEngine, Killed
from tests.support.healing import record

PLAN = CutPlan(num_layers=6, removed=(2,))


def answers(prompt: str, *texts: str, **more: list[Any]) -> list[dict[str, Any]]:
    return [
        record(f"{prompt}#{n + 1}" if n else prompt, f"say {prompt}", text, prompt_id=prompt, sample=n)
        | {name: values[n] for name, values in more.items()}
        for n, text in enumerate(texts)
    ]


def test_a_right_answer_goes_first_then_one_that_ended_and_each_text_counts_once() -> None:
    some = answers("p", "a", "b", "c", "b", " ", right=[False, True, True, True, True])
    assert [one["id"] for one in contenders(some)] == ["p#2", "p#3"]
    some = answers("p", "a", "b", "c", finish_reason=["length", "stop", "length"])
    assert [one["id"] for one in contenders(some)] == ["p#2"]
    some = answers("p", "a", "b", right=[True, False], finish_reason=["length", "stop"])
    assert [one["id"] for one in contenders(some)] == ["p"]
    assert [one["id"] for one in contenders(answers("p", "", " "))] == ["p"]


def likelihood(request: LikelihoodRequest, plan: CutPlan) -> list[float]:
    """A token costs its first letter's place in the alphabet, whatever stands before it."""
    assert plan == PLAN
    assert request.prompt[0].content == f"say {request.id}"  # type: ignore[union-attr]
    return [-sum(ord(word[0]) - 96.0 for word in text.split()) for text in request.continuations]


def test_among_equals_the_mean_log_likelihood_of_a_token_decides(tmp_path: Path) -> None:
    records = [
        *answers("p", "c", "b b b b", "d"),  # -3, -2, -4 a token, -3, -8, -4 together
        *answers("q", "only", "only"),
        *answers("r", "z", "a", "y", right=[True, False, True]),
    ]
    with Journal(tmp_path / "choices.jsonl") as journal:
        choose(FakeEngine(scores=likelihood), PLAN, records, journal)
        choices = journal.records
    assert {choice["id"]: choice["chosen"] for choice in choices} == {"p": "p#2", "q": "q", "r": "r#3"}
    by_prompt = {choice["id"]: choice.get("mean_log_likelihoods") for choice in choices}
    assert by_prompt == {"p": {"p": -3, "p#2": -2, "p#3": -4}, "q": None, "r": {"r": -26, "r#3": -25}}
    picked = chosen(records, choices)
    assert [(one["id"], one["completion"], one["sample"]) for one in picked] == [
        ("p", "b b b b", 1),
        ("q", "only", 0),
        ("r", "y", 2),
    ]


def test_choosing_resumes_by_prompt(tmp_path: Path) -> None:
    records = [one for number in range(9) for one in answers(f"p{number}", "b", "a", "c")]

    def scores(request: LikelihoodRequest, plan: CutPlan) -> list[float]:
        return likelihood(request, plan)

    with Journal(tmp_path / "choices.jsonl") as journal:
        with pytest.raises(Killed):
            choose(FakeEngine(scores=scores, kill_after=1), PLAN, records, journal)
        assert len(journal.records) == 4
    with Journal(tmp_path / "choices.jsonl") as journal:
        engine = FakeEngine(scores=scores)
        choose(engine, PLAN, records, journal)
        assert [choice["chosen"] for choice in journal.records] == [f"p{number}#2" for number in range(9)]
        assert [len(batch) for batch in engine.batches] == [4, 1]
        choose(FakeEngine(kill_after=0), PLAN, records, journal)
        assert len(journal.records) == 9
