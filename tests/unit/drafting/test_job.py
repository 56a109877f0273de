"""``draft`` on a tiny model two of whose layers do nothing: it finds them, and resumes without asking again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import layercut
from layercut.cli.options import IO
from layercut.drafting import job
from layercut.drafting.assisted import MeasuredAnswer
from layercut.drafting.search import StepTimes, WrittenAnswer
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.models.loading import load_model
from layercut.pruning.speed import TimeParts
from layercut.runs.draft import DRAFT, DraftResult
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from layercut.verbs.prune import DraftVerb
from tests.support.pruning import SPARE, spare_model, written_file
from tests.support.tiny import NUM_LAYERS

CHEAP_CHECKS = StepTimes(
    prompt=16,
    check=(1.0,) * 9,
    step=TimeParts(fixed=0.0, layer=0.2, channels=0.8),
    read=TimeParts(fixed=0.0, layer=0.0, channels=1.0),
)
"""Of a machine that checks nine tokens in the time of one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return spare_model(tmp_path_factory.mktemp("models") / "spare")


@pytest.fixture(scope="module")
def task(model, tmp_path_factory):
    return written_file(tmp_path_factory.mktemp("data") / "mine.jsonl", model)


@pytest.fixture
def cheap_checks(monkeypatch):
    """Steps take what they would on a GPU, and the draft makes answers about twice as fast."""
    own = job.write_twice

    def timed(*given: Any) -> Iterator[MeasuredAnswer]:
        for number, answer in enumerate(own(*given)):
            yield answer._replace(plain=2.0, drafted=0.75 + number % 2 / 2)

    monkeypatch.setattr(job, "measure_times", lambda *_: CHEAP_CHECKS)
    monkeypatch.setattr(job, "write_twice", timed)


def asked(model: Path, task: Path, out: Path, **more: Any) -> Any:
    return layercut.draft(str(model), tasks=[str(task)], out=out, items=12, progress=False, **more)


@pytest.mark.usefixtures("cheap_checks")
def test_layers_that_do_nothing_are_a_perfect_draft(model, task, tmp_path):
    done = asked(model, task, tmp_path / "run")
    result = done.result
    assert set(SPARE) <= set(result.chosen.removed)
    assert result.verdict == "faster" and result.chosen.forecast > 1 and result.chosen.agrees > 0.5
    assert (result.measured.speedup.value, result.measured.speedup.n) == (2.0, 12)
    checkpoint = load_model(str(done.folder / result.checkpoint))
    assert checkpoint.num_layers == NUM_LAYERS - len(result.chosen.removed)
    plan = CutPlan.load(done.folder / "plan.json")
    assert plan.removed and set(plan.removed) == set(result.chosen.removed)
    with bypass(load_model(str(model)).model, plan):
        pass
    assert "speculative-config" in result.commands["vllm"]


def test_a_given_plan_is_measured_and_equal(model, task, tmp_path):
    result = asked(model, task, tmp_path / "run", remove=",".join(map(str, SPARE)), window=4).result
    assert (result.measured.speedup.n, result.measured.num_same) == (12, 12)
    assert result.chosen.agrees == 1 and result.measured.accepted.value > 0.5
    assert result.tried == 0 and len(result.plans) == 1 and len(result.tasks) == 1
    assert result.tasks[0].speedup == result.measured.speedup and result.tasks[0].tokens == result.measured.tokens


@pytest.mark.parametrize(
    ("drafted", "verdict", "has_checkpoint"),
    [([1.0, 1.1], "faster", True), ([1.0, 3.1], "undecided", True), ([2.6, 3.0], "slower", False)],
)
def test_measured_answers_alone_decide(model, task, tmp_path, monkeypatch, drafted, verdict, has_checkpoint):
    monkeypatch.setattr(job, "measure_times", lambda *_: CHEAP_CHECKS)

    def timed(_: Any, view: Any, answers: Sequence[WrittenAnswer], window: int) -> Iterator[MeasuredAnswer]:
        for number, answer in enumerate(answers):
            yield MeasuredAnswer(answer.id, answer.task, 10, 2.0, drafted[number % 2] - 0.2, 4, 8, number > 0)

    monkeypatch.setattr(job, "write_twice", timed)
    run = DraftVerb.of(model=model, tasks=[str(task)], out=tmp_path / "run", items=12, remove=str(SPARE[0]))
    done = run.run(IO)
    measured = done.result.measured
    assert measured.speedup.value == pytest.approx(24 / (6 * sum(drafted) - 12 * 0.2))
    assert (measured.accepted.value, measured.per_round.value, measured.num_same) == (6 / 8, 2.5, 11)
    assert done.result.verdict == verdict and (done.folder / "model").exists() == has_checkpoint
    shown = run.show(done, IO)
    assert shown.failed == (verdict == "slower") and ("view = " in "\n".join(shown.lines)) == has_checkpoint


def test_the_same_call_asks_and_times_nothing_again(model, task, tmp_path, monkeypatch):
    first = asked(model, task, tmp_path / "run", window=2).result
    (tmp_path / "run" / DRAFT).unlink()

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    for name in ("ask", "compare"):
        monkeypatch.setattr(SharedEngine, name, refuse)
    for name in ("write_twice", "measure_times"):
        monkeypatch.setattr(job, name, refuse)
    again = asked(model, task, tmp_path / "run", window=2).result
    differ = {name for name in DraftResult.model_fields if getattr(first, name) != getattr(again, name)}
    assert differ <= {"seconds"}


@pytest.mark.usefixtures("cheap_checks")
def test_what_was_killed_goes_on_with_the_same_result(model, task, tmp_path, monkeypatch):
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
    assert resumed.measured.tokens == whole.measured.tokens and resumed.measured.num_same == whole.measured.num_same


def test_answers_that_were_written_before_a_kill_stay(model, task, tmp_path, monkeypatch):
    own, numbers, measured = job.write_twice, list[int](), list[MeasuredAnswer]()

    def stops(*given: Any) -> Iterator[MeasuredAnswer]:
        numbers.append(len(given[2]))
        for answer in own(*given):
            if len(measured) == 5 and len(numbers) == 1:
                raise KeyboardInterrupt
            measured.append(answer)
            yield answer

    monkeypatch.setattr(job, "write_twice", stops)
    with pytest.raises(KeyboardInterrupt):
        asked(model, task, tmp_path / "run", remove=str(SPARE[0]))
    result = asked(model, task, tmp_path / "run", remove=str(SPARE[0])).result
    assert numbers == [12, 7] and len({answer.id for answer in measured}) == 12
    plain, drafted = (sum(getattr(answer, name) for answer in measured) for name in ("plain", "drafted"))
    assert result.measured.speedup.value == pytest.approx(plain / drafted)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tasks": None}, "neither was given"),
        ({"use": "math"}, "one of the two"),
        ({"engine": "vllm"}, "model in memory"),
        ({"remove": "3 layers"}, "3 layers"),
        ({"remove": "99"}, "layer 99"),
        ({"window": 0}, "window"),
        ({"measured": 8}, "unknown argument of draft 'measured'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model, task, tmp_path, more, said):
    given = {"tasks": [str(task)], **more}
    with pytest.raises(InputError, match=said) as refused:
        layercut.draft(str(model), out=tmp_path / "run", progress=False, **given)
    assert "\n" not in str(refused.value)


def test_a_ranked_task_has_nothing_to_draft(model, tmp_path):
    rows = [{"prompt": f"q{n}", "choices": ["a", "b"], "answer": "a", "grade": "choice"} for n in range(40)]
    (tmp_path / "ranked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="is not written"):
        layercut.draft(str(model), tasks=[str(tmp_path / "ranked.jsonl")], out=tmp_path / "run", progress=False)
