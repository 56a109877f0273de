"""The right option of a row of an lm-eval multiple-choice task; a row without one is refused.

lm-eval itself scores such a row 0: hidden test labels (-1), a field of another name, a letter in a number's place.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError, MissingExtra
from layercut.tasks.base import Sample
from layercut.tasks.data_files import DataRow, DataSet

_KEPT = ("doc_to_text", "doc_to_target", "target_delimiter", "fewshot_delimiter", "description", "generation_kwargs")


class CompletionForm(NamedTuple):
    """A problem as plain text."""

    prompt: Callable[[Sample], str]
    stop: tuple[str, ...]
    described: Mapping[str, Any]
    """For the run's settings."""


def published_form(file: str, num_shots: int, row: Callable[[Sample], Mapping[str, Any]]) -> CompletionForm:
    """The prompt of an lm-eval task with the first of the worked examples in its file.

    Args:
        file: of the task, within lm-eval's folder of tasks.
        row: from a sample, the fields that the task's template needs.

    Raises:
        MissingExtra: lm-eval is not installed.
        InputError: more examples than the file has.
    """
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("worked examples of published prompts", "lm-eval")
    from lm_eval.tasks._yaml_loader import load_yaml

    from layercut.tasks.lm_eval.local_rows import reading

    place = Path(next(iter(spec.submodule_search_locations)), "tasks", file)
    described = load_yaml(place, resolve_func=False)
    examples = _function(described["fewshot_config"]["samples"])()
    if not 0 <= num_shots <= len(examples):
        raise InputError(
            f"{place.stem} has {len(examples)} worked examples, not {num_shots}; use 0 to {len(examples)}."
        )
    rows = DataSet({"test": [DataRow(f"example {number}", one) for number, one in enumerate(examples, start=1)]})
    kept = {key: _resolved(described[key]) for key in _KEPT if key in described}
    task = reading(rows, in_group=False)(
        {
            **kept,
            "task": place.stem,
            "output_type": "generate_until",
            "test_split": "test",
            "metric_list": [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}],
            "fewshot_config": {"sampler": "first_n", "samples": examples},
        }
    )
    until = task.config.generation_kwargs["until"]
    return CompletionForm(
        lambda sample: str(task.fewshot_context(dict(row(sample)), num_shots)),
        (until,) if isinstance(until, str) else tuple(until),
        {"examples": f"{num_shots} of {place.stem}", "lm_eval": version_of("lm_eval")},
    )


def _resolved(value: Any) -> Any:
    """A function where a task file names one, as a path and a name; else the value itself."""
    is_function = isinstance(value, str) and "\n" not in value and Path(f"{value.rpartition('.')[0]}.py").is_file()
    return _function(value) if is_function else value


def _function(named: str) -> Any:
    """One function of a module that needs nothing else of it: ``.../minerva_math/utils.doc_to_text``.

    The module is not imported, because some load a grader that runs programs, or need packages of certain versions.
    """
    module, _, name = named.rpartition(".")
    path = Path(f"{module}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    found: dict[str, Any] = {}
    exec(compile(ast.Module([*own], type_ignores=[]), str(path), "exec"), found)
    return found[name]


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
