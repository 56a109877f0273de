"""The model answers prompts: one record a prompt, appended as they come, resumable by prompt id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from layercut.engine.base import Completion, Decoding, Engine, GenerationRequest
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

    Raises:
        InputError: a conversation for a model without chat template, or a prompt longer than the model's context.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    done = {record["id"] for record in journal.records if record["id"] in by_id}
    if on_progress:
        on_progress(len(done), len(by_id))
    requests = [
        GenerationRequest(id=prompt.id, prompt=prompt.prompt, max_new_tokens=max_new_tokens, stop=stop)
        for prompt in by_id.values()
    ]
    made_by = {
        "seed": decoding.seed,
        "model_hash": engine.describe()["model_hash"],
        "removed": list(plan.removed),
        **({"stop": list(stop)} if stop else {}),
        **({"task": task} if task else {}),
    }
    for batch in engine.completions(requests, plan, decoding, done=frozenset(done)):
        fresh = [completion for completion in batch if completion.id not in done]
        records = [_record(by_id[completion.id], completion) | made_by for completion in fresh]
        for record in records:
            if is_right:
                record["right"] = is_right(record)
        journal.append(records)
        done |= {completion.id for completion in fresh}
        if on_progress:
            on_progress(len(done), len(by_id))


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
