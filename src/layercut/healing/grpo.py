"""GRPO by TRL (DeepSeekMath, arXiv:2402.03300): reinforcement learning from the task's grades of own answers.

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

from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.rows import Tokens
from layercut.errors import InputError
from layercut.healing.distill import answers_in_training
from layercut.healing.examples import Data, TrainingExample
from layercut.healing.prompt_sources import PromptGroup
from layercut.healing.settings import TrainSettings
from layercut.healing.sft import Watched
from layercut.models.loading import LoadedModel

BATCH = 64  # questions that are answered at once


class Question(NamedTuple):
    """A prompt, its tokens and its grader."""

    task: PromptGroup
    request: GenerationRequest
    tokens: Tokens


def questions_in(data: Data, tasks: Sequence[PromptGroup], settings: TrainSettings) -> dict[str, Question]:
    """The questions of all examples, by example; InputError for fewer prompts than a step takes."""
    if len(data.train) < settings.batch_size:
        raise InputError(f"grpo takes {settings.batch_size} prompts a step, not {len(data.train)}; lower `batch_size`.")
    known = {prompt.id: (task, prompt) for task in tasks for prompt in task.prompts}
    questions = {}
    for example in (*data.train, *data.held_out):
        task, prompt = known[example.id]
        limit = min(settings.rollout_max, settings.max_length - len(example.prompt))
        request = GenerationRequest(
            id=prompt.id,
            prompt=prompt.prompt,
            begins=task.begins,
            max_new_tokens=min(limit, task.max_new_tokens),
            stop=task.stop,
        )
        questions[example.id] = Question(task, request, example.prompt)
    return questions


class GrpoTrainer(Watched, GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer on the grades of tasks. Held-out questions are answered greedily."""

    def __init__(self, *args: Any, cut: LoadedModel, questions: Mapping[str, Question], **kwargs: Any) -> None:
        """Args beside those of Watched; ``cut``: the model in training, ``questions``: by example."""
        self._cut, self._questions = cut, questions
        super().__init__(*args, reward_funcs=lambda rewards, **_: rewards, rollout_func=self._roll_out, **kwargs)

    @classmethod
    def options(cls, **material: Any) -> dict[str, Any]:
        """See HealingTrainer."""
        questions = questions_in(material["data"], material["tasks"], material["settings"])
        return {"cut": material["cut"], "questions": questions}

    @staticmethod
    def arguments(shared: dict[str, Any], settings: TrainSettings) -> GRPOConfig:
        """The arguments of TRL's trainer. Its batches are of answers, those of the settings of prompts."""
        shared["gradient_accumulation_steps"] *= settings.group
        return GRPOConfig(
            **shared, num_generations=settings.group, num_generations_eval=1, max_completion_length=settings.rollout_max
        )

    @staticmethod
    def dataset(examples: Sequence[TrainingExample]) -> Dataset:
        """The names of the questions, as TRL reads them."""
        return Dataset.from_dict({"prompt": [example.id for example in examples]})

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The share of the data's questions that are answered wrong, greedily."""
        names = dataloader.dataset["prompt"]
        metrics = {f"{metric_key_prefix}_loss": 1 - fmean(self._rewarded(names, Decoding())["rewards"])}
        return EvalLoopOutput(predictions=(), label_ids=None, metrics=metrics, num_samples=len(names))  # type: ignore[arg-type]

    def _roll_out(self, names: Sequence[str], trainer: Any) -> dict[str, Any]:
        return self._rewarded(names, Decoding(temperature=1.0, seed=self.args.seed))

    def _rewarded(self, names: Sequence[str], decoding: Decoding) -> dict[str, Any]:
        """Tokens and rewards (1 or 0) of the current weights' answers to questions, named once for each answer."""
        keys = {f"{self.state.global_step} {name}#{place}": self._questions[name] for place, name in enumerate(names)}
        requests = [replace(question.request, id=key) for key, question in keys.items()]
        learner = self.accelerator.unwrap_model(self.model)
        answers = {answer.id: answer for answer in answers_in_training(learner, self._cut, BATCH, requests, decoding)}
        rewards: dict[str, float] = {}
        for task in {id(question.task): question.task for question in keys.values()}.values():
            own = [key for key, question in keys.items() if question.task is task]
            right = task.are_right([replace(answers[key], id=keys[key].request.id) for key in own])
            rewards |= dict(zip(own, map(float, right), strict=True))
        return {
            "prompt_ids": [list(question.tokens) for question in keys.values()],
            "completion_ids": [list(answers[key].tokens) for key in keys],
            "logprobs": None,
            "rewards": [rewards[key] for key in keys],
        }
