"""``draft`` on a tiny model two of whose layers do nothing: it finds them, and resumes without asking again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import layercut
from layercut.cli.console import IO
from layercut.drafting import job
from layercut.drafting.forecast import DraftSteps, StepTimes
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.models.loading import load_model
from layercut.runs.draft import DRAFT, DraftResult
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from layercut.verbs.draft import DraftVerb
from tests.support.pruning import SPARE
from tests.support.tiny import NUM_LAYERS


def times_of(shares: Sequence[tuple[float, float]]) -> StepTimes:
    """Times of a machine that checks nine tokens in the time of one."""
    drafts = [DraftSteps(layers=one, channels=two, step=one * (0.2 + 0.8 * two), read=one * two) for one, two in shares]
    return StepTimes(where="a GPU", batch=2, prompt=16, middle=24, check=(1.0,) * 9, drafts=tuple(drafts))


@pytest.fixture
def cheap_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take what they would on a GPU."""
    monkeypatch.setattr(job, "measure_times", lambda *_: times_of([(1.0, 1.0), (0.5, 1.0), (1.0, 0.5)]))


def asked(model: Path, task: Path, out: Path, **more: Any) -> Any:
    return layercut.draft(str(model), tasks=[str(task)], out=out, items=12, progress=False, **more)


@pytest.mark.usefixtures("cheap_checks")
def test_layers_that_do_nothing_are_a_perfect_draft(model: Path, task: Path, tmp_path: Path) -> None:
    done = asked(model, task, tmp_path / "run")
    found = done.result
    assert set(SPARE) <= set(found.chosen.removed)
    assert found.verdict == "faster" and found.chosen.speedup.low > 1
    assert found.chosen.per_round.value > 1 and found.measured is None
    deep = next(one for one in found.plans if one.kind == "layers")
    assert deep.agrees.value > 0.5
    checkpoint = load_model(str(done.folder / found.checkpoint))
    assert checkpoint.num_layers == NUM_LAYERS - len(found.chosen.removed)
    plan = CutPlan.load(done.folder / "plan.json")
    assert plan.removed and set(plan.removed) == set(found.chosen.removed)
    with bypass(load_model(str(model)).model, plan):
        pass
    page = (done.folder / "report.html").read_text()
    assert found.why in page.replace("\u00a0", " ") and "speculative-config" in page


def test_a_given_plan_is_measured_and_equal(model: Path, task: Path, tmp_path: Path) -> None:
    done = asked(model, task, tmp_path / "run", remove=",".join(map(str, SPARE)), measured=3, window=4)
    found = done.result.measured
    assert (found.speedup.n, found.num_same, found.num_expected) == (3, 3, 3)
    assert found.rounds == found.expected_rounds
    assert done.result.chosen.agrees.value == 1 and done.result.chosen.accepted.value > 0.5
    assert done.result.tried == 0 and len(done.result.plans) == 1


def test_the_same_call_asks_and_times_nothing_again(
    model: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked(model, task, tmp_path / "run", measured=2, window=2).result
    (tmp_path / "run" / DRAFT).unlink()

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    for name in ("ask", "compare"):
        monkeypatch.setattr(SharedEngine, name, refuse)
    for name in ("write_twice", "measure_times"):
        monkeypatch.setattr(job, name, refuse)
    again = asked(model, task, tmp_path / "run", measured=2, window=2).result
    differ = {name for name in DraftResult.model_fields if getattr(first, name) != getattr(again, name)}
    assert differ <= {"seconds"}


@pytest.mark.usefixtures("cheap_checks")
def test_what_was_killed_goes_on_with_the_same_result(
    model: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asked(model, task, tmp_path / "whole").result
    own, left = SharedEngine.ask, [4]

    def stops(*args: Any, **more: Any) -> Any:
        for found in own(*args, **more):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SharedEngine, "ask", stops)
        asked(model, task, tmp_path / "killed")
    resumed = asked(model, task, tmp_path / "killed").result
    assert resumed.plans == whole.plans and resumed.tried == whole.tried


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tasks": None}, "neither was given"),
        ({"use": "math"}, "one of the two"),
        ({"engine": "vllm"}, "model in memory"),
        ({"remove": "3 layers"}, "3 layers"),
        ({"remove": "99"}, "layer 99"),
        ({"window": 0}, "window"),
        ({"serve": "batch=1,prompt=9000"}, "9,300 tokens"),
        ({"draft": "x"}, "unknown argument of draft 'draft'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    model: Path, task: Path, tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    given = {"tasks": [str(task)], **more}
    with pytest.raises(InputError, match=said) as refused:
        layercut.draft(str(model), out=tmp_path / "run", progress=False, **given)
    assert "\n" not in str(refused.value)


def test_damaged_times_are_refused_with_the_way_on(model: Path, task: Path, tmp_path: Path) -> None:
    done = asked(model, task, tmp_path / "run", remove="2", measured=0)
    assert StepTimes.model_validate_json((done.folder / "times.json").read_text()).where == done.result.times
    (done.folder / "times.json").write_text('{"batch": 1}')
    with pytest.raises(InputError, match=r"times.json is damaged; remove it"):
        asked(model, task, tmp_path / "run", remove="2", measured=0)


def test_a_ranked_task_has_nothing_to_draft(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "choices": ["a", "b"], "answer": "a", "grade": "choice"} for n in range(40)]
    (tmp_path / "ranked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="is not written"):
        layercut.draft(str(model), tasks=[str(tmp_path / "ranked.jsonl")], out=tmp_path / "run", progress=False)


def lines(model: Path, task: Path, out: Path, **more: Any) -> list[str]:
    return list(DraftVerb.of(model=model, tasks=[str(task)], out=out, items=12, **more).rehearse(IO).lines)


def test_a_search_reads_answers_under_many_plans_and_writes_some(model: Path, task: Path, tmp_path: Path) -> None:
    found = "\n".join(lines(model, task, tmp_path / "run"))
    assert (
        "12 items" in found
        and "read under plans, about: 60 plans" in found
        and "written alone and with the draft: 16 items" in found
    )
    assert "timed first" in found and "nothing was written" in found and not (tmp_path / "run").exists()


def test_a_plan_that_is_named_is_read_alone(model: Path, task: Path, tmp_path: Path) -> None:
    found = "\n".join(lines(model, task, tmp_path / "run", remove="1-2", measured=0))
    assert "read under the plan: 1 plan" in found and "with the draft" not in found


def test_what_the_run_would_refuse_is_refused(model: Path, task: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`serve` prompt=90000000"):
        lines(model, task, tmp_path / "run", serve="prompt=90000000")
