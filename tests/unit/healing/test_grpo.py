"""GRPO: TRL's trainer learns from the grades of own answers, and goes on from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from layercut.engine.base import Completion, Decoding, GenerationRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.rows import encode_prompt
from layercut.errors import InputError
from layercut.healing.examples import Data, TrainingExample
from layercut.healing.outline import ProcessGroup, check_method
from layercut.healing.prompt_sources import PromptGroup
from layercut.healing.prompts import NamedPrompt
from layercut.healing.settings import TrainSettings
from layercut.study.file import study_from_dict
from layercut.study.variants import Healer
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Score, Task
from tests.support.engines import completions
from tests.support.loaded import tiny_loaded
from tests.support.tiny import byte_tokenizer

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing.grpo import GrpoTrainer, questions_in
from layercut.healing.sft import last_checkpoint
from tests.support.training import Killed, small_settings, train_tiny

Rule = Callable[[Completion], bool]


def by_first_token(answer: Completion) -> bool:
    return answer.tokens[0] % 2 == 0


class Graders:
    """Stands in for a task: grades by a rule, and keeps what it graded."""

    name = "graders"
    grade_all = Task.grade_all

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.graded: list[Completion] = []

    def grade(self, sample: str, readout: str, answer: Completion) -> Score:
        assert sample == f"item {answer.id}", "graded under the item's own id"
        self.graded.append(answer)
        is_right = self.rule(answer)
        return Score({"right": float(is_right)}, answer.text, "right" if is_right else "wrong")


def prompts_of(rule: Rule, count: int = 10, limit: int = 5) -> PromptGroup:
    asked = [NamedPrompt(str(index), f"{index * 37} is") for index in range(count)]
    samples = {one.id: f"item {one.id}" for one in asked}
    return PromptGroup(asked, cast("Any", Graders(rule)), "short", cast("Any", samples), (), limit)


def settings(**more: Any) -> TrainSettings:
    graded: dict[str, Any] = {"method": "full", "max_steps": 2, "objective": "grpo", "group": 4, "save_every": 99}
    return small_settings(**(graded | more))


def heal(folder, wanted, task, *, num_held_out=0, kill_at=None):
    examples = [TrainingExample(one.id, encode_prompt(byte_tokenizer(), one.prompt), (259,)) for one in task.prompts]
    data, cut = Data(examples[num_held_out:], examples[:num_held_out]), tiny_loaded("llama")

    options = {"trainer": GrpoTrainer, "cut": cut, "questions": questions_in(data, [task], wanted)}
    return train_tiny(cut.model, data, wanted, folder, kill_at, **options)


def test_a_stopped_training_goes_on_from_its_checkpoint(tmp_path):
    task = prompts_of(by_first_token, count=12)
    wanted = settings(method="lora", rank=4, max_steps=4, save_every=2)
    with pytest.raises(Killed):
        heal(tmp_path, wanted, task, num_held_out=2, kill_at=3)
    found = last_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-2"
    trained = heal(tmp_path, wanted, task, num_held_out=2)
    steps = [line for line in trained.curve if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4] and trained.tokens == steps[-1]["tokens"] > 0
    assert all(0 <= line["reward"] <= 1 and 0 < line["rollout_tokens"] <= 5 for line in steps)
    assert {"before", "last", "best"} == trained.held_out.keys()


def test_each_prompt_is_answered_by_its_group(tmp_path):
    task = prompts_of(by_first_token)
    heal(tmp_path, settings(), task)
    graded = [answer.id for answer in cast("Graders", task.task).graded]
    assert len(graded) == 2 * 4 * 4 and {graded.count(name) for name in set(graded)} <= {4, 8}


def test_the_held_out_loss_is_the_share_of_wrong_greedy_answers(tmp_path):
    """Of five questions, whatever the batches are; the greedy answers are those of the plain engine."""
    task = prompts_of(by_first_token)
    trained = heal(tmp_path, settings(max_steps=1), task, num_held_out=5)
    engine = PlainEngine(tiny_loaded("llama"))
    asked = [GenerationRequest(id=one.id, prompt=one.prompt, max_new_tokens=5) for one in task.prompts[:5]]
    plan = CutPlan(num_layers=engine.num_layers)
    answers = [answer for batch in completions(engine, asked, plan, Decoding()) for answer in batch]
    wrong = sum(not by_first_token(answer) for answer in answers) / 5
    assert trained.held_out["before"] == pytest.approx(wrong)


def test_answers_have_the_lowest_of_three_limits():
    task = prompts_of(by_first_token, limit=12)
    examples = [TrainingExample("3", tuple(range(30)), (259,))]
    for more, limit in (({}, 12), ({"rollout_max": 7}, 7), ({"max_length": 34}, 4)):
        (question,) = questions_in(Data(examples, []), [task], settings(batch_size=1, micro_batch=1, **more)).values()
        assert (question.request.max_new_tokens, question.request.prompt) == (limit, "111 is")


def test_too_few_prompts_prompts_without_a_grader_and_several_processes_are_refused(tmp_path):
    with pytest.raises(InputError, match="takes 4 prompts a step, not 3"):
        heal(tmp_path, settings(), prompts_of(by_first_token, count=3))
    (tmp_path / "p.txt").write_text("Say something")
    arm = {"name": "graded", "prompts": str(tmp_path / "p.txt"), "objective": "grpo"}
    study = study_from_dict({"model": "m", "out": "runs/x", "tasks": ["copy"], "plans": {"a": "1"}, "healing": [arm]})
    healer = Healer(study.healing[0], tmp_path, "cut+arm", study.model, study.tasks, 0)
    with pytest.raises(InputError, match="prompts whose answers"):
        healer.check()
    with pytest.raises(InputError, match="2 were launched"):
        check_method(settings(), ProcessGroup(0, 2))
    with pytest.raises(InputError, match="method seam trains nothing"):
        settings(method="seam")
    with pytest.raises(InputError, match="group 1 is too small"):
        settings(group=1)


def test_rewards_rise(tmp_path):
    """An answer is right if it begins with a small letter: 26 of 260 tokens."""
    task = prompts_of(lambda answer: answer.text[:1].islower(), limit=1, count=8)
    wanted = settings(max_steps=16, batch_size=8, micro_batch=8, group=8, learning_rate=1e-2)
    trained = heal(tmp_path, wanted, task)
    rewards = [line["reward"] for line in trained.curve]
    assert sum(rewards[:4]) / 4 < 0.3 and sum(rewards[-4:]) / 4 > 0.7, rewards
