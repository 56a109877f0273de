"""The right option of a row of an lm-eval multiple-choice task; a row without one is refused.

lm-eval itself scores such a row 0: hidden test labels (-1), a field of another name, a letter in a number's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from layercut.errors import InputError


def options_and_gold(task: Any, doc: Mapping[str, Any], where: Callable[[], str]) -> tuple[tuple[str, ...], str]:
    """Options of a row, and the right one of them; of a log-likelihood task, no options and its continuation.

    Several right ones are allowed; the first stands for them.

    Args:
        where: says which row it is, for the message.

    Raises:
        InputError: the row's label is missing, or names none of its options.
    """
    source = task.config.doc_to_text if task.multiple_input else task.config.doc_to_target
    read = task.doc_to_text if task.multiple_input else task.doc_to_target
    try:
        target = read(doc)
    except Exception as error:  # templates and functions of hundreds of task files raise what they like
        raise _unlabelled(task, doc, source, where(), "") from error
    targets = target if isinstance(target, list) else [target]
    if task.OUTPUT_TYPE != "multiple_choice":
        if not targets or not str(targets[0]).strip():
            raise _unlabelled(task, doc, source, where(), "The right continuation must not be empty. ")
        return (), str(targets[0]).strip()
    options = tuple(str(option) for option in task.doc_to_choice(doc))
    own_grader = callable(task.config.process_results)  # which may mean something else by the label
    known = (0 <= one < len(options) if isinstance(one, int) else one in options or own_grader for one in targets)
    if not targets or not all(known):
        fine = f"It must be a number from 0 to {len(options) - 1}, or one of {', '.join(map(repr, options))}. "
        raise _unlabelled(task, doc, source, where(), fine)
    first = targets[0]
    return options, options[first] if isinstance(first, int) else str(first)


def check_label(task: Any, doc: Mapping[str, Any], where: str) -> None:
    """Refuse the first row by its label, where that is why lm-eval cannot set up the task.

    Raises:
        InputError: see options_and_gold.
    """
    try:
        task.doc_to_text(doc)
    except Exception:  # of a task such as WinoGrande the text is the number of the right option
        task.multiple_input = callable(task.config.doc_to_text)
    try:
        options_and_gold(task, doc, lambda: where)
    except InputError:
        raise
    except Exception:  # it is not the label
        return


def _unlabelled(task: Any, doc: Mapping[str, Any], source: object, where: str, fine: str) -> InputError:
    names = _fields(source, doc)
    lacking = [name for name in names if doc.get(name) is None]
    if lacking:
        has = ", ".join(name for name, value in doc.items() if value is not None)
        held = f"no field {' or '.join(map(repr, lacking))}, only {has}"
    else:
        held = " and ".join(f"the field {name!r} holds {doc[name]!r:.60}" for name in names) or "no right answer in it"
    return InputError(
        f"{where}: {held}, so {task.config.task} has no right answer. {fine}Mend or remove the row, or give rows "
        "with their labels, under the names of the data set on the hub."
    )


def _fields(source: object, doc: Mapping[str, Any]) -> list[str]:
    """The fields that a template or a function of a task file reads."""
    if callable(source):
        read = _Noting(doc)
        with suppress(Exception):  # it is called only for what it reads
            source(read)
        return list(dict.fromkeys(read.read))
    if isinstance(source, str) and source.isidentifier():
        return [source]
    from jinja2 import Environment, meta

    return sorted(meta.find_undeclared_variables(Environment().parse(str(source))))


class _Noting(dict[str, Any]):
    """A row that notes which of its fields are read."""

    def __init__(self, doc: Mapping[str, Any]) -> None:
        super().__init__(doc)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.read.append(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.append(name)
        return super().get(name, default)
