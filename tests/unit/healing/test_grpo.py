"""GRPO: TRL's loss on graded groups of own answers, whatever the micro batches are and wherever it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from layercut.engine.base import Completion
from layercut.engine.plain import PlainEngine
from layercut.engine.prompts import encode_prompt
from layercut.errors import InputError
from layercut.healing import rollouts
from layercut.healing.examples import Data, TrainingExample
from layercut.healing.heal import check_method
from layercut.healing.process_group import ProcessGroup
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.prompts import NamedPrompt, PromptWithAnswer
from layercut.healing.settings import TrainSettings
from layercut.study.file import study_from_dict
from layercut.study.healing_arms import Healer
from layercut.tasks.base import Score
from tests.support.loaded import tiny_loaded
from tests.support.tiny import byte_tokenizer, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing.examples import rows
from layercut.healing.grpo import GroupAnswer, GrpoTrainer, advantages, questions_in
from layercut.healing.sft import Trained, last_checkpoint, train
from layercut.healing.trainable import make_trainable

Rule = Callable[[Completion], bool]
VOWELS = tuple("aeiou")


class Killed(BaseException):
    pass


def by_first_token(answer: Completion) -> bool:
    return answer.tokens[0] % 2 == 0


class Graders:
    """Stands in for a task: grades by a rule, and keeps what it graded."""

    name = "graders"

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.graded: list[Completion] = []

    def grade(self, sample: str, readout: str, answer: Completion) -> Score:
        assert sample == f"item {answer.id}", "graded under the item's own id"
        self.graded.append(answer)
        is_right = self.rule(answer)
        return Score({"right": float(is_right)}, answer.text, "right" if is_right else "wrong")


def prompts_of(rule: Rule, count: int = 10, limit: int = 5, stop: tuple[str, ...] = ()) -> TaskPrompts:
    asked = [PromptWithAnswer(NamedPrompt(str(index), f"{index * 37} is"), "") for index in range(count)]
    samples = {one.prompt.id: f"item {one.prompt.id}" for one in asked}
    return TaskPrompts(cast("Any", Graders(rule)), "short", cast("Any", samples), asked, stop, limit)


def settings(**more: Any) -> TrainSettings:
    small: dict[str, Any] = {"method": "full", "max_steps": 2, "batch_size": 4, "micro_batch": 2, "warmup_steps": 0}
    small |= {"objective": "grpo", "group": 4, "learning_rate": 1e-3, "patience": 0, "save_every": 99}
    return TrainSettings(**(small | more))


def heal(
    folder: Path,
    wanted: TrainSettings,
    task: TaskPrompts,
    *,
    num_held_out: int = 0,
    kind: type[GrpoTrainer] = GrpoTrainer,
    kill_at: int | None = None,
) -> Trained:
    examples = [
        TrainingExample(one.prompt.id, encode_prompt(byte_tokenizer(), one.prompt.prompt), (259,))
        for one in task.answered
    ]
    data, cut = Data(examples[num_held_out:], examples[:num_held_out]), tiny_loaded("llama")

    def on_progress(done: int, total: int) -> None:
        if done == kill_at:
            raise Killed

    return train(
        make_trainable(cut.model, wanted),
        byte_tokenizer(),
        data,
        wanted,
        folder,
        on_progress=on_progress,
        trainer=kind,
        cut=cut,
        questions=questions_in(data, [task], wanted),
        group=wanted.group,
    )


class Watched(GrpoTrainer):
    """Keeps what a step was: loss, gradients, weights before it, answers, and the batches that were read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        Watched.last = self
        self.weights: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []
        self.gradients: list[dict[str, torch.Tensor | None]] = []
        self.answers: list[GroupAnswer] = []
        self.batches: list[dict[str, Any]] = []

    last: Watched

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        is_first = len(self._coming) == len(self._in_step)
        if is_first:
            self.weights.append({name: one.detach().clone() for name, one in model.named_parameters()})
            self.losses.append(0.0)
            self.gradients.append({})
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.losses[-1] += loss.item()
        self.gradients[-1] = {
            name: None if one.grad is None else one.grad.clone() for name, one in model.named_parameters()
        }
        self.answers = [one for prompt in self._in_step for one in self._answers[prompt]]
        return loss

    def _losses(self, model: Any, inputs: Any) -> torch.Tensor:
        self.batches.append(inputs)
        return super()._losses(model, inputs)


@pytest.mark.parametrize("rewards", [[1, 0, 0, 0], [1, 1, 0, 1, 0, 0, 1, 1], [0.0, 1.0]])
def test_advantages_are_rewards_in_units_of_their_group(rewards: list[float]) -> None:
    wanted = torch.tensor(rewards, dtype=torch.float64)
    wanted = (wanted - wanted.mean()) / (wanted.std() + 1e-4)
    assert advantages(rewards) == pytest.approx(wanted.tolist())
    assert advantages([1.0] * len(rewards)) == advantages([0.0] * len(rewards)) == [0.0] * len(rewards)


def by_trl(folder: Path, graded: list[GroupAnswer]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of TRL's own trainer on given answers and advantages."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

    config = GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=4, num_generations=4, steps_per_generation=1,
        beta=0.0, loss_type="dapo", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "a"}])
    trainer = GRPOTrainer(
        model=tiny_model("llama"),
        reward_funcs=lambda **_: [0.0],
        args=config,
        train_dataset=data,
        processing_class=byte_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    examples = [one.example for one in graded]
    before, after = (max(len(getattr(one, part)) for one in examples) for part in ("prompt", "completion"))
    made: dict[str, list[list[int]]] = {name: [] for name in ("prompt", "prompt_m", "completion", "completion_m")}
    for one in examples:
        left, right = before - len(one.prompt), after - len(one.completion)
        made["prompt"].append([256] * left + list(one.prompt))
        made["prompt_m"].append([0] * left + [1] * len(one.prompt))
        made["completion"].append(list(one.completion) + [256] * right)
        made["completion_m"].append([1] * len(one.completion) + [0] * right)
    names = dict(zip(made, ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"), strict=True))
    inputs: dict[str, Any] = {names[name]: torch.tensor(values) for name, values in made.items()}
    inputs["advantages"] = torch.tensor([one.advantage for one in graded])
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    model = trainer.model.train()
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    return loss.item(), {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.parametrize("more", [{"micro_batch": 1}, {"micro_batch": 4}, {"micro_batch": 2, "packing": True}])
def test_loss_and_gradients_of_a_step_are_those_of_trl(more: dict[str, Any], tmp_path: Path) -> None:
    task = prompts_of(lambda answer: by_first_token(answer) and int(answer.id) % 3 > 0, stop=VOWELS)
    heal(tmp_path / "ours", settings(max_steps=1, **more), task, kind=Watched)
    step = Watched.last
    advantage = [one.advantage for one in step.answers]
    assert len(advantage) == 16 and 0.0 in advantage and len(set(advantage)) > 2, "some groups are all alike"
    assert {len(one.example.completion) for one in step.answers} > {5}, "some answers are shorter"
    loss, gradients = by_trl(tmp_path / "trl", step.answers)
    assert step.losses == [pytest.approx(loss, rel=1e-5)] and abs(loss) > 1e-3
    for name, wanted in gradients.items():
        found = step.gradients[0][name]
        tolerance = 1e-5 * wanted.abs().max().item()
        assert found is not None and torch.allclose(found, wanted, rtol=1e-3, atol=tolerance), name
    most = max(len(rows(batch)) for batch in step.batches)
    assert most == more["micro_batch"], "no pass reads more rows than a micro batch has"


@pytest.mark.parametrize("engine", ["shared", "plain"])
def test_only_drawn_tokens_are_in_the_loss(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "plain":
        monkeypatch.setattr(rollouts, "fastest_engine", PlainEngine)
    task = prompts_of(by_first_token, limit=12, stop=VOWELS)
    heal(tmp_path, settings(max_steps=1), task, kind=Watched)
    asked = {one.prompt.prompt for one in task.answered}
    graded = {(answer.text, answer.finish_reason) for answer in cast("Graders", task.task).graded}
    read, tokenizer = [row for batch in Watched.last.batches for row in rows(batch)], byte_tokenizer()
    ends = []
    for row in read:
        learned = row.input_ids[row.labels != -100]
        assert tokenizer.decode(row.prompt) in asked
        text, has_end = tokenizer.decode(learned, skip_special_tokens=True), learned[-1] == tokenizer.eos_token_id
        is_stopped = (text[:-1], "stop") in graded and text.endswith(VOWELS)
        is_at_limit = (text, "length") in graded and len(learned) == 12
        assert is_stopped or is_at_limit or ((text, "stop") in graded and has_end)
        ends.append(is_stopped)
    assert any(ends) and not all(ends)


def test_a_step_without_a_difference_moves_nothing(tmp_path: Path) -> None:
    """Neither by the moments of the step before, nor by weight decay."""

    def rule(answer: Completion) -> bool:
        return by_first_token(answer) and len(Watched.last.weights) == 1

    heal(tmp_path, settings(max_steps=3, weight_decay=0.5), prompts_of(rule), kind=Watched)
    first, second, third = Watched.last.weights
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(second[name], third[name]) for name in second)
    end = dict(Watched.last.model.named_parameters())
    assert all(torch.equal(third[name], end[name]) for name in third)
    assert Watched.last.losses[1:] == [0.0, 0.0] and set(Watched.last.gradients[2].values()) == {None}


def test_micro_batches_change_rounding_alone(tmp_path: Path) -> None:
    """The prompts of a step, which are answered together, are the same."""
    found = [
        heal(tmp_path / str(micro), settings(micro_batch=micro, method="lora", dropout=0.0), prompts_of(by_first_token))
        for micro in (1, 4)
    ]
    one, four = (trained.curve for trained in found)
    assert [line["reward"] for line in one] == [line["reward"] for line in four]
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in four], abs=1e-5)
    assert found[0].tokens == found[1].tokens > 0


def test_stopped_and_resumed_has_the_curve_and_weights_of_a_run_through(tmp_path: Path) -> None:
    def task() -> TaskPrompts:
        return prompts_of(by_first_token, count=12)

    wanted = settings(method="lora", rank=4, max_steps=4, save_every=2)  # with dropout
    whole = heal(tmp_path / "whole", wanted, task(), num_held_out=2)
    with pytest.raises(Killed):
        heal(tmp_path / "killed", wanted, task(), num_held_out=2, kill_at=3)
    found = last_checkpoint(tmp_path / "killed")
    assert found is not None and found.name == "checkpoint-2"
    resumed = heal(tmp_path / "killed", wanted, task(), num_held_out=2)

    def outcome(trained: Trained) -> Any:
        curve = [{name: value for name, value in line.items() if name != "seconds"} for line in trained.curve]
        return curve, trained.tokens, (trained.final / "adapter_model.safetensors").read_bytes()

    assert outcome(resumed) == outcome(whole)
    steps = [line for line in whole.curve if "loss" in line]
    assert len(steps) == 4 and all({"reward", "informative", "rollout_tokens"} <= line.keys() for line in steps)


def test_the_held_out_loss_is_the_share_of_wrong_greedy_answers(tmp_path: Path) -> None:
    """Of five questions, whatever the batches are; the greedy answers are those of the plain engine."""
    task = prompts_of(by_first_token)
    trained = heal(tmp_path, settings(max_steps=1), task, num_held_out=5)
    from layercut.engine.base import Decoding
    from layercut.surgery.plan import CutPlan

    engine = PlainEngine(tiny_loaded("llama"))
    asked = [task.request(one.prompt) for one in task.answered[:5]]
    plan = CutPlan(num_layers=engine.num_layers)
    answers = [answer for batch in engine.completions(asked, plan, Decoding()) for answer in batch]
    wrong = sum(not by_first_token(answer) for answer in answers) / 5
    assert trained.held_out["before"] == pytest.approx(wrong)


def test_answers_have_the_lowest_of_three_limits() -> None:
    task = prompts_of(by_first_token, limit=12)
    examples = [TrainingExample("3", tuple(range(30)), (259,))]
    for more, limit in (({}, 12), ({"rollout_max": 7}, 7), ({"max_length": 34}, 4)):
        (question,) = questions_in(Data(examples, []), [task], settings(**more)).values()
        request = question.request("0 3#1")
        assert (request.max_new_tokens, request.id, request.prompt) == (limit, "0 3#1", "111 is")


def test_a_study_refuses_prompts_without_a_grader_and_several_processes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Say something")
    arm = {"name": "graded", "prompts": str(tmp_path / "p.txt"), "objective": "grpo"}
    study = study_from_dict({"model": "m", "out": "runs/x", "tasks": ["copy"], "plans": {"a": "1"}, "healing": [arm]})
    healer = Healer(study.healing[0], study.models[0], study.tasks, 0, folder=tmp_path, answers=tmp_path)
    with pytest.raises(InputError, match="prompts whose answers"):
        healer.check()
    with pytest.raises(InputError, match="2 were launched"):
        check_method(settings(), ProcessGroup(0, 2))
    with pytest.raises(InputError, match="method seam trains nothing"):
        settings(method="seam")
    with pytest.raises(InputError, match="group 1 is too small"):
        settings(group=1)


def test_rewards_rise(tmp_path: Path) -> None:
    """An answer is right if it begins with a small letter: 26 of 260 tokens."""
    task = prompts_of(lambda answer: answer.text[:1].islower(), limit=1, count=8)
    wanted = settings(max_steps=16, batch_size=8, micro_batch=8, group=8, learning_rate=1e-2)
    trained = heal(tmp_path, wanted, task)
    rewards = [line["reward"] for line in trained.curve]
    assert sum(rewards[:4]) / 4 < 0.3 and sum(rewards[-4:]) / 4 > 0.7, rewards


def test_the_entry_of_a_healing_names_the_group_also_where_it_is_the_default() -> None:
    assert TrainSettings(objective="grpo").in_effect()["group"] == 8
    assert "group" not in TrainSettings(group=4).in_effect()
