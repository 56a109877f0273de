"""ChoiceTask: tasks of lm-eval that are scored by likelihood, ``multiple_choice`` and ``loglikelihood``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layercut.engine.base import Completion, LikelihoodRequest, Likelihoods
from layercut.tasks.base import Readout, Sample, Score
from layercut.tasks.grading import guessing_chance
from layercut.tasks.lm_eval.subject import Asked, Item, Subject, SubjectsTask, options_and_gold


class ChoiceSubject(Subject):
    """A multiple-choice or log-likelihood task: continuations to be scored."""

    def _item(self, doc: Mapping[str, Any], split: str, number: int) -> Item:
        options, gold = options_and_gold(self.task, doc, lambda: self._where(split, number))
        request = self._asked(doc, (), chat=False)
        examples = self._draw(doc, split)
        for example in examples:
            options_and_gold(self.task, example, lambda: f"a worked example of {self.name}")
        question = self._sentence_with_gap(doc, options) if self.task.multiple_input else str(request.prompts[0])
        return Item(doc, question, request, gold, options, examples)

    def _sentence_with_gap(self, doc: Mapping[str, Any], options: Sequence[str]) -> str:
        """Of Winogrande, whose options begin the sentence: the words that all share, a gap, and the rest."""
        length = next((i for i, letters in enumerate(zip(*options, strict=False)) if len(set(letters)) > 1), 0)
        same = options[0][: options[0].rfind(" ", 0, length) + 1]
        return f"{same}_ {self.task.doc_to_target(doc)}"

    def _asked(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, chat: bool) -> Asked:
        context = self._context(doc, examples, chat=chat)
        requests = self.task.construct_requests(doc, context, apply_chat_template=chat)
        pairs = [request.args for request in (requests if isinstance(requests, list) else [requests])]
        return Asked(tuple(prompt for prompt, _ in pairs), tuple(str(text) for _, text in pairs))


class ChoiceTask(SubjectsTask):
    """Multiple-choice and log-likelihood items.

    ``rank``: the metrics of the task's own file that are numbers per item, mostly ``acc`` (the most likely choice) and
    ``acc_norm`` (the likelihood divided by the choice's length in characters); of a log-likelihood task (LAMBADA),
    whether the right continuation is the likeliest token by token.
    """

    readouts: tuple[Readout, ...] = ("rank",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._requests: dict[str, LikelihoodRequest] = {}

    def request(self, sample: Sample, readout: Readout) -> LikelihoodRequest:
        """lm-eval's contexts and continuations."""
        if sample.id not in self._requests:  # kept, because lm-eval's templates take milliseconds an item
            prompts, texts = sample.data["subject"].asked(sample.data["item"])
            own = () if len(set(prompts)) == 1 else prompts
            request = LikelihoodRequest(id=sample.id, prompt=prompts[0], continuations=texts, prompts=own)
            self._requests[sample.id] = request
        return self._requests[sample.id]

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """lm-eval's metrics, the headline the first of its task file."""
        assert isinstance(answer, Likelihoods)
        best = answer.log_likelihoods.index(max(answer.log_likelihoods[: len(sample.options) or None]))
        choice = sample.options[best] if sample.options else (sample.gold if answer.is_greedy[0] else "")
        results = list(zip(answer.log_likelihoods, answer.is_greedy, strict=True))
        metrics = sample.data["subject"].task.process_results(sample.data["item"].doc, results)
        own = {name: float(metrics[name]) for name in self._metrics}
        return Score(own, choice, "right" if own[self._metrics[0]] else "wrong")

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """1 / number of choices, averaged; of a log-likelihood task, always the most common right continuation."""
        has_options = self._subjects[0].task.OUTPUT_TYPE == "multiple_choice"
        return guessing_chance(samples, "rank" if has_options else "short", self._metrics)
