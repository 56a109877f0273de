"""Filters of training data: rules that drop answers, and decontamination, which drops those with report items."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from layercut.errors import InputError, MissingExtra
from layercut.healing.prompt_sources import PromptSource
from layercut.healing.prompts import AnswerRecord
from layercut.healing.settings import FilterSettings
from layercut.progress import Say
from layercut.tasks import TASKS, base_name, load_task
from layercut.tasks.base import Split, Task
from layercut.tasks.selected_items import merge_items, reported_split
from layercut.text.counting import counted

Words = tuple[str, ...]
_WORD = re.compile(r"\w+|[^\w\s]")

N = 13  # words of an overlap that counts, as in GPT-3 (Brown et al., arXiv:2005.14165, appendix C)
SHORT = 8
"""Items of fewer words (``7 + 5``) turn up by chance in any chain of steps, so they contaminate only a prompt, not an
answer. Eight is the shortest overlap that GPT-3 used.
"""

FEWEST = 3
"""Words of an item that is searched for inside lines of a prompt. Shorter ones (a stem such as ``evaporation``) are no
questions, and contaminate only as a whole line.
"""

BUILT_IN = ("arithmetic", "brackets", "copy", "chain_sum", "gsm_symbolic")  # tasks whose report items need no files
_OPERATORS = frozenset("+-*/×÷−")


class Filtered(NamedTuple):
    """The kept records, and why others were dropped."""

    records: list[AnswerRecord]
    dropped: dict[str, int]  # number of records by the first rule that dropped them, 0 for the other rules

    def describe(self) -> str:
        gone = ", ".join(f"{count} {rule}" for rule, count in self.dropped.items() if count) or "none dropped"
        total = len(self.records) + sum(self.dropped.values())
        text = f"{len(self.records)} of {counted(total, 'answer')} kept ({gone})"
        if self.dropped["unfinished"]:
            return (
                f"{text}; unfinished ones reached `max_new_tokens`: raise it, or keep them with `finished_only=false`"
            )
        return text


RULES = ("empty", "unfinished", "too long", "too short", "wrong", "with a repeated prompt")
"""Why a record is dropped, in the order in which the rules are applied."""


def filter_responses(records: Sequence[AnswerRecord], settings: FilterSettings) -> Filtered:
    """Apply the rules, in the order of ``RULES``.

    A *repeated* prompt equals an earlier kept one but for case and spacing. System messages are not compared, nor are a
    task's items (``task``): they differ by construction.

    Raises:
        InputError: ``right_only`` and records of which none was graded.
    """
    if settings.right_only and not any("right" in record for record in records):
        raise InputError(
            "none of these answers was graded, so the right ones cannot be selected; use prompts of a task "
            "(task:NAME), or leave out `right_only`."
        )
    dropped = dict.fromkeys(RULES, 0)
    kept: list[AnswerRecord] = []
    prompts: set[Words] = set()
    for record in records:
        reason = next(_reasons(record, settings), None)
        if reason is None and "task" not in record:
            asked = words(prompt_text(record, system=False))
            if asked in prompts:
                reason = "with a repeated prompt"
            prompts.add(asked)
        if reason is None:
            kept.append(record)
        else:
            dropped[reason] += 1
    return Filtered(kept, dropped)


def prompt_text(record: AnswerRecord, *, system: bool = True) -> str:
    """All turns of a record's prompt; without ``system``, except system messages, which many prompts share."""
    prompt = record["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if system or turn["role"] != "system")


def _reasons(record: AnswerRecord, settings: FilterSettings) -> Iterator[str]:
    asked, shared = record.get("num_prompt_tokens", 0), record.get("num_new_tokens", 0)
    if not record["completion"].strip():
        yield "empty"
    if settings.finished_only and record.get("finish_reason") == "length":
        yield "unfinished"
    if settings.max_tokens is not None and asked + shared > settings.max_tokens:
        yield "too long"
    if shared < settings.min_tokens:
        yield "too short"
    if settings.right_only and not record.get("right", True):
        yield "wrong"


def words(text: str) -> Words:
    """A text normalised for comparison: lower case, words and signs one by one, so ``12+3`` equals ``12 + 3``.

    >>> words("What is 12+3?")
    ('what', 'is', '12', '+', '3', '?')
    """
    return tuple(_WORD.findall(text.casefold()))


def grams(text: Words, length: int) -> Iterator[Words]:
    """All n-grams of words; none of length 0."""
    if length:
        yield from (text[start : start + length] for start in range(len(text) - length + 1))


class Decontaminated(NamedTuple):
    """The kept records, and how many were removed."""

    records: list[AnswerRecord]
    removed: dict[str, int]
    """Records per task whose items they hold; a record that holds items of two tasks counts for both."""
    num_removed: int
    num_items: int

    def describe(self) -> str:
        tasks = ", ".join(f"{count} {task}" for task, count in self.removed.items() if count)
        return (
            f"{self.num_removed} answers removed because they contain report items{f' ({tasks})' if tasks else ''}; "
            f"{self.num_items} items of {', '.join(self.removed) or 'no task'} were looked for"
        )


class ReportItems:
    """N-grams of report items, to be searched for in texts."""

    def __init__(self, items: Mapping[str, Iterable[str]]) -> None:
        """Args: per task the questions of its report items."""
        self._grams: dict[int, dict[Words, set[str]]] = {}
        self.tasks = list(items)
        self.num_items = 0
        for task, questions in items.items():
            for question in questions:
                self.num_items += 1
                item = words(question)
                for gram in grams(item, min(N, len(item))):
                    self._grams.setdefault(len(gram), {}).setdefault(gram, set()).add(task)

    def found_in(self, prompt: str, completion: str) -> set[str]:
        """Tasks whose report items are in a prompt or answer.

        An item of N words or more is there if N words in a row are shared. A shorter item is there if all its words
        are, in a row. If it has fewer than SHORT words, they must be in the prompt, and not part of a longer
        expression: ``7 + 5`` in ``7 + 5 - 2`` is another problem. An item of fewer than FEWEST words must be a whole
        line.
        """
        tasks_found: set[str] = set()
        asked, everything = words(prompt), words(f"{prompt}\n{completion}")
        lines = [words(line) for line in prompt.splitlines()]
        for length, known in self._grams.items():
            is_short = length < SHORT
            text = asked if is_short else everything
            if length < FEWEST:
                tasks_found.update(*(known.get(line, ()) for line in lines))
                continue
            for start, gram in enumerate(grams(text, length)):
                tasks = known.get(gram)
                if tasks and not (is_short and _goes_on(text[:start][-1:] + text[start + length :][:1])):
                    tasks_found |= tasks
        return tasks_found


def decontaminate(records: Sequence[AnswerRecord], items: ReportItems) -> Decontaminated:
    """Remove every record whose prompt or answer contains a report item.

    A record made of a task's own selection item (``task``) is not compared with that task's report items. They are
    disjoint by construction, and share templates and worked examples on purpose.
    """
    kept = []
    removed = dict.fromkeys(items.tasks, 0)
    for record in records:
        tasks = items.found_in(prompt_text(record), record["completion"]) - {record.get("task")}
        for task in tasks:
            removed[task] += 1
        if not tasks:
            kept.append(record)
    return Decontaminated(kept, removed, len(records) - len(kept), items.num_items)


def _goes_on(neighbours: Words) -> bool:
    """True if the words beside an expression continue it.

    >>> _goes_on(("is", "?")), _goes_on((":", "-"))
    (False, True)
    """
    return any(word.isdigit() or word in _OPERATORS for word in neighbours)


def tasks_to_check(names: Iterable[str], data: Mapping[str, str]) -> dict[str, Task]:
    """Tasks whose report items training data must not hold, by base name; ``data``: local files by name."""
    tasks = {}
    # The number of examples before an item does not change it, so arc_easy:5 is checked as arc_easy.
    for base, name in {base_name(name): name for name in names}.items():
        try:
            tasks[base] = load_task(name, data=data.get(name))
        except MissingExtra as error:
            raise InputError(f"the report items of {name} cannot be read: {error}") from error
    return tasks


def full_test_sets(tasks: Mapping[str, Task], source: PromptSource) -> tuple[str, ...]:
    """Those of the tasks of which no item is a prompt, and selection items are part of the test set.

    A model healed with these prompts may be reported on all of that test set, so training data must hold none of it.
    """
    used = frozenset(chain(*source.items.values()))
    return tuple(name for name, task in tasks.items() if reported_split(task, used) == "full")


def items_used(tasks: Mapping[str, Task], in_full: Collection[str], source: PromptSource) -> dict[str, frozenset[str]]:
    """By task, ids of the items that are prompts or that training data was not checked for, if they may be reported."""
    unchecked = {task.name: task.selection_part for name, task in tasks.items() if name not in in_full}
    return {name: ids for name, ids in merge_items(source.items, unchecked).items() if ids}


def report_items(tasks: Mapping[str, Task], in_full: Collection[str], say: Say) -> ReportItems:
    """Questions of the report items of tasks, and of the whole test sets of ``in_full``; says what was not checked."""
    splits: dict[str, Split] = {name: "full" if name in in_full else "report" for name in tasks}
    questions = {name: [item.question for item in task.samples(splits[name], None)] for name, task in tasks.items()}
    missing = [name for name in TASKS if name not in tasks]
    if missing:
        say(
            f"training data was not checked for report items of {', '.join(missing)}; to check it, use `decontaminate` "
            f"{missing[0]} or `data` {missing[0]}=PATH"
        )
    return ReportItems(questions)
