"""Generate answers to prompts with one model, whole or under one plan: one record per answer, resumable by id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from layercut.engine.base import Decoding, Engine, GenerationRequest
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.prompt_sources import RESPONSES, Answering, PromptGroup, PromptSource, asked
from layercut.healing.prompts import AnswerRecord, NamedPrompt, plain_prompt
from layercut.progress import OnProgress, Say
from layercut.progress.bars import watched
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable
from layercut.runs.records import Journal
from layercut.selection.specs import LayerSpec, plan_of
from layercut.surgery.plan import CutPlan
from layercut.text.counting import counted


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
    handle, plan = model, plan_of(model, remove, seed)
    say(handle.introduce(plan))
    for note in source.notes:
        say(note)
    if out is None:
        with TemporaryDirectory() as scratch:
            return answers_of(handle, plan, source, how, seed, Path(scratch), console, say)
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
    say: Say,
) -> list[AnswerRecord]:
    """The model's answers to all prompts in their order: those that the folder holds, and the others generated now.

    The model is loaded only if an answer is missing.
    """
    decoding, model = Decoding(**how.decoding.as_dict(), seed=seed), handle.settings.model
    parts = _fitting(handle, source, how.max_prompt_tokens, say)
    ids = [prompt.id for part in parts for prompt in part.prompts]
    with Journal(folder / RESPONSES) as journal:
        missing, given = set(ids) - {one["id"] for one in journal.records}, {one["id"] for one in source.known}
        journal.append([one for one in source.known if one["id"] in missing])
        if not set(ids) <= {record["id"] for record in journal.records}:
            with watched(f"Answering with {model}", len(ids), console, "answers") as on_progress:
                before = 0
                for part in parts:
                    asked_now = [one for one in part.prompts if one.id not in given]
                    before += len(part.prompts) - len(asked_now)
                    generate_responses(
                        handle.engine,
                        plan,
                        asked_now,
                        journal,
                        max_new_tokens=how.max_new_tokens or source.max_new_tokens,
                        decoding=decoding,
                        stop=part.task.stop if part.task else (),
                        begins=part.task.begins if part.task else "",
                        **({"task": part.name} if part.task else {"source": part.name}),
                        is_right=part.task.is_right if part.task else None,
                        on_progress=partial(_of_all, on_progress, before, len(ids)),
                    )
                    before += len(asked_now)
        found: dict[str, Any] = {record["id"]: record for record in journal.records}
    return [found[name] for name in ids]


def generate_responses(
    engine: Engine,
    plan: CutPlan,
    prompts: Sequence[NamedPrompt],
    journal: Journal,
    *,
    max_new_tokens: int,
    decoding: Decoding,
    stop: tuple[str, ...] = (),
    begins: str = "",
    task: str | None = None,
    source: str | None = None,
    is_right: Callable[[AnswerRecord], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Answer every prompt that the journal does not hold yet. No record is changed or redone.

    A record holds ``id``, ``prompt`` (text, or turns as role and content), ``completion``, ``finish_reason``,
    ``num_prompt_tokens`` and ``num_new_tokens``, the ``seed``, the ``model_hash`` and the ``removed`` layers of the
    model; ``stop`` where strings ended answers, ``begins`` where all begin alike, ``task`` where the prompts are a
    task's, else ``source``, the file or data set; and ``right`` where ``is_right`` graded. Killed and resumed, the
    answers are those of an uninterrupted run.

    Raises:
        InputError: a conversation for a model without chat template, or a prompt longer than the model's context.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    done = {record["id"] for record in journal.records if record["id"] in by_id}
    if on_progress:
        on_progress(len(done), len(by_id))
    requests = [
        GenerationRequest(id=name, prompt=prompt.prompt, begins=begins, max_new_tokens=max_new_tokens, stop=stop)
        for name, prompt in by_id.items()
    ]
    made_by = {
        "seed": decoding.seed,
        "model_hash": engine.describe()["model_hash"],
        **plan.gone,
        **({"stop": list(stop)} if stop else {}),
        **({"begins": begins} if begins else {}),
        **({"task": task} if task else {}),
        **({"source": source} if source else {}),
    }
    known = frozenset(done)
    for _, batch in engine.ask(requests, [plan], decoding, lambda _, name: name not in known):
        records = []
        for completion in batch:
            if completion.id in done:
                continue
            record: Any = {
                "id": completion.id,
                "prompt": plain_prompt(by_id[completion.id]),
                "completion": completion.text,
                "finish_reason": completion.finish_reason,
                "num_prompt_tokens": completion.num_prompt_tokens,
                "num_new_tokens": completion.num_new_tokens,
                **made_by,
            }
            if is_right:
                record["right"] = is_right(record)
            records.append(record)
        journal.append(records)
        done |= {record["id"] for record in records}
        if on_progress:
            on_progress(len(done), len(by_id))


def _fitting(handle: ModelHandle, source: PromptSource, max_tokens: int | None, say: Say) -> list[PromptGroup]:
    """The prompts that are short enough; those of tasks all stay."""
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
        raise InputError(f"all prompts have more than {max_tokens} tokens; allow more with `max_prompt_tokens`.")
    return parts


def _of_all(on_progress: OnProgress, before: int, total: int, done: int, _: int) -> None:
    on_progress(before + done, total)


def _settings(handle: ModelHandle, plan: CutPlan, source: PromptSource, how: Answering, seed: int) -> dict[str, Any]:
    return {**handle.describe(), **plan.gone, **asked(source, how, seed)}
