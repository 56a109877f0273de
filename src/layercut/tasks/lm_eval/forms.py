"""CompletionForm: published few-shot prompts of benchmarks that layercut grades itself, from lm-eval's own files.

A base model has no chat template, so it is asked to continue a text: worked examples, then the problem. The examples
and templates are read from lm-eval's own package when they are needed; its graders are not even imported.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
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
    described: Mapping[str, Any]  # for the run's settings


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
