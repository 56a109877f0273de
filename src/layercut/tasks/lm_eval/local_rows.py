"""Rows of the user's own files in place of lm-eval's data sets on the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from layercut.tasks.data_files import DataRow, DataSet
from layercut.tasks.lm_eval.choice_task import hellaswag as prepared_hellaswag
from layercut.tasks.lm_eval.choice_task import is_prepared_hellaswag, of_subject
from layercut.tasks.lm_eval.labels import check_label
from layercut.tasks.lm_eval.subject import unreadable

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

_SPLIT_FIELDS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}


def reading(local: DataSet, *, in_group: bool) -> type[ConfigurableTask]:
    """The class of a task that reads its rows from memory instead of the hub."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):  # type: ignore[misc]
        missing_examples: str | None = None
        places: Mapping[str, Sequence[str]]
        """Places of the rows of each split in the user's files."""

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
            rows = of_subject(local, config.dataset_name, config.task, in_group=in_group)
            fields = {split: [dict(row.fields) for row in of_split] for split, of_split in rows.items()}
            if is_prepared_hellaswag(rows[min(rows)]) and config.process_docs is not None:
                fields = {split: prepared_hellaswag(of_split) for split, of_split in fields.items()}
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
