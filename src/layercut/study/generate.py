"""Letting one model, whole or under one plan, answer prompts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from rich.console import Console

from layercut.engine.base import Decoding
from layercut.healing.responses import generate_responses
from layercut.runs.directory import RunFolder
from layercut.runs.records import Journal
from layercut.study import eta
from layercut.study.handle import ModelHandle
from layercut.study.progress import Progressing
from layercut.study.prompts import RESPONSES, PromptSource
from layercut.study.settings import DecodingSettings, ModelSettings
from layercut.surgery.plan import CutPlan


class Answered(NamedTuple):
    """The records in the prompts' order, and the run folder if there is one."""

    records: list[dict[str, Any]]
    folder: Path | None


def answer_prompts(
    model: ModelSettings,
    source: PromptSource,
    *,
    remove: str | None,
    out: Path | None,
    seed: int,
    decoding: DecodingSettings,
    max_new_tokens: int,
    console: Console,
    say: Callable[[str], None],
) -> Answered:
    """Answer every prompt; ``layercut generate``. With ``out``, into a run folder that resumes."""
    handle = ModelHandle(model)
    plan = handle.plan(remove, seed)
    draw, prompts = Decoding(**asdict(decoding), seed=seed), source.prompts
    say(f"{model.model}: {plan.describe()}")
    progress = Progressing([("answering", eta.Cell(kind="answer", num_items=len(prompts), weight=1))], console)

    def answer(journal: Journal) -> list[dict[str, Any]]:
        return answers_of(handle, plan, source, journal, draw, max_new_tokens, lambda: progress.piece(0))

    if out is None:
        with TemporaryDirectory() as scratch, Journal(Path(scratch, "responses.jsonl")) as journal, progress.running():
            return Answered(answer(journal), None)
    settings = _settings(handle, plan, source, draw, max_new_tokens)
    with RunFolder.begin(out, settings) as run, progress.running():
        plan.save(run.path / "plan.json")
        with Journal(run.path / RESPONSES) as journal:
            records = answer(journal)
        run.write_metrics([], plan=plan.to_dict())
        return Answered(records, run.path)


def answers_of(
    handle: ModelHandle,
    plan: CutPlan,
    source: PromptSource,
    journal: Journal,
    decoding: Decoding,
    max_new_tokens: int,
    watching: Callable[[], AbstractContextManager[Callable[[int, int], None]]],
) -> list[dict[str, Any]]:
    """The model's answers to all prompts in their order: those that the journal holds, and the others made now.

    ``watching`` is entered, and the model loaded, only if there is something to be made.
    """
    ids = [prompt.id for prompt in source.prompts]
    if not set(ids) <= {record["id"] for record in journal.records}:
        with watching() as on_progress:
            before = 0
            for part in source.parts:
                generate_responses(
                    handle.engine,
                    plan,
                    part.prompts,
                    journal,
                    max_new_tokens=max_new_tokens,
                    decoding=decoding,
                    stop=part.task.stop if part.task else (),
                    task=part.task.task.name if part.task else None,
                    is_right=part.task.is_right if part.task else None,
                    on_progress=partial(_of_all, on_progress, before, len(ids)),
                )
                before += len(part.answered)
    found = {record["id"]: record for record in journal.records}
    return [found[name] for name in ids]


def _of_all(on_progress: Callable[[int, int], None], before: int, total: int, done: int, _: int) -> None:
    on_progress(before + done, total)


def _settings(
    handle: ModelHandle, plan: CutPlan, source: PromptSource, decoding: Decoding, max_new_tokens: int
) -> dict[str, Any]:
    return {
        **handle.describe(),
        "removed": list(plan.removed),
        "prompts": source.describe(),
        "decoding": asdict(decoding),
        "max_new_tokens": max_new_tokens,
    }
