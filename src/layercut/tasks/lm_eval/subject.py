"""Subject: one lm-eval task as items. lm-eval's own code makes prompts, continuations and grades."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any, NamedTuple

from layercut.engine.base import Message, Prompt
from layercut.errors import InputError
from layercut.tasks.base import content_id
from layercut.tasks.lm_eval.labels import options_and_gold

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
    golds: tuple[str, ...]  # the right answers; one of them for most tasks, none where a program judges
    options: tuple[str, ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ()  # rows that stand before it as worked examples

    @property
    def gold(self) -> str:
        """The right answer that stands for all."""
        return self.golds[0] if self.golds else ""


class Subject:
    """One task of lm-eval, with a number of worked examples.

    Examples are drawn as lm-eval draws them: from its few-shot split, by one generator with its seed, row by row in the
    order of the data, so that an item's prompt is that of lm-eval's own run. An item is never its own example.
    """

    for_selection: tuple[str, ...] = ("validation",)
    """Splits of the data that hold selection items where the task file leaves them aside, as MMLU's does."""

    def __init__(self, name: str, task: Any, num_shots: int, *, chat: bool = False) -> None:
        self.name = name
        self.is_chat = chat
        self.task = task
        self._num_shots = num_shots
        docs = {
            "train": task.training_docs() if task.has_training_docs() else None,
            "validation": task.validation_docs() if task.has_validation_docs() else None,
            "test": task.test_docs() if task.has_test_docs() else None,
        }
        for split in self.for_selection:
            if docs[split] is None and split in task.dataset and task.config.test_split != split:
                prepare = task.config.process_docs or (lambda rows: rows)
                docs[split] = prepare(task.dataset[split])
        self.docs: dict[str, Any] = {split: rows for split, rows in docs.items() if rows is not None}
        self._made: dict[str, list[Item]] = {}
        self._draws = {split: Random(FEWSHOT_SEED) for split in self.docs}
        self._sampler = getattr(task, "sampler", None)
        self._examples_from = self._example_split()
        if num_shots:
            self._check_examples()

    @property
    def describes_examples(self) -> str:
        """Number and source of the worked examples, for the run's settings."""
        return f"{self._num_shots} of {self._examples_from}, seed {FEWSHOT_SEED}"

    def read(self, split: str) -> Iterator[Item]:
        """The items of a split in the order of the data.

        Raises:
            InputError: a row that lm-eval's task file cannot read, or that has no usable label.
        """
        made = self._made.setdefault(split, [])  # kept, because lm-eval's templates take milliseconds an item
        yield from made
        for number, doc in enumerate(islice(self.docs[split], len(made), None), start=len(made) + 1):
            try:
                item = self._item(doc, split, number)
            except InputError:
                raise
            except Exception as error:  # templates and functions of hundreds of task files raise what they like
                raise unreadable(self.name, self._where(split, number), error) from error
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

    def _item(self, doc: Mapping[str, Any], split: str, number: int) -> Item:
        """The item of a row, examples drawn."""
        raise NotImplementedError

    def _asked(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, chat: bool) -> Asked:
        """The input of a row behind these examples, as plain text or as a conversation."""
        raise NotImplementedError

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
        config = self.task.config
        split = self.task.fewshot_cfg.split
        if split is None and self.task.fewshot_cfg.samples is not None:
            return "the task file"
        if split is None:
            return next(name for name in ("train", "validation", "test") if name in self.docs)
        names = {config.test_split: "test", config.validation_split: "validation", config.training_split: "train"}
        return names.get(split, str(split))

    def _check_examples(self) -> None:
        wanted = getattr(self.task, "missing_examples", None)
        if wanted:
            raise InputError(
                f"{self.name}: its worked examples come from the split {wanted!r}, which the local data does not have. "
                f"Give a folder with a {wanted} file, or ask without examples ({self.name}:0)."
            )
        there = 0 if self._sampler is None else len(self._sampler.fewshot_docs())
        if there < self._num_shots + (self._examples_from in self.docs):  # one more, as no item is its own example
            raise InputError(
                f"{self.name}: {self._num_shots} worked examples were asked for, and its data has {there} rows for "
                "them. Ask for fewer, or give more data."
            )


class ChoiceSubject(Subject):
    """A multiple-choice or log-likelihood task: continuations to be scored."""

    def parts(self, doc: Mapping[str, Any]) -> tuple[str, tuple[str, ...], str]:
        """Question, options and right option of a row as people would write them.

        Without the description of the subject and the mark where the answer stands; of Winogrande, the sentence with
        its gap and what may fill it.
        """
        options, gold = options_and_gold(self.task, doc, lambda: self.name)
        if not self.task.multiple_input:
            question = self.task.doc_to_text(doc)
            return str(question).rstrip().removesuffix("Answer:").rstrip(), options, gold
        length = next((i for i, letters in enumerate(zip(*options, strict=False)) if len(set(letters)) > 1), 0)
        same = options[0][: options[0].rfind(" ", 0, length) + 1]
        fillings = tuple(option[len(same) :] for option in options)
        return f"{same}_ {self.task.doc_to_target(doc)}", fillings, fillings[options.index(gold)]

    def _item(self, doc: Mapping[str, Any], split: str, number: int) -> Item:
        options, gold = options_and_gold(self.task, doc, lambda: self._where(split, number))
        asked = self._asked(doc, (), chat=False)
        examples = self._draw(doc, split)
        for example in examples:
            options_and_gold(self.task, example, lambda: f"a worked example of {self.name}")
        question = self.parts(doc)[0] if self.task.multiple_input else str(asked.prompts[0])
        return Item(doc, question, asked, (gold,), options, examples)

    def _asked(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, chat: bool) -> Asked:
        context = self._context(doc, examples, chat=chat)
        requests = self.task.construct_requests(doc, context, apply_chat_template=chat)
        pairs = [request.args for request in (requests if isinstance(requests, list) else [requests])]
        return Asked(tuple(prompt for prompt, _ in pairs), tuple(str(text) for _, text in pairs))


def _turns(messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> tuple[Message, ...]:
    """In place of a chat template, which the engine applies. An answer that is begun is the last turn."""
    assert add_generation_prompt == (messages[-1]["role"] != "assistant")
    return tuple(Message(one["role"], one["content"]) for one in messages)


class _Drawn:
    """In place of lm-eval's sampler: examples that were drawn before."""

    def __init__(self, examples: Sequence[Mapping[str, Any]]) -> None:
        self._examples = examples

    def sample(self, n: int, eval_doc: object = None, **_: object) -> Sequence[Mapping[str, Any]]:
        assert n == len(self._examples)
        return self._examples


def unreadable(name: str, where: str, error: Exception) -> InputError:
    """The error for data that a task file of lm-eval cannot read."""
    return InputError(
        f"{where}: lm-eval's {name} cannot read this data ({reason(error)}). "
        "It must have the fields of the data set on the hub."
    )


def reason(error: Exception) -> str:
    """One line on an error of another library."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
