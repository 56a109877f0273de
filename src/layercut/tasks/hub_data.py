"""Rows of data sets on the Hugging Face hub."""

from __future__ import annotations

from layercut.errors import InputError, MissingExtra
from layercut.tasks.data_files import DataSet, Row


def read_hub(dataset: str, config: str | None, task: str) -> DataSet:
    """All splits of a data set, from the hub or its cache on this machine.

    Raises:
        MissingExtra: the library ``datasets`` is not installed.
        InputError: it cannot be fetched.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra(f"fetching {dataset}", "lm-eval") from error
    try:
        found = load_dataset(dataset, config)
    except Exception as error:  # what a failed download raises differs from version to version of three libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{task}: the data set {dataset} cannot be loaded ({reason}). With no network give a local copy: "
            f"--data {task}=PATH."
        ) from error
    return DataSet(
        {name: [Row(f"{dataset} {name} row {i}", row) for i, row in enumerate(rows)] for name, rows in found.items()}
    )
