"""The user's own files in place of the hub's data sets, in tasks of lm-eval."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError
from layercut.tasks.data_files import DataRow, DataSet
from layercut.tasks.lm_eval.subject import unreadable_task

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

SUBJECT = "subject"
"""The field that says which part of a data set a row belongs to, as in MMLU; the hub has a configuration for each."""
_SPLIT_FIELDS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
_LAST_SENTENCE = re.compile(r"(?:.*[.!?]\s)?(?P<last>[^.!?]*)", re.DOTALL)


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
                raise unreadable_task(self.config.task, where, error) from error

        def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
            config, examples = self.config, self.fewshot_cfg
            rows = _rows_of_subject(local, config.dataset_name, config.task, in_group=in_group)
            fields = {split: [dict(row.fields) for row in of_split] for split, of_split in rows.items()}
            first = fields[min(fields)][0]
            if {"activity_label", "ctx", "endings"} <= first.keys() and "ctx_a" not in first:
                fields = {split: prepare_hellaswag(of_split) for split, of_split in fields.items()}
                config.process_docs = examples.process_docs = None
            self.dataset = {split: Dataset.from_list(of_split) for split, of_split in fields.items()}
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


def prepare_hellaswag(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose contexts are joined, as lm-eval's own preparation leaves those of the hub: ``query`` and ``choices``.

    lm-eval capitalises the part of the context that the ending continues (``ctx_b``). In a joined context that is the
    beginning of a sentence at the end, in small letters and without a full stop: "A man sits. he" gets "He".
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


def _rows_of_subject(local: DataSet, subject: str | None, task: str, *, in_group: bool) -> dict[str, list[DataRow]]:
    """The rows of a local data set that belong to one task, by split.

    A file that holds several subjects is divided by its field ``subject``; one without that field belongs to the task
    as a whole, and so does one whose subjects are no configurations of the data set on the hub.
    """
    rows = {split: list(of_split) for split, of_split in local.splits.items()}
    known = {str(row.fields[SUBJECT]) if SUBJECT in row.fields else None for part in rows.values() for row in part}
    if subject is None or None in known or (subject not in known and not in_group):
        return rows
    if subject not in known:
        raise InputError(f"no rows of the {SUBJECT} {subject!r}, which {task} needs, but of {len(known)} others")
    own = {split: [row for row in part if str(row.fields[SUBJECT]) == subject] for split, part in rows.items()}
    return {split: of_split for split, of_split in own.items() if of_split}
