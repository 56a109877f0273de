"""Guard tasks: training stops where the model answers them worse than before, and the weights are of a step before."""

from __future__ import annotations

import doctest
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from layercut.engine.base import Completion, Decoding, GenerationRequest, Likelihoods
from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.evidence import paired
from layercut.healing.guard import (
    Guard,
    GuardTask,
    broken,
    compared,
    guard_tasks,
    rows_of,
    trained_entry,
)
from layercut.healing.prompt_sources import PromptGroup, PromptSource, task_prompts
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.runs import healing
from layercut.runs.healing import GUARD, guard_lines
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Sample, Score, Split, Task
from tests.support.healing import tiny_data
from tests.support.loaded import tiny_loaded
from tests.support.tiny import byte_tokenizer

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing.heal import check_method
from layercut.healing.process_group import ProcessGroup
from layercut.healing.sft import Trained, train
from layercut.healing.trainable import make_trainable

DATA = tiny_data(24)
NUM_ITEMS = 12


class Repeat(Task):
    """Right is what ``gold`` says, in four new tokens."""

    name, version, readouts = "repeat", 1, ("short",)

    def __init__(self, gold: Sequence[str]) -> None:
        self._gold = gold

    def settings(self) -> Mapping[str, Any]:
        return {"version": self.version}

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        made = [Sample(id=f"item-{at}", question=f"say {at * 37}", gold=text) for at, text in enumerate(self._gold)]
        return made[:limit]

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest:
        return GenerationRequest(id=sample.id, prompt=sample.question, max_new_tokens=4, stop=())

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Completion)
        right = answer.text == sample.gold
        return Score({"accuracy": float(right)}, answer.text, "right" if right else "wrong")

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {"accuracy": 0.0}


@cache
def of_the_pruned_model() -> GuardTask:
    """A task that the tiny model answers rightly throughout: its own answers are the right ones."""
    task, cut = Repeat([""] * NUM_ITEMS), tiny_loaded("llama")
    engine = PlainEngine(cut, batch_size=NUM_ITEMS)
    requests = [task.request(one, "short") for one in task.samples("selection", None)]
    batches = engine.completions(requests, CutPlan(num_layers=engine.num_layers), Decoding())
    gold = {answer.id: answer.text for batch in batches for answer in batch}
    task = Repeat([gold[f"item-{at}"] for at in range(NUM_ITEMS)])
    return GuardTask(task, task.samples("selection", None))


def row(before: Sequence[float], after: Sequence[float], clusters: Sequence[str] | None = None) -> dict[str, Any]:
    return compared(GuardTask(Repeat([""] * len(before)), []), before, after, clusters)


@pytest.mark.parametrize(
    ("lost", "gained", "expected", "p_value"),
    [(4, 0, False, 1 / 16), (5, 0, True, 1 / 32), (7, 1, True, 9 / 256), (7, 2, False, 46 / 512), (0, 8, False, 1.0)],
)
def test_right_and_wrong_are_compared_by_a_one_sided_exact_test(
    lost: int, gained: int, expected: bool, p_value: float
) -> None:
    """By hand: the upper tail of the binomial distribution of lost among lost + gained items."""
    before, after = [1.0] * lost + [0.0] * gained + [1.0] * 5, [0.0] * lost + [1.0] * gained + [1.0] * 5
    found = row(before, after)
    assert found["broken"] is expected and found["p_value"] == pytest.approx(p_value)
    assert (found["lost"], found["gained"], found["n"]) == (lost, gained, lost + gained + 5)
    assert found["after"]["low"] <= found["after"]["value"] <= found["after"]["high"]


def test_other_metrics_and_shared_contexts_are_compared_by_the_interval() -> None:
    scores = [0.5 + at / 40 for at in range(16)]
    lower = row(scores, [score - 0.1 - at / 100 for at, score in enumerate(scores)])
    assert lower["broken"] and lower["difference"]["high"] < 0 and "p_value" not in lower
    assert not row(scores, [score + 0.2 * (-1) ** at for at, score in enumerate(scores)])["broken"]
    # 8 lost of 32 are significant alone, but not where they are one context of eight.
    before, after = [1.0] * 32, [0.0] * 4 + [1.0] * 28
    shared = [str(at // 4) for at in range(32)]
    assert row(before, [0.0] * 5 + [1.0] * 27)["broken"] and not row(before, after, shared)["broken"]


def settings(**more: Any) -> TrainSettings:
    small: dict[str, Any] = {"rank": 4, "alpha": 8, "max_steps": 6, "save_every": 1, "batch_size": 4, "micro_batch": 4}
    return TrainSettings(**(small | {"warmup_steps": 0, "patience": 0, "guard": ("repeat",)} | more))


class Killed(BaseException):
    pass


def heal(folder: Path, wanted: TrainSettings, guard: Any = None, *, kill_at: int | None = None) -> Trained:
    cut = tiny_loaded("llama")

    def on_progress(done: int, total: int) -> None:
        if done == kill_at:
            raise Killed

    model = make_trainable(cut.model, wanted)
    guard = guard or Guard([of_the_pruned_model()], cut)
    return train(model, byte_tokenizer(), DATA, wanted, folder, guard=guard, on_progress=on_progress)


def unseconded(trained: Trained) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in trained.curve]


FORGETTING = {"method": "full", "learning_rate": 1.5e-4, "max_steps": 20}
"""Training that leaves the guard as it is for some steps, and breaks it then."""


def test_training_stops_where_a_guard_breaks_and_keeps_weights_that_passed(tmp_path: Path) -> None:
    trained = heal(tmp_path, settings(**FORGETTING))
    asked = {line["step"]: line[GUARD] for line in trained.curve if GUARD in line}
    assert list(asked) == list(range(trained.steps + 1)) and trained.stopped_early
    assert [bool(broken(rows)) for rows in asked.values()] == [False] * trained.steps + [True]
    assert asked[0][0]["before"]["value"] == asked[0][0]["after"]["value"] == 1.0, "the pruned model's own answers"
    losses = {line["step"]: line["held_out_loss"] for line in trained.curve if "held_out_loss" in line}
    best = min(range(1, trained.steps), key=lambda step: losses[step])
    assert trained.kept_step == best and trained.held_out["best"] == losses[best]
    from transformers import AutoModelForCausalLM

    kept = AutoModelForCausalLM.from_pretrained(trained.final)
    seen = AutoModelForCausalLM.from_pretrained(tmp_path / f"checkpoint-{best}")
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), seen.parameters(), strict=True))
    # The weights that are kept answer as they did in training.
    again = rows_of([of_the_pruned_model()], kept, tiny_loaded("llama"), asked[0])
    assert again[0]["values"] == asked[best][0]["values"] and not broken(again)
    entry = trained_entry(trained.curve, best)
    assert [one["step"] for one in entry[GUARD]["rows"]] == [best, trained.steps]
    *rows, last = guard_lines(entry)
    assert rows[1].startswith(f"guard repeat (short, n={NUM_ITEMS}): 100 % [") and rows[1].endswith(", broken")
    assert f"stopped at step {trained.steps}," in last and last.endswith(f"of step {best}")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_stopped_and_resumed_has_the_answers_of_a_run_through_and_asks_none_again(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings(**(FORGETTING | {"method": method, "learning_rate": 1.5e-4 if method == "full" else 7e-4}))
    whole = heal(tmp_path / "whole", wanted)
    assert 3 < whole.steps < 20 and whole.kept_step, "else nothing is resumed"
    with pytest.raises(Killed):
        heal(tmp_path / "killed", wanted, kill_at=3)
    asked: list[int] = []
    rows = Guard.rows
    monkeypatch.setattr(Guard, "rows", lambda *given: asked.append(len(given[2])) or rows(*given))
    resumed = heal(tmp_path / "killed", wanted)
    assert unseconded(resumed) == unseconded(whole) and resumed.kept_step == whole.kept_step
    assert len(asked) == whole.steps - 2, "the evaluations behind the checkpoint of step 2"
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert (resumed.final / name).read_bytes() == (whole.final / name).read_bytes()
    # Killed between the last evaluation and the final weights: the same again.
    (resumed.final / "trained.json").unlink()
    assert unseconded(heal(tmp_path / "killed", wanted)) == unseconded(whole)


class Scripted:
    """A guard that is broken from a step on."""

    def __init__(self, first: int) -> None:
        self._first, self._asked = first, 0

    def rows(self, model: Any, curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        found = row([1.0] * 8, [float(self._asked < self._first)] * 8)
        self._asked += 1
        return [found]


def test_a_guard_that_breaks_at_once_leaves_nothing_to_keep(tmp_path: Path) -> None:
    trained = heal(tmp_path, settings(), Scripted(first=1))
    assert (trained.steps, trained.kept_step, trained.stopped_early) == (1, 0, True)
    assert set(trained.held_out) == {"before", "last"}
    assert "unhealed" in guard_lines(trained_entry(trained.curve, 0))[-1]


def test_a_guard_that_holds_changes_no_loss_and_the_last_step_is_guarded_too(tmp_path: Path) -> None:
    wanted = settings(save_every=4)
    trained = heal(tmp_path / "guarded", wanted, Scripted(first=99))
    assert [line["step"] for line in trained.curve if GUARD in line] == [0, 4, 6]
    assert "no guard was broken" in guard_lines(trained_entry(trained.curve, trained.kept_step or 0))[-1]
    free = heal(tmp_path / "free", wanted.replace(guard=()), Scripted(first=99))
    assert [line["loss"] for line in trained.curve if "loss" in line] == [
        line["loss"] for line in free.curve if "loss" in line
    ]
    assert free.kept_step is None
    assert json.loads((tmp_path / "guarded" / "loss.jsonl").read_text().splitlines()[0])[GUARD][0]["n"] == 8


def test_guard_items_are_selection_items_that_are_no_prompts() -> None:
    task = load_task("arithmetic")
    known = [sample.id for sample in task.samples("selection", 30)]
    found = task_prompts(task, limit=10)
    source = PromptSource(parts=(PromptGroup(found.answered, found),))
    (guard,) = guard_tasks(TrainSettings(guard=("arithmetic",), guard_items=20), {}, source)
    assert guard.ids == known[10:] and guard.readout == task.readouts[0]
    assert set(guard.ids).isdisjoint(sample.id for sample in task.samples("report", None))


def test_guards_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown task 'bracket'.*brackets"):
        guard_tasks(TrainSettings(guard=("bracket",)), {}, PromptSource())
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"say {at}", "answer": "a", "grade": "exact"} for at in range(12)]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = task_prompts(load_task(str(file)))
    source = PromptSource(parts=(PromptGroup(found.answered, found),))
    with pytest.raises(InputError, match="no selection items"):
        guard_tasks(TrainSettings(guard=(str(file),)), {}, source)
    with pytest.raises(InputError, match="held_out is 0"):
        TrainSettings(guard=("copy",), held_out=0)
    with pytest.raises(InputError, match="guard_items 7"):
        TrainSettings(guard_items=7)
    with pytest.raises(InputError, match="leave out one"):
        HealSettings(train=TrainSettings(guard=("copy",)), keep_adapter=True)
    with pytest.raises(InputError, match="leave `guard` out"):
        check_method(TrainSettings(guard=("copy",)), ProcessGroup(0, 2))


def test_the_examples_in_the_docstrings_hold() -> None:
    assert [doctest.testmod(one).failed for one in (healing, paired)] == [0, 0]
