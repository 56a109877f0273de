"""The model answers prompts: one record a prompt, appended as they come, resumable by prompt id."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from layercut.engine.base import Decoding, Engine, GenerationRequest
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
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Answer every prompt that the journal does not hold yet. Nothing that is there is changed or redone.

    A record holds ``id``, ``prompt`` (text, or turns as role and content), ``completion``, ``finish_reason``,
    ``num_prompt_tokens`` and ``num_new_tokens``. Killed and resumed, the answers are those of an uninterrupted run.

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
    for batch in engine.completions(requests, plan, decoding, done=frozenset(done)):
        fresh = [completion for completion in batch if completion.id not in done]
        journal.append(
            [
                {
                    "id": completion.id,
                    "prompt": _plain(by_id[completion.id]),
                    "completion": completion.text,
                    "finish_reason": completion.finish_reason,
                    "num_prompt_tokens": completion.num_prompt_tokens,
                    "num_new_tokens": completion.num_new_tokens,
                }
                for completion in fresh
            ]
        )
        done |= {completion.id for completion in fresh}
        if on_progress:
            on_progress(len(done), len(by_id))


def _plain(named: NamedPrompt) -> str | list[dict[str, str]]:
    return named.prompt if isinstance(named.prompt, str) else [turn._asdict() for turn in named.prompt]
