"""Rows from elsewhere in lm-eval's tasks: the user's own files in place of the hub's data sets, and single samples of
ours in its published few-shot prompts."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, MissingExtra
from layercut.tasks.base import Sample
from layercut.tasks.data_files import DataRow, DataSet
from layercut.tasks.lm_eval.subject import options_and_gold, unreadable_task
from layercut.tasks.selected_items import CompletionForm

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

SUBJECT = "subject"
"""The field that says which part of a data set a row belongs to, as in MMLU; the hub has a configuration for each."""
_SPLIT_FIELDS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
_LAST_SENTENCE = re.compile(r"(?:.*[.!?]\s)?(?P<last>[^.!?]*)", re.DOTALL)
_OF_PROMPTS = (
    *("doc_to_text", "doc_to_target", "target_delimiter"),
    *("fewshot_delimiter", "description", "generation_kwargs"),
)


def local_reader(local: DataSet, *, in_group: bool) -> type[ConfigurableTask]:
    """The class of a task that reads its rows from memory instead of the hub."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):  # type: ignore[misc]
        missing_examples: str | None = None
        places: Mapping[str, Sequence[str]]  # places of the rows of each split in the user's files

        def __init__(self, config: dict[str, Any]) -> None:
            try:
                super().__init__(config={key: value for key, value in config.items() if key != "class"})
            except Exception as error:  # lm-eval reads the first row of what it evaluates
                docs = getattr(self, "task_docs", None)
                if docs is None:
                    raise
                split = "test" if self.has_test_docs() else "validation"
                where = self.places[split][0] if len(self.places[split]) == len(docs) else f"{split} row 1"
                _check_label(self, docs[0], where)
                raise unreadable_task(self.config.task, where, error) from error

        def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
            config, examples = self.config, self.fewshot_cfg
            rows = _rows_of_subject(local, config.dataset_name, config.task, in_group=in_group)
            fields = {split: [dict(row.fields) for row in of_split] for split, of_split in rows.items()}
            if _is_prepared_hellaswag(rows[min(rows)][0].fields) and config.process_docs is not None:
                fields = {split: prepare_hellaswag(of_split) for split, of_split in fields.items()}
                config.process_docs = examples.process_docs = None
            self.dataset = {split: Dataset.from_list(of_split) for split, of_split in fields.items()}
            if config.process_docs is not None:
                read = [(self.dataset[split], of_split) for split, of_split in rows.items()]
                config.process_docs = partial(_prepared, config.process_docs, read, config.task)
            # The task file names splits of the hub's data set; what is there decides.
            for field, split in _SPLIT_FIELDS.items():
                wanted = getattr(config, field) is not None and split in self.dataset
                setattr(config, field, split if wanted else None)
            if config.test_split is None and config.validation_split is None:
                config.test_split = min(self.dataset)
                config.training_split = None
            own = {split: getattr(config, field) for field, split in _SPLIT_FIELDS.items()}
            self.places = {split: [row.where for row in rows[name]] for split, name in own.items() if name}
            if examples.split == "dev" and "dev" not in self.dataset and "validation" in self.dataset:
                examples.split = "validation"  # a dev file without a validation file beside it
            if examples.split not in self.dataset:
                self.missing_examples, examples.split = examples.split, None

    return LocalTask


def published_form(file: str, num_shots: int, row: Callable[[Sample], Mapping[str, Any]]) -> CompletionForm:
    """The prompt of an lm-eval task with the first of the worked examples in its file.

    A base model has no chat template, so it is asked to continue a text: worked examples, then the problem. Both are
    read from lm-eval's own package; its graders are not even imported.

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

    place = Path(next(iter(spec.submodule_search_locations)), "tasks", file)
    described = load_yaml(place, resolve_func=False)
    examples = _function(described["fewshot_config"]["samples"])()
    if not 0 <= num_shots <= len(examples):
        raise InputError(
            f"{place.stem} has {len(examples)} worked examples, not {num_shots}; use 0 to {len(examples)}."
        )
    rows = DataSet({"test": [DataRow(f"example {number}", doc) for number, doc in enumerate(examples, start=1)]})
    task = local_reader(rows, in_group=False)(
        {
            **{key: _resolved(described[key]) for key in _OF_PROMPTS if key in described},
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


def prepare_hellaswag(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as lm-eval's own preparation leaves them: ``query`` and ``choices``.

    lm-eval capitalises the part of the context that the ending goes on (``ctx_b``). Where the two parts have been
    joined, that is the beginning of a sentence at the end, in small letters and without a full stop. Marks in brackets
    are gone from such files, and the preparation must not run over them again: it would change their white space.

    >>> prepare_hellaswag([{"activity_label": "Roofing", "ctx": "A man sits. he", "endings": ["slips."], "label": 0}])
    [{'query': 'Roofing: A man sits. He', 'choices': ['slips.'], 'label': 0}]
    """
    return [
        {
            "query": f"{row['activity_label']}: {_capitalised(str(row['ctx']))}".strip(),
            "choices": list(row["endings"]),
            # None where a hidden test label stands, so that the row is refused by name.
            "label": int(str(label)) if str(label := row.get("label")).isdigit() else None,
        }
        for row in rows
    ]


def _is_prepared_hellaswag(fields: Mapping[str, Any]) -> bool:
    return "ctx" in fields and "endings" in fields and "ctx_a" not in fields


def _capitalised(context: str) -> str:
    match = _LAST_SENTENCE.fullmatch(context)
    last = match["last"] if match else ""
    return context[: len(context) - len(last)] + last.capitalize() if last[:1].islower() else context


def _prepared(
    prepare: Callable[[Dataset], Dataset], read: Sequence[tuple[Dataset, Sequence[DataRow]]], name: str, data: Dataset
) -> Dataset:
    """Rows as a task file prepares them, with an error that names the row on which it fails."""
    try:
        return prepare(data)
    except Exception:  # task files run any code
        for number, row in enumerate(next((rows for part, rows in read if part is data), ())):
            try:
                prepare(data.select([number]))
            except Exception as error:
                raise unreadable_task(name, row.where, error) from error
        raise


def _rows_of_subject(local: DataSet, subject: str | None, task: str, *, in_group: bool) -> dict[str, list[DataRow]]:
    """The rows of a local data set that belong to one task, by split.

    A file that holds several subjects is divided by its field ``subject``; one without that field belongs to the task
    as a whole, and so does one whose subjects are no configurations of the data set on the hub.

    Raises InputError: a task of a group, and no row of its subject, though the rows have subjects.
    """
    rows = {split: list(of_split) for split, of_split in local.splits.items()}
    known = {str(row.fields[SUBJECT]) if SUBJECT in row.fields else None for part in rows.values() for row in part}
    if subject is None or None in known or (subject not in known and not in_group):
        return rows
    if subject not in known:
        raise InputError(
            f"there are no rows of the {SUBJECT} {subject!r}, which {task} needs; the data holds {len(known)} subjects"
        )
    own = {split: [row for row in part if str(row.fields[SUBJECT]) == subject] for split, part in rows.items()}
    return {split: of_split for split, of_split in own.items() if of_split}


def _check_label(task: Any, doc: Mapping[str, Any], where: str) -> None:
    """Refuse the first row by its label, where that is why lm-eval cannot set up the task."""
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
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    own = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module([*own], type_ignores=[]), str(path), "exec"), namespace)
    return namespace[name]
