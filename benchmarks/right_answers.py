"""Right answers of the original model to selection items, for the benchmarks that read them."""

from __future__ import annotations

import argparse
from typing import Any

from layercut.engine.base import LikelihoodRequest
from layercut.engine.handle import ModelHandle
from layercut.progress import silent
from layercut.selection.objective import TaskObjective
from layercut.selection.select import objective_parts
from layercut.selection.task_criteria import correct_traces
from layercut.settings import ModelSettings, TaskSettings


def parser_of(doc: str | None, limit: int) -> argparse.ArgumentParser:
    """Arguments for a model and a task; ``limit`` is the default number of items."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="bundled:smollm2-135m")
    parser.add_argument("task", nargs="?", default="copy")
    parser.add_argument("--data")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--limit", type=int, default=limit)
    return parser


def model_of(asked: argparse.Namespace, **settings: Any) -> ModelHandle:
    """The model that was asked for, with further ``ModelSettings``."""
    return ModelHandle(ModelSettings(model=asked.model, dtype=asked.dtype, **settings))


def right_answers(handle: ModelHandle, asked: argparse.Namespace) -> list[LikelihoodRequest]:
    """Prompts with the model's right answers to the task that was asked for; seed 0."""
    parts = objective_parts(TaskSettings(task=asked.task, data=asked.data, limit=asked.limit), 0)
    return correct_traces(TaskObjective(handle.engine, parts, progress=silent)).requests
