"""Generate answers to prompts: one record per answer, appended at once, resumable by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from layercut.engine.base import Completion, Decoding, Engine, GenerationRequest
from layercut.errors import InputError
from layercut.healing.prompts import NamedPrompt
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan


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
    task: str | None = None,
    is_right: Callable[[Mapping[str, Any]], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Answer every prompt that the journal does not hold yet. Nothing that is there is changed or redone.

    A record holds ``id``, ``prompt`` (text, or turns as role and content), ``completion``, ``finish_reason``,
    ``num_prompt_tokens`` and ``num_new_tokens``, the ``seed`` of the draw, the ``model_hash`` of who answered and
    ``removed``, the layers it did without; ``stop`` where strings ended answers, ``task`` where the prompts are a
    task's, and ``right`` where ``is_right`` graded. Killed and resumed, the answers are those of an uninterrupted run.

    With several ``samples`` a prompt, each has an id of its own, from which with the seed follows what is drawn; the
    first has the prompt's. ``prompt_id`` and ``sample`` then stand in the record, too. ``is_right`` sees the prompt's
    id.

    Raises:
        InputError: several samples of greedy decoding or with an id that a prompt has, a conversation for a model
            without chat template, or a prompt longer than the model's context.
    """
    if samples > 1 and decoding.is_greedy:
        raise InputError(f"{samples} greedy answers to a prompt are all the same; give a temperature, such as 0.9.")
    asked = {sample_id(prompt.id, number): (prompt, number) for prompt in prompts for number in range(samples)}
    if len(asked) < len({prompt.id for prompt in prompts}) * samples:
        raise InputError("some ids of prompts are those of another one's samples (ID#2); give other ids.")
    done = {record["id"] for record in journal.records if record["id"] in asked}
    if on_progress:
        on_progress(len(done), len(asked))
    requests = [
        GenerationRequest(id=name, prompt=prompt.prompt, max_new_tokens=max_new_tokens, stop=stop)
        for name, (prompt, _) in asked.items()
    ]
    made_by = {
        "seed": decoding.seed,
        "model_hash": engine.describe()["model_hash"],
        "removed": list(plan.removed),
        **({"stop": list(stop)} if stop else {}),
        **({"task": task} if task else {}),
    }
    for batch in engine.completions(requests, plan, decoding, done=frozenset(done)):
        records = []
        for completion in batch:
            if completion.id in done:
                continue
            prompt, number = asked[completion.id]
            record = _record(prompt, completion) | made_by
            if samples > 1:
                record |= {"prompt_id": prompt.id, "sample": number}
            if is_right:
                record["right"] = is_right(record | {"id": prompt.id})
            records.append(record)
        journal.append(records)
        done |= {record["id"] for record in records}
        if on_progress:
            on_progress(len(done), len(asked))


def sample_id(prompt_id: str, number: int) -> str:
    """Id of the record of one of a prompt's answers, counted from 0.

    >>> sample_id("gsm8k 7", 0), sample_id("gsm8k 7", 1)
    ('gsm8k 7', 'gsm8k 7#2')
    """
    return f"{prompt_id}#{number + 1}" if number else prompt_id


def _record(named: NamedPrompt, completion: Completion) -> dict[str, Any]:
    return {
        "id": completion.id,
        "prompt": plain_prompt(named),
        "completion": completion.text,
        "finish_reason": completion.finish_reason,
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_new_tokens": completion.num_new_tokens,
    }


def plain_prompt(named: NamedPrompt) -> str | list[dict[str, str]]:
    """A prompt as records hold it."""
    return named.prompt if isinstance(named.prompt, str) else [turn._asdict() for turn in named.prompt]
