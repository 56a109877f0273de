"""From answers to training data: rules that drop answers, and decontamination."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError
from layercut.healing.prompt_sources import PromptGroup, PromptSource
from layercut.healing.prompts import AnswerRecord, plain_prompt
from layercut.healing.settings import FilterSettings
from layercut.progress import Say
from layercut.tasks import TASKS, base_name_of_task, load_task
from layercut.tasks.base import Split, Task
from layercut.tasks.selected_items import merge_items, reported_split
from layercut.text import count_of

if TYPE_CHECKING:
    from layercut.healing.examples import TrainingExample
    from layercut.models.loading import ReadableModel

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
BUILT_IN = tuple(name for name, row in TASKS.items() if not row.needs_files)  # their report items need no files
_OPERATORS = frozenset("+-*/×÷−")


def source_records(parts: Sequence[PromptGroup], *, need_answers: bool) -> list[AnswerRecord]:
    """Prompts as records, with the answers that come with them.

    ``need_answers`` leaves out prompts without one, and raises InputError where a source gives none.
    """
    records: list[Any] = []
    for part in parts:
        made_of: dict[str, Any] = {"stop": list(part.stop), "task": part.task.name} if part.task else {}
        made_of |= {"begins": part.begins} if part.begins else {}
        made_of |= {"finish_reason": "stop"} if need_answers else {}
        kept = [prompt for prompt in part.prompts if prompt.answer.strip() or not need_answers]
        if not kept:
            raise InputError("these prompts have no answers of their own; use `responses` self, or other rows.")
        records += [
            {"id": prompt.id, "prompt": plain_prompt(prompt.prompt), "completion": prompt.answer, **made_of}
            for prompt in kept
        ]
    return records


def examples_of(
    records: Sequence[AnswerRecord],
    reader: ReadableModel,
    filters: FilterSettings | None,
    items: ReportItems,
    max_length: int,
    what: str,
    say: Say,
) -> tuple[list[TrainingExample], dict[str, Any]]:
    """Training examples of at most ``max_length`` tokens without report items, and the counts of what was dropped.

    ``filters`` are None for prompts that nobody has answered: their completions are not trained on.
    """
    from layercut.healing.examples import encode_example

    counts: dict[str, Any] = {}
    clean, unit = records, "tokens"
    if filters is not None:
        unit = "tokens with their prompt"
        clean, dropped = filter_answers(records, filters)
        counts = {"answers": len(records), "dropped": dict(dropped)}
        reasons = ", ".join(f"{count} {rule}" for rule, count in dropped.items()) or "none dropped"
        advice = "; unfinished ones reached `max_new_tokens`: raise it, or keep them with `finished_only=false`"
        kept = f"{len(clean)} of {count_of(len(records), 'answer')} kept ({reasons})"
        say(f"{what}: {kept}{advice if dropped['unfinished'] else ''}")
    num_filtered = len(clean)
    clean, removed = remove_contaminated(clean, items)
    of_tasks = f" ({', '.join(f'{count} {task}' for task, count in removed.items())})" if removed else ""
    say(
        f"{what}: {num_filtered - len(clean)} answers removed because they contain report items{of_tasks}; "
        f"{items.num_items} items of {', '.join(items.tasks) or 'no task'} were looked for"
    )
    encoded = [encode_example(reader.tokenizer, record, reader.name) for record in clean]
    examples = [example for example in encoded if len(example) <= max_length]  # cut short they would have no end
    if too_long := len(encoded) - len(examples):
        say(f"{what}: {too_long} left out, longer than {max_length} {unit}")
    return examples, {**counts, "contaminated": num_filtered - len(clean), "too_long_with_prompt": too_long}


def filter_answers(
    records: Sequence[AnswerRecord], settings: FilterSettings
) -> tuple[list[AnswerRecord], Counter[str]]:
    """The records that meet all rules, and the number of others by the first rule that dropped them.

    A *repeated* prompt equals an earlier kept one but for case and spacing. System messages are not compared, nor are a
    task's items (``task``): they differ by construction. Raises InputError for ``right_only`` where none was graded.
    """
    if settings.right_only and not any("right" in record for record in records):
        raise InputError("none of these answers was graded; use task:NAME, or leave out `right_only`.")
    dropped: Counter[str] = Counter()
    kept: list[AnswerRecord] = []
    prompts: set[Words] = set()
    for record in records:
        prompt = normalised_words(prompt_text(record, system=False)) if "task" not in record else ()
        rules = {
            "empty": not record["completion"].strip(),
            "unfinished": settings.finished_only and record.get("finish_reason") == "length",
            "wrong": settings.right_only and not record.get("right", True),
            "with a repeated prompt": prompt in prompts,
        }
        reason = next((rule for rule, applies in rules.items() if applies), None)
        if reason is None:
            kept.append(record)
            prompts |= {prompt} if prompt else set()
        else:
            dropped[reason] += 1
    return kept, dropped


def prompt_text(record: AnswerRecord, *, system: bool = True) -> str:
    """All turns of a record's prompt; without ``system``, except system messages, which many prompts share."""
    prompt = record["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if system or turn["role"] != "system")


def normalised_words(text: str) -> Words:
    """A text normalised for comparison: lower case, words and signs one by one, so ``12+3`` equals ``12 + 3``."""
    return tuple(_WORD.findall(text.casefold()))


def _grams(text: Words, length: int) -> Iterator[Words]:
    if length:
        yield from (text[start : start + length] for start in range(len(text) - length + 1))


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
                item = normalised_words(question)
                for gram in _grams(item, min(N, len(item))):
                    self._grams.setdefault(len(gram), {}).setdefault(gram, set()).add(task)

    def found_in(self, prompt: str, completion: str) -> set[str]:
        """Tasks whose report items are in a prompt or answer.

        An item of N words or more is there if N words in a row are shared. A shorter item is there if all its words
        are, in a row. If it has fewer than SHORT words, they must be in the prompt, and not part of a longer
        expression: ``7 + 5`` in ``7 + 5 - 2`` is another problem. An item of fewer than FEWEST words must be a whole
        line.
        """
        tasks: set[str] = set()
        question, everything = normalised_words(prompt), normalised_words(f"{prompt}\n{completion}")
        lines = [normalised_words(line) for line in prompt.splitlines()]
        for length, known in self._grams.items():
            if length < FEWEST:
                tasks.update(*(known.get(line, ()) for line in lines))
                continue
            is_short = length < SHORT
            text = question if is_short else everything
            for start, gram in enumerate(_grams(text, length)):
                around = text[:start][-1:] + text[start + length :][:1]
                continues = any(word.isdigit() or word in _OPERATORS for word in around)
                if gram in known and not (is_short and continues):
                    tasks |= known[gram]
        return tasks


def remove_contaminated(records: Sequence[AnswerRecord], items: ReportItems) -> tuple[list[AnswerRecord], Counter[str]]:
    """The records that contain no report item, and the number of others by task; one may hold items of two tasks.

    A record made of a task's own selection item (``task``) is not compared with that task's report items. They are
    disjoint by construction, and share templates and worked examples on purpose.
    """
    tasks = [items.found_in(prompt_text(record), record["completion"]) - {record.get("task")} for record in records]
    counts = Counter(chain(*tasks))
    removed = Counter({task: counts[task] for task in items.tasks if counts[task]})
    return [record for record, of_record in zip(records, tasks, strict=True) if not of_record], removed


@cache
def _built_in_items(name: str) -> tuple[Task, list[str]]:
    """A task that needs no files, and the questions of its report items: made once for all healings of a process."""
    task = load_task(name)
    return task, [item.question for item in task.samples("report", None)]


def tasks_to_check(names: Iterable[str], data: Mapping[str, str]) -> dict[str, Task]:
    """Tasks whose report items training data must not hold, by base name; ``data``: local files by name."""
    tasks = {}
    # The number of examples before an item does not change it, so arc_easy:5 is checked as arc_easy.
    for base, name in {base_name_of_task(name): name for name in names}.items():
        is_built_in = name in BUILT_IN and name not in data
        tasks[base] = _built_in_items(name)[0] if is_built_in else load_task(name, data=data.get(name))
    return tasks


def full_test_sets(tasks: Mapping[str, Task], source: PromptSource) -> tuple[str, ...]:
    """Those of the tasks of which no item is a prompt, and selection items are part of the test set.

    A model healed with these prompts may be reported on all of that test set, so training data must hold none of it.
    """
    used = frozenset(chain(*source.items.values()))
    return tuple(name for name, task in tasks.items() if reported_split(task, used) == "full")


def items_used(tasks: Mapping[str, Task], source: PromptSource) -> dict[str, frozenset[str]]:
    """By task, ids of the items that are prompts or that training data was not checked for, if they may be reported."""
    in_full = full_test_sets(tasks, source)
    unchecked = {task.name: task.selection_part for name, task in tasks.items() if name not in in_full}
    return {name: ids for name, ids in merge_items(source.items, unchecked).items() if ids}


def report_items(tasks: Mapping[str, Task], source: PromptSource, say: Say) -> ReportItems:
    """Questions of report items, or of the whole test set (``full_test_sets``), of tasks; says what was not checked."""
    in_full = full_test_sets(tasks, source)
    splits: dict[str, Split] = {name: "full" if name in in_full else "report" for name in tasks}
    questions = {
        name: known[1]
        if name in BUILT_IN and (known := _built_in_items(name))[0] is task
        else [item.question for item in task.samples(splits[name], None)]
        for name, task in tasks.items()
    }
    questions = {name: texts for name, texts in questions.items() if texts}
    missing = [name for name in TASKS if name not in tasks]
    if missing:
        say(
            f"training data was not checked for report items of {', '.join(missing)}; to check it, use `decontaminate` "
            f"{missing[0]} or `data` {missing[0]}=PATH"
        )
    return ReportItems(questions)
