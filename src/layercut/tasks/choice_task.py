"""ChoiceTask: multiple-choice items of one or more subjects, with five readouts.

``rank`` is lm-eval's own score. The others ask the same items: ``gold`` scores the right option alone, ``token`` lists
the options with letters and compares the letters, ``short`` and ``chain`` let a chat model write the letter.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.tasks import lettered
from layercut.tasks.base import GENERATED, Readout, Sample, Score, Split
from layercut.tasks.few_shot import content_id
from layercut.tasks.grading import grade_gold, grade_text, guessing
from layercut.tasks.splits import SplitNames, choose_splits, first_of
from layercut.tasks.subject import Item, Subject

VERSION = 1
"""Raised by any change here that can move scores. lm-eval's own versions stand in the settings."""
SHORT_TOKENS = 16
CHAIN_TOKENS = 512


class ChoiceTask:
    """Items of one task of lm-eval, or of all tasks of a group, such as MMLU's 57 subjects.

    Report items come from the split that lm-eval evaluates (``test``, else ``validation``), selection items from
    ``validation`` or else ``train``; where there is no second split, the items are halved by the hash of their content.
    Item ids do not depend on the number of worked examples. Of a group, the first items are spread over its subjects
    in proportion to their sizes.

    ``rank``: the metrics of the task's own file that are numbers per item, mostly ``acc`` (the most likely choice) and
    ``acc_norm`` (the likelihood divided by the choice's length in characters); of a log-likelihood task (LAMBADA),
    whether the right continuation is the likeliest token by token.
    ``gold``: log-likelihood of the right option per token, in nats. No accuracy; it has no chance level.
    ``token``: the options are listed with letters, in the worked examples too, and the likeliest letter is the answer.
    ``short`` and ``chain``: the same list in the model's chat format, without worked examples; see
    ``lettered.find_short`` and ``lettered.find_chain`` for what counts. Where the question lists lettered options
    already (MMLU), it is shown unchanged.
    """

    version = VERSION
    readouts: tuple[Readout, ...] = ("rank",)
    answer_begins = "\n\nThe answer is"

    def __init__(
        self,
        name: str,
        subjects: Sequence[Subject],
        metrics: Sequence[str],
        described: Mapping[str, Any],
        max_new_tokens: int | None = None,
    ) -> None:
        """A task of subjects that have the same metrics and kind.

        Args:
            name: of the task, with ``:5`` behind it where there are 5 worked examples.
            subjects: at least one.
            metrics: of ``rank``, the headline first.
            described: versions and data, for the run's settings.
            max_new_tokens: longest answer of ``short`` and ``chain``, if not the usual 16 and 512.
        """
        self.name = name
        self._base_name = name.partition(":")[0]
        self._subjects = subjects
        self._metrics = list(metrics)
        self._described = dict(described)
        self._max_new_tokens = max_new_tokens
        self._has_options = subjects[0].task.OUTPUT_TYPE == "multiple_choice"
        self._split_names: SplitNames = choose_splits(subjects[0].docs, selection=("validation", "train"))
        self._items: dict[str, tuple[Subject, Item]] = {}
        self._requests: dict[tuple[str, Readout], GenerationRequest | LikelihoodRequest] = {}

    @property
    def extra_readouts(self) -> tuple[Readout, ...]:
        """What is read out only where it is asked for by name."""
        return ("gold", "token", *GENERATED) if self._has_options else ("gold",)

    def settings(self) -> Mapping[str, Any]:
        """What decides the samples; a local file counts by its content, not by its place."""
        examples = self._subjects[0].describes_examples
        return {
            "version": self.version,
            **self._described,
            "splits": self._split_names.describe(),
            **({} if examples.startswith("0 ") else {"examples": examples}),
            **({} if self._max_new_tokens is None else {"max_new_tokens": self._max_new_tokens}),
        }

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set, which is what lm-eval's own ``--limit`` takes."""
        return first_of(split, self._split_names, self._read, limit)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """lm-eval's contexts and continuations for ``rank`` and ``gold``, lettered options for the others."""
        key = (sample.id, readout)
        if key not in self._requests:
            self._requests[key] = self._request(sample, readout)
        return self._requests[key]

    def _request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        subject, item = sample.data["subject"], sample.data["item"]
        if readout in ("rank", "gold"):
            asked = subject.asked(item)
            prompts, texts = asked.prompts, asked.continuations
            if readout == "gold":
                right = item.options.index(item.gold) if item.options else 0
                prompts, texts = prompts[right : right + 1], texts[right : right + 1]
            one = len(set(prompts)) == 1
            return LikelihoodRequest(
                id=sample.id, prompt=prompts[0], continuations=texts, prompts=() if one else prompts
            )
        if readout == "token":
            examples = "".join(f"{_listed(subject, doc)} {_letter(subject, doc)}\n\n" for doc in item.examples)
            return LikelihoodRequest(
                id=sample.id,
                prompt=examples + _listed(subject, item.doc),
                continuations=tuple(f" {letter}" for letter in lettered.letters(item.options)),
            )
        wish = lettered.SHORT if readout == "short" else lettered.CHAIN
        usual = SHORT_TOKENS if readout == "short" else CHAIN_TOKENS
        return GenerationRequest(
            id=sample.id,
            prompt=(Message("user", f"{_with_options(subject, item.doc)}\n\n{wish}"),),
            max_new_tokens=self._max_new_tokens or usual,
        )

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """lm-eval's metrics for ``rank``, the headline the first of its task file; else see the class."""
        if isinstance(answer, Completion):
            options = sample.data["subject"].parts(sample.data["item"].doc)[1]
            found = lettered.find_short(answer.text, options) if readout == "short" else None
            found = lettered.find_chain(answer.text, options) if readout == "chain" else found
            named = sample.options[lettered.LETTERS.index(found.letter)] if found else ""
            return grade_text(named, bool(named) and named == sample.gold, answer)
        if readout == "gold":
            return grade_gold(sample, answer)
        best = answer.log_likelihoods.index(max(answer.log_likelihoods[: len(sample.options) or None]))
        choice = sample.options[best] if sample.options else (sample.gold if answer.is_greedy[0] else "")
        if readout == "token":
            right = choice == sample.gold
            return Score({"accuracy": float(right)}, choice, "right" if right else "wrong")
        results = list(zip(answer.log_likelihoods, answer.is_greedy, strict=True))
        metrics = sample.data["subject"].task.process_results(sample.data["item"].doc, results)
        headline = {name: float(metrics[name]) for name in self._metrics}
        return Score(headline, choice, "right" if headline[self._metrics[0]] else "wrong")

    def settled(self, sample: Sample, readout: Readout, text: str) -> bool:
        """Never: a letter may yet become a word, and a later answer takes the place of an earlier one."""
        return False

    def draft(self, sample: Sample, readout: Readout) -> str:
        """The letter, for short answers."""
        if readout != "short":
            return ""
        return lettered.LETTERS[sample.gold_index]

    def answer_start(self, sample: Sample, readout: Readout, text: str) -> int | None:
        """Characters before the letter or the words that answer; None where there is no answer."""
        find = lettered.find_short if readout == "short" else lettered.find_chain
        found = find(text, sample.data["subject"].parts(sample.data["item"].doc)[1])
        return None if found is None else found.start

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """1 / number of choices, averaged over the items; where letters are chosen, at least the share of the most
        common right letter. None for ``gold``."""
        if readout == "gold":
            return {}
        if not self._has_options:
            return guessing(samples, "short", self._metrics)
        if readout == "rank":
            return guessing(samples, readout, self._metrics)
        share = Counter(sample.gold_index for sample in samples).most_common(1)[0][1] / len(samples)
        return {"accuracy": max(share, guessing(samples, "rank", ["accuracy"])["accuracy"])}

    def _read(self, split: str) -> Iterator[Sample]:
        if len(self._subjects) == 1:
            return (self._sample(self._subjects[0], item) for item in self._subjects[0].read(split))
        spread = heapq.merge(*(self._placed(split, number) for number in range(len(self._subjects))))
        return (self._sample(self._subjects[number], item) for _, number, _, item in spread)

    def _placed(self, split: str, number: int) -> Iterator[tuple[float, int, int, Item]]:
        """Items with their place within their subject, from 0 to 1."""
        subject = self._subjects[number]
        size = len(subject.docs[split])
        for index, item in enumerate(subject.read(split)):
            yield (index + 0.5) / size, number, index, item

    def _sample(self, subject: Subject, item: Item) -> Sample:
        cluster = subject.cluster(item.doc)
        if cluster is None and len(self._subjects) > 1:
            cluster = subject.name
        contexts = dict.fromkeys(item.asked.prompts)
        return Sample(
            id=content_id(self._base_name, *contexts, *item.options),
            question=item.question,
            gold=item.gold,
            options=item.options,
            data={"subject": subject, "item": item, "cluster": cluster},
        )


def _with_options(subject: Subject, doc: Mapping[str, Any]) -> str:
    question, options, _ = subject.parts(doc)
    return question if lettered.are_letters(options) else f"{question}\n{lettered.lettered(options)}"


def _listed(subject: Subject, doc: Mapping[str, Any]) -> str:
    return f"{_with_options(subject, doc)}\nAnswer:"


def _letter(subject: Subject, doc: Mapping[str, Any]) -> str:
    _, options, gold = subject.parts(doc)
    return lettered.LETTERS[options.index(gold)]
