"""Rows of the user's own files in place of lm-eval's data sets on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError
from layercut.tasks.data_files import DataRow, DataSet
from layercut.tasks.lm_eval.labels import check_label
from layercut.tasks.lm_eval.subject import unreadable

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

_SPLIT_FIELDS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
SUBJECT = "subject"
"""The field that says which part of a data set a row belongs to, as in MMLU; the hub has a configuration for each."""
_LAST_SENTENCE = re.compile(r"(?:.*[.!?]\s)?(?P<last>[^.!?]*)", re.DOTALL)


def reading(local: DataSet, *, in_group: bool) -> type[ConfigurableTask]:
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
                check_label(self, docs[0], where)
                raise unreadable(self.config.task, where, error) from error

        def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
            config, examples = self.config, self.fewshot_cfg
            rows = rows_of_subject(local, config.dataset_name, config.task, in_group=in_group)
            fields = {split: [dict(row.fields) for row in of_split] for split, of_split in rows.items()}
            if is_prepared_hellaswag(rows[min(rows)]) and config.process_docs is not None:
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
                raise unreadable(name, row.where, error) from error
        raise


def rows_of_subject(local: DataSet, subject: str | None, task: str, *, in_group: bool) -> dict[str, list[DataRow]]:
    """The rows of a local data set that belong to one task, by split.

    A file that holds several subjects is divided by its field ``subject``; one without that field belongs to the task
    as a whole, and so does one whose subjects are no configurations of the data set on the hub.

    Raises:
        InputError: a task of a group, and no row of its subject, though the rows have subjects.
    """
    rows = {split: list(of_split) for split, of_split in local.splits.items()}
    if subject is None or not all(SUBJECT in row.fields for of_split in rows.values() for row in of_split):
        return rows
    known = {str(row.fields[SUBJECT]) for of_split in rows.values() for row in of_split}
    if subject not in known and not in_group:
        return rows
    if subject not in known:
        raise InputError(
            f"there are no rows of the {SUBJECT} {subject!r}, which {task} needs; the data holds {len(known)} subjects"
        )
    own = {split: [row for row in of_split if str(row.fields[SUBJECT]) == subject] for split, of_split in rows.items()}
    return {split: of_split for split, of_split in own.items() if of_split}


def is_prepared_hellaswag(rows: Sequence[DataRow]) -> bool:
    """True if these are rows of HellaSwag whose context was put together already (``ctx`` and no ``ctx_a``)."""
    first = rows[0].fields
    return "ctx" in first and "endings" in first and "ctx_a" not in first


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


def _capitalised(context: str) -> str:
    match = _LAST_SENTENCE.fullmatch(context)
    last = match["last"] if match else ""
    return context[: len(context) - len(last)] + last.capitalize() if last[:1].islower() else context
