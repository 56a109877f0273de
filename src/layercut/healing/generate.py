"""Generate answers to prompts with one model, whole or under one plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.best_of import choose, chosen
from layercut.healing.prompt_sources import CHOICES, RESPONSES, Answering, PromptGroup, PromptSource
from layercut.healing.responses import generate_responses, sample_id
from layercut.progress.watch import watched
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable
from layercut.runs.records import Journal
from layercut.selection.specs import plan_of
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.text.counting import counted


class Responses(NamedTuple):
    """What a model said to prompts, in their order."""

    records: list[dict[str, Any]]
    """All of it: as many records a prompt as there are samples."""
    chosen: list[dict[str, Any]]
    """One record a prompt, under its id."""
    folder: Path | None
    """The run folder, if there is one."""


def answer_prompts(
    model: ModelSettings,
    source: PromptSource,
    how: Answering,
    *,
    remove: str | None,
    out: Path | None,
    seed: int,
    console: Console,
    say: Callable[[str], None],
) -> Responses:
    """Answer every prompt; ``layercut generate``. With ``out``, into a run folder that resumes."""
    handle = ModelHandle(model)
    plan = plan_of(handle, remove, seed)
    say(handle.introduce(plan))
    for note in source.notes:
        say(note)
    if out is None:
        with TemporaryDirectory() as scratch:
            return answers_of(handle, plan, source, how, seed, Path(scratch), console, say)._replace(folder=None)
    with resumable(out), RunFolder.begin(out, _settings(handle, plan, source, how, seed)) as run:
        plan.save(run.path / "plan.json")
        answers = answers_of(handle, plan, source, how, seed, run.path, console, say)
        run.write_metrics([], plan=plan.to_dict())
        return answers


def answers_of(
    handle: ModelHandle,
    plan: CutPlan,
    source: PromptSource,
    how: Answering,
    seed: int,
    folder: Path,
    console: Console,
    say: Callable[[str], None],
) -> Responses:
    """The model's answers to all prompts in their order: those that the folder holds, and the others made now.

    The model is loaded only if there is something to be made.
    """
    decoding, model = Decoding(**asdict(how.decoding), seed=seed), handle.settings.model
    parts = _fitting(handle, source, how.max_prompt_tokens, say)
    ids = [sample_id(prompt.id, n) for part in parts for prompt in part.prompts for n in range(how.samples)]
    with Journal(folder / RESPONSES) as journal:
        if not set(ids) <= {record["id"] for record in journal.records}:
            with watched(f"Answering with {model}", len(ids), console, "answers") as on_progress:
                before = 0
                for part in parts:
                    generate_responses(
                        handle.engine,
                        plan,
                        part.prompts,
                        journal,
                        max_new_tokens=how.max_new_tokens or source.max_new_tokens,
                        decoding=decoding,
                        samples=how.samples,
                        stop=part.task.stop if part.task else (),
                        task=part.task.task.name if part.task else None,
                        is_right=part.task.is_right if part.task else None,
                        on_progress=partial(_of_all, on_progress, before, len(ids)),
                    )
                    before += len(part.answered) * how.samples
        found = {record["id"]: record for record in journal.records}
    records = [found[name] for name in ids]
    if how.samples == 1:
        return Responses(records, records, folder)
    with Journal(folder / CHOICES) as journal:
        prompts = {record["prompt_id"] for record in records}
        if not prompts <= {choice["id"] for choice in journal.records}:
            name = f"Choosing among {how.samples} answers"
            with watched(name, len(prompts), console, "prompts") as on_progress:
                choose(handle.engine, plan, records, journal, on_progress=on_progress)
        return Responses(records, chosen(records, journal.records), folder)


def _fitting(
    handle: ModelHandle, source: PromptSource, max_tokens: int | None, say: Callable[[str], None]
) -> list[PromptGroup]:
    """The prompts that are short enough; those of tasks are as they are."""
    if max_tokens is None or not any(part.task is None for part in source.parts):
        return list(source.parts)
    from layercut.engine.prompts import encode_prompt

    reader = handle.weightless
    parts = []
    for part in source.parts:
        short = [
            one
            for one in part.answered
            if part.task or len(encode_prompt(reader.tokenizer, one.prompt.prompt, reader.name)) <= max_tokens
        ]
        if len(short) < len(part.answered):
            say(
                f"{len(part.answered) - len(short)} of {counted(len(part.answered), 'prompt')} left out, "
                f"over {max_tokens} tokens"
            )
        parts.append(part._replace(answered=short))
    if not any(part.answered for part in parts):
        raise InputError(f"all prompts have more than {max_tokens} tokens; allow more with --max-prompt-tokens.")
    return parts


def _of_all(on_progress: Callable[[int, int], None], before: int, total: int, done: int, _: int) -> None:
    on_progress(before + done, total)


def _settings(handle: ModelHandle, plan: CutPlan, source: PromptSource, how: Answering, seed: int) -> dict[str, Any]:
    return {
        **handle.describe(),
        "removed": list(plan.removed),
        "prompts": source.describe(),
        "decoding": {**asdict(how.decoding), "seed": seed},
        "max_new_tokens": how.max_new_tokens or source.max_new_tokens,
        **how.extra(),
    }
