"""Decontamination: remove training data that contains report items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from layercut.healing.filters import prompt_text
from layercut.healing.near_duplicates import Words, grams, words

N = 13
"""Words of an overlap that counts, as in GPT-3 (Brown et al., arXiv:2005.14165, appendix C)."""
SHORT = 8
"""Items of fewer words (``7 + 5``) turn up by chance in any chain of steps, so they contaminate only a prompt, not an
answer. Eight is the shortest overlap that GPT-3 used.
"""

FEWEST = 3
"""Words of an item that is searched for inside lines of a prompt. Shorter ones (a stem such as ``evaporation``) are no
questions, and contaminate only as a whole line.
"""

_OPERATORS = frozenset("+-*/×÷−")


class Decontaminated(NamedTuple):
    """The kept records, and how many were removed."""

    records: list[Mapping[str, Any]]
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
        found: set[str] = set()
        asked, everything = words(prompt), words(f"{prompt}\n{completion}")
        lines = [words(line) for line in prompt.splitlines()]
        for length, known in self._grams.items():
            is_short = length < SHORT
            text = asked if is_short else everything
            if length < FEWEST:
                found.update(*(known.get(line, ()) for line in lines))
                continue
            for start, gram in enumerate(grams(text, length)):
                tasks = known.get(gram)
                if tasks and not (is_short and _goes_on(text[:start][-1:] + text[start + length :][:1])):
                    found |= tasks
        return found


def decontaminate(records: Sequence[Mapping[str, Any]], items: ReportItems) -> Decontaminated:
    """Remove every record whose prompt or answer contains a report item.

    A record made of a task's own selection item (``task``) is not compared with that task's report items. They are
    disjoint by construction, and share templates and worked examples on purpose.
    """
    kept = []
    removed = dict.fromkeys(items.tasks, 0)
    for record in records:
        found = items.found_in(prompt_text(record), record["completion"]) - {record.get("task")}
        for task in found:
            removed[task] += 1
        if not found:
            kept.append(record)
    return Decontaminated(kept, removed, len(records) - len(kept), items.num_items)


def _goes_on(neighbours: Words) -> bool:
    """Whether the words beside an expression continue it.

    >>> _goes_on(("is", "?")), _goes_on((":", "-"))
    (False, True)
    """
    return any(word.isdigit() or word in _OPERATORS for word in neighbours)
