"""Generate answers to prompts with one model, whole or under one plan: one record per answer, resumable by id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from layercut.engine.base import Decoding, Engine, GenerationRequest
from layercut.engine.handle import ModelHandle
from layercut.healing.prompt_sources import RESPONSES, Answering, PromptGroup, PromptSource
from layercut.healing.prompts import AnswerRecord, plain_prompt
from layercut.progress import Say
from layercut.progress.bars import progress_bar
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable_writing
from layercut.runs.records import Journal
from layercut.selection.specs import LayerSpec, plan_of
from layercut.surgery.plan import CutPlan


def answer_prompts(
    model: ModelHandle,
    source: PromptSource,
    how: Answering,
    *,
    remove: LayerSpec | None,
    out: Path | None,
    seed: int,
    console: Console,
    say: Say,
) -> list[AnswerRecord]:
    """Answer every prompt; ``layercut generate``. With ``out``, into a run folder that resumes."""
    plan = plan_of(model, remove, seed)
    for line in (model.introduce(plan), *source.notes):
        say(line)
    if out is None:
        with TemporaryDirectory() as scratch:
            return gather_answers(model, plan, source, how, seed, Path(scratch), console)
    settings = {**model.describe(), **plan.gone, **source.asked(how, seed)}
    with resumable_writing(out), RunFolder.begin(out, settings) as run:
        plan.save(run.path / "plan.json")
        answers = gather_answers(model, plan, source, how, seed, run.path, console)
        run.write_metrics([], plan=plan.to_dict())
        return answers


def gather_answers(
    handle: ModelHandle, plan: CutPlan, source: PromptSource, how: Answering, seed: int, folder: Path, console: Console
) -> list[AnswerRecord]:
    """The model's answers to all prompts in their order: those that the folder holds, and the others generated now.

    The model is loaded only if an answer is missing. Killed and resumed, the answers are those of an uninterrupted run.
    Raises InputError for a conversation and no chat template, or a prompt longer than the model's context.
    """
    ids = [prompt.id for prompt in source.prompts]
    most, decoding = how.max_new_tokens or source.max_new_tokens, Decoding(**how.decoding.as_dict(), seed=seed)
    with Journal(folder / RESPONSES) as journal:
        missing = set(ids) - {record["id"] for record in journal.records}
        if missing:
            with progress_bar(f"Answering with {handle.settings.model}", len(ids), console, "answers") as on_progress:
                on_progress(len(ids) - len(missing), len(ids))
                for group in source.parts:
                    for records in _answer_group(handle.engine, plan, group, frozenset(missing), most, decoding):
                        journal.append(records)
                        missing.difference_update(record["id"] for record in records)
                        on_progress(len(ids) - len(missing), len(ids))
        by_id: dict[str, Any] = {record["id"]: record for record in journal.records}
    return [by_id[name] for name in ids]


def _answer_group(
    engine: Engine, plan: CutPlan, group: PromptGroup, missing: frozenset[str], most: int, decoding: Decoding
) -> Iterator[list[dict[str, Any]]]:
    """Answer and grade the prompts of a group whose ids are ``missing``: the records of each batch."""
    stop, begins = group.stop, group.begins
    shared = {
        "seed": decoding.seed,
        "model_hash": engine.describe()["model_hash"],
        **plan.gone,
        **({"stop": list(stop)} if stop else {}),
        **({"begins": begins} if begins else {}),
        **({"task": group.task.name} if group.task else {"source": group.source}),
    }
    prompts = {prompt.id: prompt.prompt for prompt in group.prompts}
    requests = [
        GenerationRequest(id=name, prompt=prompt, begins=begins, max_new_tokens=most, stop=stop)
        for name, prompt in prompts.items()
    ]
    # An engine gets all requests, so that it batches them as in a run through.
    for _, batch in engine.ask(requests, [plan], decoding, lambda _, name: name in missing):
        fresh = [answer for answer in batch if answer.id in missing]
        records = [
            {
                "id": answer.id,
                "prompt": plain_prompt(prompts[answer.id]),
                "completion": answer.text,
                "finish_reason": answer.finish_reason,
                "num_prompt_tokens": answer.num_prompt_tokens,
                "num_new_tokens": answer.num_new_tokens,
                **shared,
            }
            for answer in fresh
        ]
        if group.task:
            grades = group.are_right(fresh)
            records = [record | {"right": grade} for record, grade in zip(records, grades, strict=True)]
        yield records
