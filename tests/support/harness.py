"""lm-eval's own runs, over rows of ours that its own JSON loader reads."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.answers import write_lines

Rows = list[dict[str, Any]]


def write_rows(folder: Path, rows: Mapping[str, Rows]) -> str:
    """A file for each split; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in rows.items():
        write_lines(folder / f"{split}.jsonl", part)
    return str(folder)


def with_rows(task: str, folder: str, splits: Sequence[str], cache: Path, **changes: Any) -> dict[str, Any]:
    """lm-eval's task with its own JSON loader in place of the hub."""
    files = {"data_files": {split: f"{folder}/{split}.jsonl" for split in splits}, "cache_dir": str(cache)}
    return {"task": task, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": files, **changes}


def run_of_lm_eval(model: Any, tasks: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    """What ``simple_evaluate`` gives: ``results`` and ``samples`` by task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from layercut.tasks.lm_eval.loading import files_of_task

    homes = sorted({file.parent for one in tasks for file in files_of_task(one["task"])})
    logging.disable(logging.WARNING)
    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[{"group": "own", "task": tasks}],
            task_manager=TaskManager(include_defaults=False, include_path=homes),
            bootstrap_iters=0,
            **options,
        )
    finally:
        logging.disable(logging.NOTSET)
    assert found is not None
    return dict(found)


def scripted(answer: Callable[[str], str], likelihood: Callable[[str], float]) -> Any:
    """A model of lm-eval that answers a prompt, and scores a document, by a function; notes what it was asked."""
    from lm_eval.api.model import LM

    class Scripted(LM):  # type: ignore[misc]
        asked: dict[str, dict[str, Any]]

        def __init__(self) -> None:
            super().__init__()
            self.asked = {}

        def generate_until(self, requests: list[Any]) -> list[str]:
            self.asked |= {request.args[0]: request.args[1] for request in requests}
            return [answer(request.args[0]) for request in requests]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [likelihood(request.args[0]) for request in requests]

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError

    return Scripted()
