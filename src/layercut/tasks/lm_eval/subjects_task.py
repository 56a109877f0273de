"""SubjectsTask: base class of lm-eval's tasks: items of one task, or of all tasks of a group, in two splits."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from layercut.tasks.base import Sample, Split, Task, content_id
from layercut.tasks.lm_eval.subject import Item, Subject
from layercut.tasks.splits import SplitNames, choose_splits, first_of

AnySubject = TypeVar("AnySubject", bound=Subject)


class SubjectsTask(Task, Generic[AnySubject]):
    """Items of one task of lm-eval, or of all tasks of a group, such as MMLU's 57 subjects.

    Report items come from the split that lm-eval evaluates (``test``, else ``validation``), selection items from
    ``validation`` or else ``train``; where there is no second split, the items are halved by the hash of their content.
    Item ids do not depend on the number of worked examples. Of a group, the first items are spread over its subjects
    in proportion to their sizes. No early verdict: a later answer takes the place of an earlier one.
    """

    version: int

    def __init__(
        self,
        name: str,
        subjects: Sequence[AnySubject],
        metrics: Sequence[str],
        described: Mapping[str, Any],
        max_new_tokens: int | None = None,
    ) -> None:
        """A task of subjects that have the same metrics and kind.

        Args:
            name: of the task, with ``:5`` behind it where it was named with 5 worked examples.
            metrics: the headline first.
            described: versions and data, for the run's settings.
        """
        self.name = name
        self._base_name = name.removeprefix("lm-eval:").partition(":")[0].removesuffix("+chat")
        self._subjects = subjects
        self._metrics = list(metrics)
        self._described = dict(described)
        self._max_new_tokens = max_new_tokens
        self._split_names: SplitNames = choose_splits(subjects[0].docs, selection=("validation", "train"))

    def settings(self) -> Mapping[str, Any]:
        """Settings that decide the samples; a local file counts by its content, not by its place."""
        examples = self._subjects[0].describes_examples
        return {
            "version": self.version,
            **self._described,
            "splits": self._split_names.describe(),
            **({} if examples.startswith("0 ") else {"examples": examples}),
            **({} if self._max_new_tokens is None else {"max_new_tokens": self._max_new_tokens}),
        }

    @property
    def shares_test_set(self) -> bool:
        return self._split_names.are_halves

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set, which is what lm-eval's own ``--limit`` takes."""
        return first_of(split, self._split_names, self._read, limit)

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

    def _sample(self, subject: AnySubject, item: Item) -> Sample:
        cluster = subject.cluster(item.doc)
        if cluster is None and len(self._subjects) > 1:
            cluster = subject.name
        contexts = dict.fromkeys(map(str, item.asked.prompts))
        return Sample(
            id=content_id(self._base_name, *contexts, *item.options),
            question=item.question,
            gold=item.gold,
            options=item.options,
            data={"subject": subject, "item": item, "cluster": cluster},
        )
