"""Generate answers to prompts with one model, whole or under one plan: one record per answer, resumable by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from rich.console import Console

from layercut.engine.base import Decoding, Engine, GenerationRequest
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.best_of import choose, chosen
from layercut.healing.prompt_sources import CHOICES, RESPONSES, Answering, PromptGroup, PromptSource, asked
from layercut.healing.prompts import NamedPrompt, plain_prompt
from layercut.progress import OnProgress, Say
from layercut.progress.bars import watched
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable
from layercut.runs.records import Journal
from layercut.selection.specs import LayerSpec, plan_of
from layercut.surgery.plan import CutPlan
from layercut.text.counting import counted


class Responses(NamedTuple):
    """A model's answers to prompts, in their order."""

    records: list[dict[str, Any]]
    """All of them: as many records a prompt as there are samples."""
    chosen: list[dict[str, Any]]
    """One record a prompt, under its id."""
    folder: Path | None


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
) -> Responses:
    """Answer every prompt; ``layercut generate``. With ``out``, into a run folder that resumes."""
    handle, plan = model, plan_of(model, remove, seed)
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
    say: Say,
) -> Responses:
    """The model's answers to all prompts in their order: those that the folder holds, and the others generated now.

    The model is loaded only if an answer is missing.
    """
    decoding, model = Decoding(**how.decoding.as_dict(), seed=seed), handle.settings.model
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
                        begins=part.task.begins if part.task else "",
                        **({"task": part.name} if part.task else {"source": part.name}),
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


def generate_responses(
    engine: Engine,
    plan: CutPlan,
    prompts: Sequence[NamedPrompt],
    journal: Journal,
    *,
    max_new_tokens: int,
    decoding: Decoding,
    samples: int = 1,
    stop: tuple[str, ...] = (),
    begins: str = "",
    task: str | None = None,
    source: str | None = None,
    is_right: Callable[[Mapping[str, Any]], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Answer every prompt that the journal does not hold yet. No record is changed or redone.

    A record holds ``id``, ``prompt`` (text, or turns as role and content), ``completion``, ``finish_reason``,
    ``num_prompt_tokens`` and ``num_new_tokens``, the ``seed``, the ``model_hash`` and the ``removed`` layers of the
    model; ``stop`` where strings ended answers, ``begins`` where all begin alike, ``task`` where the prompts are a
    task's, else ``source``, the file or data set; and ``right`` where ``is_right`` graded. Killed and resumed, the
    answers are those of an uninterrupted run.

    With several ``samples`` a prompt, each has an id of its own, which with the seed decides the draw; the first has
    the prompt's id. The record then holds ``prompt_id`` and ``sample``, too. ``is_right`` gets the prompt's id.

    Raises:
        InputError: several samples of greedy decoding or with an id that a prompt has, a conversation for a model
            without chat template, or a prompt longer than the model's context.
    """
    if samples > 1 and decoding.is_greedy:
        raise InputError(f"{samples} greedy answers to a prompt are all the same; give a temperature, such as 0.9.")
    by_id = {sample_id(prompt.id, number): (prompt, number) for prompt in prompts for number in range(samples)}
    if len(by_id) < len({prompt.id for prompt in prompts}) * samples:
        raise InputError("some ids of prompts are those of another one's samples (ID#2); give other ids.")
    done = {record["id"] for record in journal.records if record["id"] in by_id}
    if on_progress:
        on_progress(len(done), len(by_id))
    requests = [
        GenerationRequest(id=name, prompt=prompt.prompt, begins=begins, max_new_tokens=max_new_tokens, stop=stop)
        for name, (prompt, _) in by_id.items()
    ]
    made_by = {
        "seed": decoding.seed,
        "model_hash": engine.describe()["model_hash"],
        "removed": list(plan.removed),
        **({"stop": list(stop)} if stop else {}),
        **({"begins": begins} if begins else {}),
        **({"task": task} if task else {}),
        **({"source": source} if source else {}),
    }
    for batch in engine.completions(requests, plan, decoding, done=frozenset(done)):
        records = []
        for completion in batch:
            if completion.id in done:
                continue
            prompt, number = by_id[completion.id]
            record: dict[str, Any] = {
                "id": completion.id,
                "prompt": plain_prompt(prompt),
                "completion": completion.text,
                "finish_reason": completion.finish_reason,
                "num_prompt_tokens": completion.num_prompt_tokens,
                "num_new_tokens": completion.num_new_tokens,
                **made_by,
            }
            if samples > 1:
                record |= {"prompt_id": prompt.id, "sample": number}
            if is_right:
                record["right"] = is_right(record | {"id": prompt.id})
            records.append(record)
        journal.append(records)
        done |= {record["id"] for record in records}
        if on_progress:
            on_progress(len(done), len(by_id))


def sample_id(prompt_id: str, number: int) -> str:
    """Id of the record of one of a prompt's answers, counted from 0.

    >>> sample_id("gsm8k 7", 0), sample_id("gsm8k 7", 1)
    ('gsm8k 7', 'gsm8k 7#2')
    """
    return f"{prompt_id}#{number + 1}" if number else prompt_id


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
    return {**handle.describe(), "removed": list(plan.removed), **asked(source, how, seed)}
