"""Several answers to each item, and pass@k of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.evidence.intervals import pass_at_k
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.evaluate import evaluate
from layercut.tasks.few_shot import FewShotTask
from tests.support.fake_engine import FakeEngine, Killed
from tests.support.loaded import tiny_loaded

UNCUT = CutPlan(num_layers=6)
SAMPLED = Decoding(temperature=0.8, seed=3)


def engine(**more: Any) -> FakeEngine:
    """Of item i's answers, the first i are right."""
    golds = {sample.id: (place, sample.gold) for place, sample in enumerate(TASK.samples("report", 6))}

    def says(request: GenerationRequest, plan: CutPlan) -> str:
        item, _, draw = request.id.partition(" draw ")
        place, gold = golds[item]
        return f" {gold}\n" if int(draw or 0) < place else " none\n"

    return FakeEngine(texts=says, **more)


TASK = load_task("arithmetic")


def test_an_item_has_the_mean_of_its_answers_and_pass_at_k() -> None:
    result = evaluate(TASK, engine(), UNCUT, readout="short", limit=6, decoding=SAMPLED, num_samples=5)
    for right, record in enumerate(result.records):
        assert record["metrics"]["accuracy"] == pytest.approx(right / 5)
        assert record["metrics"]["pass@2"] == pytest.approx(pass_at_k(5, right, 2))
        assert record["metrics"]["pass@4"] == pytest.approx(pass_at_k(5, right, 4))
        assert len(record["further"]) == 4
        assert [one["outcome"] == "right" for one in record["further"]] == [draw < right for draw in range(1, 5)]
        assert (record["outcome"] == "right") == (right > 0)
    rows = {row["metric"]: row for row in result.metrics}
    assert list(rows) == ["accuracy", "pass@2", "pass@4"]
    assert rows["accuracy"]["value"] == pytest.approx(0.5)
    assert rows["accuracy"]["n"] == 6 and rows["accuracy"]["chance"] is not None
    assert rows["pass@4"]["chance"] is None


def test_stopped_and_resumed_is_run_through(tmp_path: Path) -> None:
    wish = {"readout": "short", "limit": 6, "decoding": SAMPLED, "num_samples": 3}
    whole = evaluate(TASK, engine(), UNCUT, **wish).records
    for kill_after in (2, 1, 2, None):
        with Journal(tmp_path / "answers.jsonl") as journal:
            try:
                found = evaluate(TASK, engine(kill_after=kill_after), UNCUT, journal=journal, **wish).records
            except Killed:
                continue
    assert found == whole


@pytest.mark.parametrize("kind", [PlainEngine, SharedEngine])
def test_answers_differ_and_the_first_is_that_of_a_single_one(kind: Any) -> None:
    assert isinstance(TASK, FewShotTask)
    task, real = replace(TASK, examples=""), kind(tiny_loaded("llama"))
    wish = {"readout": "short", "limit": 4, "decoding": SAMPLED}
    several = evaluate(task, real, UNCUT, num_samples=3, **wish).records
    single = evaluate(task, real, UNCUT, **wish).records
    assert [record["completion"] for record in several] == [record["completion"] for record in single]
    texts = [{one["completion"] for one in [record, *record["further"]]} for record in several]
    assert max(map(len, texts)) > 1


def test_what_gives_no_different_answers_is_refused() -> None:
    with pytest.raises(InputError, match="set a temperature"):
        evaluate(TASK, engine(), UNCUT, readout="short", limit=2, num_samples=2)
    with pytest.raises(InputError, match="use 1 or more"):
        evaluate(TASK, engine(), UNCUT, readout="short", limit=2, decoding=SAMPLED, num_samples=0)


def test_what_is_ranked_is_asked_once() -> None:
    ranking = FakeEngine(scores=lambda request, plan: [0.0] * len(request.continuations))
    records = evaluate(TASK, ranking, UNCUT, readout="rank", limit=2, num_samples=9).records
    assert [list(record["metrics"]) for record in records] == [["accuracy"]] * 2
