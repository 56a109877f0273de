"""Tasks of lm-eval as items: Subject is one of its tasks, SubjectsTask one or a group of them as a task of layercut.

lm-eval's own code makes prompts, continuations and grades.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any, NamedTuple

from layercut.engine.base import Message, Prompt
from layercut.errors import InputError
from layercut.tasks.base import Sample, Split, Task, content_id
from layercut.tasks.selected_items import choose_splits, first_samples

FEWSHOT_SEED = 1234  # seed of lm-eval's own runs, by which worked examples are drawn

_SHARED = ("subject", "passage", "article")
"""Fields of data sets that several items have in common: subjects of MMLU, texts of BoolQ and RACE."""


class Asked(NamedTuple):
    """The model's input: a prompt, or one for each continuation that is scored."""

    prompts: tuple[Prompt, ...]
    continuations: tuple[str, ...] = ()


class Item(NamedTuple):
    """One row of a subject."""

    doc: Mapping[str, Any]
    question: str  # the context without worked examples; of Winogrande, the sentence with its gap
    asked: Asked  # as plain text without worked examples; what an item's id is made from
    gold: str  # the right answer, the first of several; empty where a program judges
    options: tuple[str, ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ()  # rows that stand before it as worked examples


class Subject:
    """One task of lm-eval, with a number of worked examples.

    Examples are drawn as lm-eval draws them: from its few-shot split, by one generator with its seed, row by row in the
    order of the data, so that an item's prompt is that of lm-eval's own run. An item is never its own example.
    """

    for_selection: tuple[str, ...] = ("validation",)
    """Splits of the data that hold selection items where the task file leaves them aside, as MMLU's does."""

    def __init__(self, name: str, task: Any, num_shots: int, *, chat: bool = False) -> None:
        self.name, self.task, self.is_chat = name, task, chat
        self._num_shots = num_shots
        self.docs: dict[str, Any] = {}
        for split, kind in (("train", "training"), ("validation", "validation"), ("test", "test")):
            if getattr(task, f"has_{kind}_docs")():
                self.docs[split] = getattr(task, f"{kind}_docs")()
            elif split in self.for_selection and split in task.dataset and task.config.test_split != split:
                prepare = task.config.process_docs or (lambda rows: rows)
                self.docs[split] = prepare(task.dataset[split])
        self._made: dict[str, list[Item]] = {}
        self._draws = {split: Random(FEWSHOT_SEED) for split in self.docs}
        self._sampler = getattr(task, "sampler", None)
        self._examples_from = self._example_split()
        if num_shots:
            self._check_examples()

    def _item(self, doc: Mapping[str, Any], split: str, number: int) -> Item:
        """The item of a row, examples drawn."""
        raise NotImplementedError

    def _asked(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, chat: bool) -> Asked:
        """The input of a row behind these examples, as plain text or as a conversation."""
        raise NotImplementedError

    @property
    def describes_examples(self) -> str:
        """Number and source of the worked examples, for the run's settings; empty without any."""
        return f"{self._num_shots} of {self._examples_from}, seed {FEWSHOT_SEED}" if self._num_shots else ""

    def read(self, split: str) -> Iterator[Item]:
        """The items of a split in the order of the data. Raises InputError: a row that cannot be read."""
        made = self._made.setdefault(split, [])  # kept, because lm-eval's templates take milliseconds an item
        yield from made
        for number, doc in enumerate(islice(self.docs[split], len(made), None), start=len(made) + 1):
            try:
                item = self._item(doc, split, number)
            except InputError:
                raise
            except Exception as error:  # templates and functions of hundreds of task files raise what they like
                raise unreadable_task(self.name, self._where(split, number), error) from error
            made.append(item)
            yield item

    def asked(self, item: Item) -> Asked:
        """The input with the worked examples, in the form that is asked for."""
        plain = not item.examples and not self.is_chat
        return item.asked if plain else self._asked(item.doc, item.examples, chat=self.is_chat)

    def cluster(self, doc: Mapping[str, Any]) -> str | None:
        """Name of what an item shares with others, for clustered intervals; None where it stands alone."""
        for field in _SHARED:
            if isinstance(text := doc.get(field), str) and text:
                return content_id(field, text)
        return None

    def _draw(self, doc: Mapping[str, Any], split: str) -> tuple[Mapping[str, Any], ...]:
        """Its worked examples, as lm-eval draws them; to be called once for each row, in their order."""
        if not self._num_shots or self._sampler is None:
            return ()
        self._sampler.rnd = self._draws[split]
        # The first is lm-eval's rule; the second sees to the items of other splits.
        own = self.task.fewshot_cfg.split == self.task.config.test_split or self._examples_from == split
        return tuple(self._sampler.sample(n=self._num_shots, eval_doc=doc if own else None))

    def _context(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, chat: bool) -> Any:
        self.task.sampler = _Drawn(examples)
        form = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": _turns} if chat else {}
        return self.task.fewshot_context(doc, len(examples), gen_prefix=self.task.doc_to_prefix(doc), **form)

    def _where(self, split: str, number: int) -> str:
        """Which row it is: file and line of local data whose rows were all kept, else its number in the split."""
        places = getattr(self.task, "places", {}).get(split, ())
        return places[number - 1] if len(places) == len(self.docs[split]) else f"{split} row {number}"

    def _example_split(self) -> str:
        config, examples = self.task.config, self.task.fewshot_cfg
        if examples.split is None:
            own = examples.samples is not None
            return (
                "the task file" if own else next(name for name in ("train", "validation", "test") if name in self.docs)
            )
        names = {config.test_split: "test", config.validation_split: "validation", config.training_split: "train"}
        return names.get(examples.split, str(examples.split))

    def _check_examples(self) -> None:
        """Raises InputError: fewer worked examples than are asked for."""
        wanted = getattr(self.task, "missing_examples", None)
        there = 0 if wanted or self._sampler is None else len(self._sampler.fewshot_docs())
        if there < self._num_shots + (self._examples_from in self.docs):  # one more, as no item is its own example
            raise InputError(
                f"{self.name}: its data has {there} rows for {self._num_shots} worked examples, of the split "
                f"{wanted or self._examples_from!r}. Give a folder with a file of it, or ask for fewer ({self.name}:0)."
            )


class SubjectsTask(Task):
    """Items of one task of lm-eval, or of all tasks of a group, such as MMLU's 57 subjects.

    Report items come from the split that lm-eval evaluates (``test``, else ``validation``), selection items from
    ``validation`` or else ``train``; one split alone is halved. Item ids do not depend on the worked examples. Of a
    group, the first items are spread over its subjects in proportion to their sizes. No early verdict: a later answer
    takes the place of an earlier one.
    """

    version = 1  # raised by any change here that can move scores. lm-eval's own versions stand in the settings.

    def __init__(
        self,
        name: str,
        subjects: Sequence[Any],
        metrics: Sequence[str],
        described: Mapping[str, Any],
        max_new_tokens: int | None = None,
    ) -> None:
        """``metrics`` begin with the headline; ``described`` holds versions and data, for the run's settings."""
        self.name = name
        self._base_name = name.removeprefix("lm-eval:").partition(":")[0].removesuffix("+chat")
        self._subjects, self._metrics, self._described = subjects, list(metrics), dict(described)
        self._max_new_tokens = max_new_tokens
        self._split_names = choose_splits(subjects[0].docs, selection=("validation", "train"))

    def settings(self) -> Mapping[str, Any]:
        """Settings that decide the samples; a local file counts by its content, not by its place."""
        examples = self._subjects[0].describes_examples
        return {
            "version": self.version,
            **self._described,
            "splits": self._split_names.describe(),
            **({"examples": examples} if examples else {}),
            **({} if self._max_new_tokens is None else {"max_new_tokens": self._max_new_tokens}),
        }

    @property
    def shares_test_set(self) -> bool:
        return self._split_names.are_halves

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set, which is what lm-eval's own ``--limit`` takes."""
        return first_samples(split, self._split_names, self._read, limit)

    def _read(self, split: str) -> Iterator[Sample]:
        def placed(number: int, subject: Subject) -> Iterator[tuple[float, int, int, Item]]:
            """Items with their place within their subject, from 0 to 1."""
            size = len(subject.docs[split]) if len(self._subjects) > 1 else 1
            for index, item in enumerate(subject.read(split)):
                yield (index + 0.5) / size, number, index, item

        for _, number, _, item in heapq.merge(*(placed(*pair) for pair in enumerate(self._subjects))):
            subject = self._subjects[number]
            cluster = subject.cluster(item.doc)
            if cluster is None and len(self._subjects) > 1:
                cluster = subject.name
            contexts = dict.fromkeys(map(str, item.asked.prompts))
            yield Sample(
                id=content_id(self._base_name, *contexts, *item.options),
                question=item.question,
                gold=item.gold,
                options=item.options,
                data={"subject": subject, "item": item, "cluster": cluster},
            )


def options_and_gold(task: Any, doc: Mapping[str, Any], where: Callable[[], str]) -> tuple[tuple[str, ...], str]:
    """Options of a row, and the right one of them; of a log-likelihood task, no options and its continuation.

    Several right ones are allowed; the first stands for them. lm-eval itself scores a row without any 0: hidden test
    labels (-1), a field of another name, a letter in a number's place.

    Raises InputError, with the place that ``where`` says: the row's label is missing, or names none of its options.
    """
    try:
        target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    except Exception as error:  # templates and functions of hundreds of task files raise what they like
        raise _unlabelled(task, doc, where(), f"its label cannot be read ({reason_of(error)})") from error
    targets = target if isinstance(target, list) else [target]
    held = f"its label is {target!r:.60}"
    if task.OUTPUT_TYPE != "multiple_choice":
        if not targets or not str(targets[0]).strip():
            raise _unlabelled(task, doc, where(), held)
        return (), str(targets[0]).strip()
    options = tuple(map(str, task.doc_to_choice(doc)))
    own_grader = callable(task.config.process_results)  # which may mean something else by the label
    known = (
        0 <= label < len(options) if isinstance(label, int) else label in options or own_grader for label in targets
    )
    if not targets or not all(known):
        raise _unlabelled(task, doc, where(), f"{held}, of the options {', '.join(map(repr, options))}")
    first = targets[0]
    return options, options[first] if isinstance(first, int) else str(first)


def _unlabelled(task: Any, doc: Mapping[str, Any], where: str, held: str) -> InputError:
    fields = ", ".join(name for name, value in doc.items() if value is not None)
    return InputError(
        f"{where}: {held}, with the fields {fields}, so {task.config.task} has no right answer. Mend or remove the "
        "row, or give rows with their labels, under the names of the data set on the hub."
    )


def _turns(messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> tuple[Message, ...]:
    """In place of a chat template, which the engine applies. An answer that is begun is the last turn."""
    assert add_generation_prompt == (messages[-1]["role"] != "assistant")
    return tuple(Message(turn["role"], turn["content"]) for turn in messages)


class _Drawn:
    """In place of lm-eval's sampler: examples that were drawn before."""

    def __init__(self, examples: Sequence[Mapping[str, Any]]) -> None:
        self._examples = examples

    def sample(self, n: int, eval_doc: object = None, **_: object) -> Sequence[Mapping[str, Any]]:
        assert n == len(self._examples)
        return self._examples


def unreadable_task(name: str, where: str, error: Exception) -> InputError:
    """The error for data that a task file of lm-eval cannot read."""
    return InputError(
        f"{where}: lm-eval's {name} cannot read this data ({reason_of(error)}). "
        "It must have the fields of the data set on the hub."
    )


def reason_of(error: Exception) -> str:
    """One line on an error of another library."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
