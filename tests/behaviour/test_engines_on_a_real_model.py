"""The shared engine against the plain one on the bundled SmolLM2-135M (some minutes)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from layercut.engine.base import Decoding, GenerationRequest, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from layercut.models.loading import load_model
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from tests.invariants.test_engine_shared import by_plan

NAME = "bundled:smollm2-135m"
PLANS = [CutPlan(num_layers=30, removed=removed) for removed in ((), (1,), (14,), (29,), (4, 27), (27, 4, 12))]
DRAWN = Decoding(temperature=0.9, top_p=0.95, seed=1)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded() -> Any:
    try:
        bundled_file(bundled_model(NAME))
    except InputError as error:
        pytest.skip(str(error))
    return load_model(NAME, dtype="float32", device="cpu")


@pytest.mark.parametrize("decoding", [Decoding(), DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ["arithmetic", "brackets", "copy"])
def test_every_answer_and_every_score_is_equal(loaded: Any, name: str, decoding: Decoding) -> None:
    task = load_task(name)
    samples = task.samples("selection", 10)
    asked = [task.request(sample, "short") for sample in samples]
    requests = [request for request in asked if isinstance(request, GenerationRequest)]
    drafts = [replace(request, draft=task.draft(one, "short")) for request, one in zip(requests, samples, strict=True)]
    whole = by_plan(PlainEngine(loaded).ask(requests, PLANS, decoding))
    assert by_plan(SharedEngine(loaded).ask(drafts, PLANS, decoding)) == whole
    hasty = [
        replace(request, settled=partial(task.settled, one, "short"))
        for request, one in zip(drafts, samples, strict=True)
    ]
    by_id = {sample.id: sample for sample in samples}
    num_settled = 0
    for key, answers in by_plan(SharedEngine(loaded).ask(hasty, PLANS, decoding)).items():
        for item, answer in answers.items():
            num_settled += answer.finish_reason == "settled"
            expected = task.grade(by_id[item], "short", whole[key][item])
            assert task.grade(by_id[item], "short", answer).metrics == expected.metrics
    assert num_settled


@pytest.mark.parametrize("name", ["arithmetic", "brackets", "copy", "gsm_symbolic"])
def test_options_are_ranked_alike(loaded: Any, name: str) -> None:
    task = load_task(name)
    asked = [task.request(sample, "rank") for sample in task.samples("selection", 8)]
    requests = [request for request in asked if isinstance(request, LikelihoodRequest)]
    plain = by_plan(PlainEngine(loaded).ask(requests, PLANS[:4]))
    shared = by_plan(SharedEngine(loaded).ask(requests, PLANS[:4]))
    for key, answers in plain.items():
        for item, expected in answers.items():
            found = shared[key][item]
            assert found.log_likelihoods == pytest.approx(expected.log_likelihoods, abs=2e-3)
            assert found.is_greedy == expected.is_greedy
