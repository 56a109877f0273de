"""WrittenTask: tasks of lm-eval whose answers the model writes (``generate_until``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import InputError
from layercut.tasks.base import Readout, Sample, Score
from layercut.tasks.grading import grade_gold, outcome
from layercut.tasks.lm_eval.measures import Graded, graded, measures, number, over_items
from layercut.tasks.lm_eval.subject import Asked, Item, Subject
from layercut.tasks.lm_eval.subjects_task import SubjectsTask

VERSION = 1  # raised by any change here that can move scores. lm-eval's own versions stand in the settings.
MAX_NEW_TOKENS = 256  # longest answer of a task whose file names none, as in lm-eval's Hugging Face model


class WrittenSubject(Subject):
    """One task of lm-eval whose answers are written."""

    for_selection = ("validation", "train")

    def __init__(self, name: str, task: Any, num_shots: int | None, *, chat: bool = False) -> None:
        """A subject with a number of worked examples; None for as many as its file asks for.

        Raises:
            InputError: it asks for what is not supported, such as several answers to an item.
        """
        self.stop, self.max_new_tokens = _generation(name, task)
        self.measures = measures(task)
        if not self.measures:
            raise InputError(f"lm-eval's {name} has no metric; layercut supports tasks that grade their answers.")
        shown = (task.config.num_fewshot or 0) if num_shots is None else num_shots
        super().__init__(name, task, shown, chat=chat)

    def graded(self, items: Sequence[Item], texts: Sequence[str]) -> list[Graded]:
        """lm-eval's grade of an answer to each item."""
        return graded(self.task, self.measures, [item.doc for item in items], texts)

    @property
    def worked_answers(self) -> tuple[str, ...]:
        """Answers of the worked examples that the task file itself gives; none where they are rows of the data."""
        config = self.task.fewshot_cfg
        if not self._num_shots or self._sampler is None or config.split is not None or config.samples is None:
            return ()
        shown = self._sampler.fewshot_docs()[: self._num_shots]
        targets = [self.task.doc_to_target(one, config.doc_to_target) for one in shown]
        return tuple(dict.fromkeys(answer for target in targets for answer in _texts(target)))

    def _item(self, doc: Mapping[str, Any], split: str, number: int) -> Item:
        asked = self._asked(doc, (), chat=False)
        return Item(doc, str(asked.prompts[0]), asked, self._golds(doc), examples=self._draw(doc, split))

    def _asked(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, chat: bool) -> Asked:
        return Asked((self._context(doc, examples, chat=chat),))

    def _golds(self, doc: Mapping[str, Any]) -> tuple[str, ...]:
        target = self.task.doc_to_target(doc)
        if isinstance(target, int):
            if self.task.config.doc_to_choice is not None:
                target = self.task.doc_to_choice(doc)[target]
            elif callable(self.task.config.process_results):  # a number that stands for nothing, as in IFEval
                return ()
        return _texts(target)


class WrittenTask(SubjectsTask[WrittenSubject]):
    """Items whose answers the model writes; where they come from, see SubjectsTask.

    ``chain``: lm-eval's prompt, as plain text or as a conversation, with as many worked examples as its task file asks
    for, or as were named;
    its stop strings and longest answer; its filters and metrics, see ``layercut.tasks.lm_eval.measures``. The
    model's own stop tokens end an answer, too. An answer is ``right`` where the headline metric is at least 1, and the
    record's answer is what the first filter finds.
    ``gold``: log-likelihood of the right answer per token after the same prompt, where the task file has right answers.

    Chance: the best of three constant answers, per metric, graded by lm-eval itself on the first 2,000 items of the
    split: nothing (0), the most common right answer, and the answers of the worked examples in the task file. None for
    a metric of which lower is better.
    """

    version = VERSION
    readouts: tuple[Readout, ...] = ("chain",)
    chance_items = 2000

    @cached_property
    def extra_readouts(self) -> tuple[Readout, ...]:
        """``gold``, where the first item has a right answer."""
        first = next(iter(self.samples("report", 1)), None)
        return ("gold",) if first is not None and first.gold else ()

    def settings(self) -> Mapping[str, Any]:
        first = self._subjects[0]
        return {"max_new_tokens": first.max_new_tokens, "stop": list(first.stop), **super().settings()}

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """lm-eval's prompt; for ``gold`` its right answer behind it."""
        subject, item = sample.data["subject"], sample.data["item"]
        prompt = subject.asked(item).prompts[0]
        if readout == "gold":
            right = ("" if subject.is_chat else subject.task.config.target_delimiter) + item.gold
            return LikelihoodRequest(id=sample.id, prompt=prompt, continuations=(right,))
        longest = self._max_new_tokens or subject.max_new_tokens
        return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=longest, stop=subject.stop)

    def grade_all(
        self, samples: Sequence[Sample], readout: Readout, answers: Sequence[Completion | Likelihoods]
    ) -> list[Score]:
        """Scores in the order of the samples, those of one subject at once."""
        if readout == "gold":
            return [
                grade_gold(sample, answer)
                for sample, answer in zip(samples, answers, strict=True)
                if isinstance(answer, Likelihoods)
            ]
        written = [answer for answer in answers if isinstance(answer, Completion)]
        results = self._graded(samples, [answer.text for answer in written])
        scores = []
        for sample, one, answer in zip(samples, results, written, strict=True):
            numbers = self._numbers(sample, one)
            right = numbers[self._metrics[0]] >= 1
            kind = outcome(right=right, answer=one.found, finish_reason=answer.finish_reason)
            scores.append(Score(numbers, one.found, kind))
        return scores

    def over_items(
        self, samples: Sequence[Sample], readout: Readout, records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """lm-eval's own numbers over all items, of metrics that are no means of items; from the stored answers.

        Of a group nothing: lm-eval has no number for one.
        """
        if readout == "gold" or len(self._subjects) > 1:
            return {}
        known = self._subjects[0].measures
        if all(measure.is_mean for measure in known.values()):
            return {}
        results = self._graded(samples, [str(record["completion"]) for record in records])
        return over_items(known, [one.values for one in results])

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """The best constant answer per metric; see the class."""
        if readout == "gold":
            return {}
        first = self._subjects[0].measures
        best = {name: 0.0 for name in self._metrics if first[name].higher_is_better}
        for text in self._constant_answers(samples):
            results = self._graded(samples, [text] * len(samples))
            numbers = [self._numbers(sample, one) for sample, one in zip(samples, results, strict=True)]
            for name in best:
                best[name] = max(best[name], sum(one[name] for one in numbers) / len(numbers))
        return best

    def _constant_answers(self, samples: Sequence[Sample]) -> list[str]:
        """Those of worked examples in the task files, and the most common right one as the first filter reads it."""
        found = [answer for subject in self._subjects for answer in subject.worked_answers]
        pairs = [(sample, gold) for sample in samples for gold in dict.fromkeys(sample.data["item"].golds)]
        read = self._graded([sample for sample, _ in pairs], [gold for _, gold in pairs])
        texts: dict[str, list[str]] = {}
        for one, (_, gold) in zip(read, pairs, strict=True):
            texts.setdefault(one.found or gold, []).append(gold)
        found += max(texts.values(), key=len)[:1] if texts else []
        return list(dict.fromkeys(found))

    def _numbers(self, sample: Sample, one: Graded) -> dict[str, float]:
        known = sample.data["subject"].measures
        return {name: number(known[name], one.values[name]) for name in self._metrics}

    def _graded(self, samples: Sequence[Sample], texts: Sequence[str]) -> list[Graded]:
        found: dict[int, Graded] = {}
        for subject in self._subjects:
            own = [index for index, sample in enumerate(samples) if sample.data["subject"] is subject]
            results = subject.graded([samples[index].data["item"] for index in own], [texts[index] for index in own])
            found |= zip(own, results, strict=True)
        return [found[index] for index in range(len(samples))]


def _generation(name: str, task: Any) -> tuple[tuple[str, ...], int]:
    """Stop strings and longest answer of a task. Raises InputError: it asks for what is not supported."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.utils import normalize_gen_kwargs

    asked = normalize_gen_kwargs(task.config.generation_kwargs, MAX_NEW_TOKENS)
    unsupported = {
        "makes requests of its own kind": type(task).construct_requests is not ConfigurableTask.construct_requests,
        "asks about pictures or sound": getattr(task, "MULTIMODAL", False),
        f"asks for {task.config.repeats} answers to each item": task.config.repeats > 1,
        "draws its answers at random": bool(asked.get("do_sample")),
        "searches with beams": asked.get("num_beams", 1) != 1,
    }
    for what, is_so in unsupported.items():
        if is_so:
            raise InputError(
                f"lm-eval's {name} {what}; of its generate_until tasks, layercut supports those with one greedy answer "
                "to each text."
            )
    return tuple(dict.fromkeys(text for text in asked["until"] if text)), asked["max_gen_toks"]


def _texts(target: Any) -> tuple[str, ...]:
    parts: Iterator[Any] = iter(target if isinstance(target, list | tuple) else [target])
    return tuple(text for part in parts if (text := str(part)).strip())
