"""Kinds of lm-eval tasks: ChoiceTask (``multiple_choice``, ``loglikelihood``), WrittenTask (``generate_until``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import InputError
from layercut.tasks.base import Readout, Sample, Score
from layercut.tasks.grading import guessing_chance, outcome_of
from layercut.tasks.lm_eval.subject import Asked, Item, Subject, SubjectsTask, options_and_gold, reason_of

MAX_NEW_TOKENS = 256  # longest answer of a task whose file names none, as in lm-eval's Hugging Face model
NOTHING_FOUND = "[invalid]"  # result of lm-eval's filters where they find no answer


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


class WrittenTask(SubjectsTask):
    """Items whose answers the model writes; where they come from, see SubjectsTask.

    ``chain``: lm-eval's prompt, as plain text or as a conversation, with as many worked examples as its task file asks
    for, or as were named; its stop strings and longest answer; its filters and metrics, see ``measures_of``. The
    model's own stop tokens end an answer, too. An answer is ``right`` where the headline metric is at least 1, and the
    record's answer is what the first filter finds.

    Chance: 0, what an empty answer gets; none for a metric of which lower is better.
    """

    readouts: tuple[Readout, ...] = ("chain",)
    chance_items = 1  # it is the same for all

    def settings(self) -> Mapping[str, Any]:
        first = self._subjects[0]
        return {"max_new_tokens": first.max_new_tokens, "stop": list(first.stop), **super().settings()}

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest:
        """lm-eval's prompt."""
        subject = sample.data["subject"]
        prompt = subject.asked(sample.data["item"]).prompts[0]
        longest = self._max_new_tokens or subject.max_new_tokens
        return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=longest, stop=subject.stop)

    def grade_all(
        self, samples: Sequence[Sample], readout: Readout, answers: Sequence[Completion | Likelihoods]
    ) -> list[Score]:
        """Scores in the order of the samples, those of one subject at once."""
        written = [answer for answer in answers if isinstance(answer, Completion)]
        results = self._graded(samples, [answer.text for answer in written])
        scores = []
        for sample, graded, answer in zip(samples, results, written, strict=True):
            numbers = self._numbers(sample, graded)
            right = numbers[self._metrics[0]] >= 1
            kind = outcome_of(right=right, answer=graded.answer, finish_reason=answer.finish_reason)
            scores.append(Score(numbers, graded.answer, kind))
        return scores

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """0, but for metrics of which lower is better; see the class."""
        measures = self._subjects[0].measures
        return {name: 0.0 for name in self._metrics if measures[name].higher_is_better}

    def _numbers(self, sample: Sample, graded: Graded) -> dict[str, float]:
        """The numbers of one item, higher is better. Raises InputError: lm-eval's metric gives none."""
        numbers = {}
        for name in self._metrics:
            measure, value = sample.data["subject"].measures[name], graded.values[name]
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise InputError(f"lm-eval's metric {measure.metric} gives no number for an item, but {value!r:.40}.")
            numbers[name] = number if measure.higher_is_better else -number
        return numbers

    def _graded(self, samples: Sequence[Sample], texts: Sequence[str]) -> list[Graded]:
        graded: dict[int, Graded] = {}
        for subject in self._subjects:
            own = [index for index, sample in enumerate(samples) if sample.data["subject"] is subject]
            graded |= zip(
                own, subject.grade([samples[i].data["item"] for i in own], [texts[i] for i in own]), strict=True
            )
        return [graded[index] for index in range(len(samples))]


class WrittenSubject(Subject):
    """One task of lm-eval whose answers are written."""

    for_selection = ("validation", "train")

    def __init__(self, name: str, task: Any, num_shots: int | None, *, chat: bool = False) -> None:
        """None for as many worked examples as its file asks for. Raises InputError: it asks what is not supported."""
        self.stop, self.max_new_tokens = _generation(name, task)
        self.measures = measures_of(task)
        if not self.measures:
            raise InputError(f"lm-eval's {name} has no mean over items: `python -m layercut.tools.lm_eval` runs it.")
        shown = (task.config.num_fewshot or 0) if num_shots is None else num_shots
        super().__init__(name, task, shown, chat=chat)

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Graded]:
        """Texts as lm-eval filters and grades them, all at once, because some filters are slow to set up."""
        from lm_eval.api.instance import Instance

        if not items:
            return []
        instances = [
            Instance("generate_until", item.doc, ("", {}), 0, resps=[text])
            for item, text in zip(items, texts, strict=True)
        ]
        results = []
        try:
            self.task._instances = instances
            self.task.apply_filters()
            for instance in instances:
                read = instance.filtered_resps  # by filter
                values = {name: self.task.process_results(instance.doc, [answer]) for name, answer in read.items()}
                own = {name: values[part.filter][part.metric] for name, part in self.measures.items()}
                results.append(Graded(_answer(next(iter(read.values()))), own))
        except Exception as error:  # filters and metrics of hundreds of task files raise what they like
            raise InputError(f"lm-eval's {self.name} cannot grade an answer ({reason_of(error)}).") from error
        return results

    def _item(self, doc: Mapping[str, Any], split: str, number: int) -> Item:
        request = self._asked(doc, (), chat=False)
        return Item(doc, str(request.prompts[0]), request, self._gold(doc), examples=self._draw(doc, split))

    def _asked(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, chat: bool) -> Asked:
        return Asked((self._context(doc, examples, chat=chat),))

    def _gold(self, doc: Mapping[str, Any]) -> str:
        target = self.task.doc_to_target(doc)
        if isinstance(target, int):
            if self.task.config.doc_to_choice is not None:
                target = self.task.doc_to_choice(doc)[target]
            elif callable(self.task.config.process_results):  # a number that stands for nothing, as in IFEval
                return ""
        texts = map(str, target if isinstance(target, list | tuple) else [target])
        return next((text for text in texts if text.strip()), "")


class Measure(NamedTuple):
    """One metric of a task behind one of its filters, whose number is the mean over items."""

    filter: str
    metric: str
    higher_is_better: bool


class Graded(NamedTuple):
    """lm-eval's grade of one answer."""

    answer: str  # what its first filter takes from the text; empty where it takes nothing
    values: Mapping[str, Any]  # number of each metric, by the measure's name


def measures_of(task: Any) -> dict[str, Measure]:
    """The measures of a task by name, in the order of its file, of metrics that are means over items.

    Behind several filters a measure has the filter's name: ``strict-match``, or ``exact_match,strict-match`` where
    there are several metrics as well. One of which lower is better is negated: ``neg_ter``.
    """
    from lm_eval.api.metrics import mean, nanmean

    several, higher = len(task._filters) > 1, task.higher_is_better()
    of_items = [metric for metric, over_items in task.aggregation().items() if over_items in (mean, nanmean)]
    only = len(task.aggregation()) == 1
    measures = {}
    for part in task._filters:
        for metric in of_items:
            name = part.name if several and only else f"{metric},{part.name}" if several else metric
            is_up = higher.get(metric) is not False
            measures[name if is_up else f"neg_{name}"] = Measure(part.name, metric, is_up)
    return measures


def _generation(name: str, task: Any) -> tuple[tuple[str, ...], int]:
    """Stop strings and longest answer of a task. Raises InputError: it asks for what is not supported."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.utils import normalize_gen_kwargs

    wanted = normalize_gen_kwargs(task.config.generation_kwargs, MAX_NEW_TOKENS)
    unsupported = {
        "makes requests of its own kind": type(task).construct_requests is not ConfigurableTask.construct_requests,
        "asks about pictures or sound": getattr(task, "MULTIMODAL", False),
        f"asks for {task.config.repeats} answers to each item": task.config.repeats > 1,
        "draws its answers at random": bool(wanted.get("do_sample")),
        "searches with beams": wanted.get("num_beams", 1) != 1,
    }
    for what, is_so in unsupported.items():
        if is_so:
            raise InputError(f"lm-eval's {name} {what}; layercut asks tasks with one greedy answer to each text.")
    return tuple(dict.fromkeys(text for text in wanted["until"] if text)), wanted["max_gen_toks"]


def _answer(filtered: Any) -> str:
    while isinstance(filtered, list | tuple):
        filtered = filtered[0] if filtered else ""
    text = "" if filtered is None else str(filtered).strip()
    return "" if text == NOTHING_FOUND else text
