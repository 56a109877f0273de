"""GRPO: reinforcement learning from graded answers (RLVR), without a teacher.

Group relative policy optimization (DeepSeekMath, arXiv:2402.03300): the pruned model answers each prompt several times,
the task grades the answers, and an answer counts by how much better it is than the others to the same prompt. The loss
is the default of TRL's GRPOTrainer (``loss_type="dapo"``: a mean over the tokens of the whole step, arXiv:2503.14476;
``scale_rewards="group"``) without a reference model (``beta=0``). Each set of answers is learned from once, so the
ratio of new to old probabilities is 1, and clipping it has no effect.

The tokens in the loss are those that were drawn, with the one that ended the answer. A group whose answers are all
right or all wrong has nothing to learn: its advantages are 0, and the model does not read it. A step of such groups
alone has no gradients, so optimizers leave weights and moments as they are; weight decay does not apply either.

TRL's trainer itself is not used: it draws by its own engines from a global generator, so a resumed run is another one.
"""

# Shapes: B answers, N tokens of answers, one answer behind the other.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.trainer_utils import EvalLoopOutput

from layercut.engine.base import Completion, Decoding, GenerationRequest
from layercut.engine.rows import Tokens
from layercut.healing.examples import IGNORED, Data, TrainingExample, rows
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.prompts import NamedPrompt
from layercut.healing.rollouts import BATCH, RolloutTrainer
from layercut.healing.settings import TrainSettings

EPSILON = 1e-4
"""Added to the standard deviation of a group's rewards, as TRL does."""


def advantages(rewards: Sequence[float]) -> list[float]:
    """Advantage of each answer over its group: (reward - mean) / (sample standard deviation + EPSILON).

    >>> [round(one, 3) for one in advantages([1, 0, 0, 1])], advantages([1, 1])
    ([0.866, -0.866, -0.866, 0.866], [0.0, 0.0])
    """
    mean, deviation = fmean(rewards), stdev(rewards)
    return [(reward - mean) / (deviation + EPSILON) for reward in rewards]


def policy_losses(losses_N: Tensor, advantages_N: Tensor) -> Tensor:
    """(N,) minus ratio x advantage of each token.

    The ratio is 1 and has the gradient of ln q, the token's log-likelihood.

    Args:
        losses_N: -ln q.
        advantages_N: of each token's answer.
    """
    return -torch.exp(losses_N.detach() - losses_N) * advantages_N


class Question(NamedTuple):
    """A prompt and its grader."""

    task: TaskPrompts
    asked: NamedPrompt
    limit: int
    """Tokens of an answer, at most."""

    def request(self, name: str) -> GenerationRequest:
        """For an engine, under a name of its own."""
        return self.task.request(self.asked, name=name, limit=self.limit)


def rewards_of(answered: Sequence[tuple[Question, Completion]]) -> list[float]:
    """1 for each right answer, else 0. Programs of a task run side by side."""
    places: dict[int, list[int]] = {}
    for place, (question, _) in enumerate(answered):
        places.setdefault(id(question.task), []).append(place)
    found = [0.0] * len(answered)
    for own in places.values():
        task = answered[own[0]][0].task
        right = task.are_right([replace(answered[place][1], id=answered[place][0].asked.id) for place in own])
        for place, is_right in zip(own, right, strict=True):
            found[place] = float(is_right)
    return found


def questions_in(data: Data, tasks: Sequence[TaskPrompts], settings: TrainSettings) -> dict[Tokens, Question]:
    """The questions of all examples, by prompt tokens.

    An answer has at most ``rollout_max`` tokens, the task's own limit, and what ``max_length`` leaves.
    """
    known = {one.prompt.id: (task, one.prompt) for task in tasks for one in task.answered}
    found = {}
    for example in (*data.train, *data.held_out):
        limit = min(settings.rollout_max, settings.max_length - len(example.prompt))
        found[example.prompt] = Question(*known[example.id], limit)
    return found


class GroupAnswer(NamedTuple):
    """An answer to learn from."""

    example: TrainingExample
    advantage: float


class GrpoTrainer(RolloutTrainer):
    """RolloutTrainer that learns from the grades of a group of answers to each prompt.

    A micro batch of prompts is read in pieces of as many answers, so it takes the memory of as many examples. The loss
    of a step does not depend on the pieces. The held-out loss is the share of held-out questions that are answered
    wrong, greedily.
    """

    loss_is_scaled_for_ga = True  # type: ignore[assignment]  # by the tokens of the whole step

    def __init__(self, *args: Any, questions: Mapping[Tokens, Question], group: int, **kwargs: Any) -> None:
        """Args beside those of RolloutTrainer.

        questions: by prompt tokens, of training and held-out examples.
        group: answers to each prompt.
        """
        super().__init__(*args, **kwargs)
        self._questions = questions
        self._group = group
        self._in_step: list[Tokens] = []
        """Prompts of the current step."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro batches of the next step."""
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._in_step = list(self._coming)
        return found

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Learns from the answers to a micro batch of prompts; gradients add up piece by piece. 0 without any."""
        graded = [one for prompt in self._answered(inputs) for one in self._answers[prompt] if one.advantage]
        graded.sort(key=lambda one: (-len(one.example), one.example.id))
        size, loss = self.args.per_device_train_batch_size, torch.zeros((), device=self.args.device)
        for start in range(0, len(graded), size):
            piece = graded[start : start + size]
            batch = self._collated([one.example for one in piece])
            batch["advantages"] = torch.tensor([one.advantage for one in piece])
            loss += super().training_step(model, batch, num_items_in_batch)  # type: ignore[no-untyped-call]
            self.state.num_input_tokens_seen += sum(len(one.example) for one in piece)
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the policy losses of some answers over the tokens of all answers of the step."""
        batch = dict(inputs)
        lengths_B = torch.tensor([row.num_in_loss for row in rows(batch)], device=self.args.device)
        advantages_N = batch.pop("advantages").repeat_interleave(lengths_B)
        count = sum(len(one.example.completion) for prompt in self._in_step for one in self._answers[prompt])
        return policy_losses(self._losses(model, batch), advantages_N).sum() / count

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The share of the data's questions that are answered wrong, greedily."""
        prompts = [_prompt_of(example) for example in dataloader.dataset]
        requests = [self._questions[prompt].request(str(number)) for number, prompt in enumerate(prompts)]
        found = self._completions(requests, Decoding(), BATCH)
        right = rewards_of([(self._questions[prompt], found[str(number)]) for number, prompt in enumerate(prompts)])
        metrics = {f"{metric_key_prefix}_loss": 1 - fmean(right)}
        nothing: Any = ()
        return EvalLoopOutput(predictions=nothing, label_ids=None, metrics=metrics, num_samples=len(prompts))

    def _requests(self, prompt: Tokens) -> list[GenerationRequest]:
        question = self._questions[prompt]
        name = f"{self.state.global_step} {question.asked.id}"
        return [question.request(f"{name}#{number}") for number in range(self._group)]

    def _read(self, prompt: Tokens, answers: Sequence[Completion]) -> list[GroupAnswer]:
        """The group, graded, in the tokens that were drawn."""
        rewards = rewards_of([(self._questions[prompt], answer) for answer in answers])
        self.note("reward", fmean(rewards))
        self.note("informative", float(len(set(rewards)) > 1))
        self.note("rollout_tokens", fmean(len(answer.tokens) for answer in answers))
        examples = [TrainingExample(answer.id, prompt, answer.tokens) for answer in answers]
        return [GroupAnswer(*one) for one in zip(examples, advantages(rewards), strict=True)]

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Counted where answers are read: the prompts of a batch are not read as they are."""


def _prompt_of(example: Mapping[str, Sequence[int]]) -> Tokens:
    pairs = zip(example["input_ids"], example["labels"], strict=True)
    return tuple(token for token, label in pairs if label == IGNORED)
