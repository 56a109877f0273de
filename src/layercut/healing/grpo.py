"""GRPO by TRL: reinforcement learning from the task's grades of the pruned model's own answers, without a teacher.

Group relative policy optimization (DeepSeekMath, arXiv:2402.03300): the model answers each prompt several times, and an
answer counts by how much better its grade is than those of the others. The loss is the default of TRL's GRPOTrainer.
The answers are written by the fastest engine that runs the model, within the task's limits and stop strings. TRL's
trainer resumes from its own checkpoint, and the result may then differ from that of a run without a stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

from datasets import Dataset
from transformers.trainer_utils import EvalLoopOutput
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

from layercut.engine.base import Completion, Decoding, GenerationRequest
from layercut.engine.rows import Tokens
from layercut.errors import InputError
from layercut.healing.examples import Data, TrainingExample
from layercut.healing.on_policy import BATCH, answering
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.settings import TrainSettings
from layercut.healing.sft import Watched
from layercut.models.loading import LoadedModel
from layercut.surgery.plan import CutPlan


class Question(NamedTuple):
    """A prompt, its tokens and its grader."""

    task: TaskPrompts
    request: GenerationRequest
    tokens: Tokens


def rewards_of(questions: Sequence[Question], answers: Sequence[Completion]) -> list[float]:
    """1 for each right answer, else 0. Programs of a task run side by side."""
    rewards = [0.0] * len(answers)
    for task in {id(question.task): question.task for question in questions}.values():
        own = [place for place, question in enumerate(questions) if question.task is task]
        right = task.are_right([replace(answers[place], id=questions[place].request.id) for place in own])
        for place, is_right in zip(own, right, strict=True):
            rewards[place] = float(is_right)
    return rewards


def questions_in(data: Data, tasks: Sequence[TaskPrompts], settings: TrainSettings) -> dict[str, Question]:
    """The questions of all examples, by example. An answer has at most the tokens that ``max_length`` leaves.

    Raises InputError for fewer prompts than a step takes.
    """
    if len(data.train) < settings.batch_size:
        raise InputError(
            f"a step of grpo takes {settings.batch_size} prompts, and there are {len(data.train)} to train on; give "
            "more prompts, or a lower `batch_size`."
        )
    known = {one.prompt.id: (task, one.prompt) for task in tasks for one in task.answered}
    questions = {}
    for example in (*data.train, *data.held_out):
        task, prompt = known[example.id]
        limit = min(settings.rollout_max, settings.max_length - len(example.prompt))
        questions[example.id] = Question(task, task.request(prompt, limit=limit), example.prompt)
    return questions


class GrpoTrainer(Watched, GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer on the grades of tasks. Held-out questions are answered greedily."""

    def __init__(self, *args: Any, cut: LoadedModel, questions: Mapping[str, Question], **kwargs: Any) -> None:
        """Args beside those of Watched; ``cut``: the model in training, ``questions``: by example."""
        self._cut, self._questions = cut, questions
        super().__init__(*args, reward_funcs=lambda rewards, **_: rewards, rollout_func=self._roll_out, **kwargs)

    @staticmethod
    def arguments(given: dict[str, Any], settings: TrainSettings) -> GRPOConfig:
        """The arguments of TRL's trainer. Its batches are of answers, those of the settings of prompts."""
        given["gradient_accumulation_steps"] *= settings.group
        return GRPOConfig(
            **given, num_generations=settings.group, num_generations_eval=1, max_completion_length=settings.rollout_max
        )

    @staticmethod
    def dataset(examples: Sequence[TrainingExample]) -> Dataset:
        """The names of the questions, as TRL reads them."""
        return Dataset.from_dict({"prompt": [example.id for example in examples]})

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The share of the data's questions that are answered wrong, greedily."""
        names = dataloader.dataset["prompt"]
        rewards = self._rewarded(names, Decoding())["rewards"]
        metrics, nothing = {f"{metric_key_prefix}_loss": 1 - fmean(rewards)}, ()
        return EvalLoopOutput(predictions=nothing, label_ids=None, metrics=metrics, num_samples=len(names))  # type: ignore[arg-type]

    def _roll_out(self, names: Sequence[str], trainer: Any) -> dict[str, Any]:
        return self._rewarded(names, Decoding(temperature=1.0, seed=self.args.seed))

    def _rewarded(self, names: Sequence[str], decoding: Decoding) -> dict[str, Any]:
        """Tokens and rewards of the current weights' answers to questions, which are named once for each answer."""
        questions = [self._questions[name] for name in names]
        keys = [f"{self.state.global_step} {name}#{place}" for place, name in enumerate(names)]
        with answering(self.accelerator.unwrap_model(self.model), self._cut, BATCH) as engine:
            requests = [replace(question.request, id=key) for question, key in zip(questions, keys, strict=True)]
            replies = engine.ask(requests, [CutPlan(num_layers=engine.num_layers)], decoding)
            found = {answer.id: answer for _, batch in replies for answer in batch}
        answers = [found[key] for key in keys]
        return {
            "prompt_ids": [list(question.tokens) for question in questions],
            "completion_ids": [list(answer.tokens) for answer in answers],
            "logprobs": None,
            "rewards": rewards_of(questions, answers),
        }
