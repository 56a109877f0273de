"""Measure a draft: the same prompts by plain greedy decoding and by transformers' assisted generation, by turns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import GenerationConfig

from layercut.drafting.forecast import Drafted, cost_of
from layercut.drafting.search import TriedDraft
from layercut.drafting.times import StepTimes
from layercut.engine.plain import without_defaults
from layercut.engine.stopping import stop_tokens
from layercut.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.drafting.agreement import WrittenAnswer
    from layercut.models.loading import LoadedModel
    from layercut.surgery.plan import CutPlan


class MeasuredAnswer(NamedTuple):
    """One answer, written with and without a draft."""

    id: str
    task: str
    tokens: int
    plain: float
    """Seconds without a draft."""
    drafted: float
    rounds: int
    """Passes of the original model."""
    proposed: int
    """Steps of the draft."""
    is_same: bool
    """Both texts have the same tokens."""


def measure(
    loaded: LoadedModel, view: PreTrainedModel, answers: Sequence[WrittenAnswer], window: int
) -> Iterator[MeasuredAnswer]:
    """Write each answer twice; which way comes first changes from answer to answer."""
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=list(stop_tokens(loaded.tokenizer, loaded.model.generation_config)) or None
    )
    own: Any = view.generation_config
    own.num_assistant_tokens, own.num_assistant_tokens_schedule = window, "constant"
    own.assistant_confidence_threshold = 0.0
    with quiet_transformers(), without_defaults(loaded.model):
        _written(loaded.model, answers[0]._replace(limit=8), config, view)  # warms caches up
        for number, answer in enumerate(answers):
            found: dict[bool, tuple[list[int], float, int, int]] = {}
            for has_draft in ((False, True), (True, False))[number % 2]:
                with _counted(loaded.model) as rounds, _counted(view) as steps:
                    began = time.perf_counter()
                    tokens = _written(loaded.model, answer, config, view if has_draft else None)
                    found[has_draft] = (tokens, time.perf_counter() - began, len(rounds), len(steps))
            (plain, seconds, _, _), (drafted, assisted, passes, proposed) = found[False], found[True]
            yield MeasuredAnswer(
                answer.id, answer.task, len(plain), seconds, assisted, passes, proposed, plain == drafted
            )


def with_loops(
    times: StepTimes, plan: CutPlan, one: TriedDraft, agrees: Sequence[Drafted], found: Sequence[MeasuredAnswer]
) -> StepTimes:
    """The times with what the loops of transformers add to them, from some measured answers.

    Args:
        times: without loops yet.
        one: the draft.
        agrees: the same answers, as they are forecast.
    """
    costs = [cost_of(answer, times.cost(plan, one.name), one.window, times.prompt) for answer in agrees]
    tokens, rounds = sum(cost.tokens - 1 for cost in costs), sum(cost.rounds for cost in costs)
    plain = sum(took.plain for took in found) - sum(cost.plain for cost in costs)
    drafted = sum(took.drafted for took in found) - sum(cost.drafted for cost in costs)
    # A loop takes time; what comes out below zero is the machine's drift between these answers and the timed steps.
    loops = {"per_token": max(plain, 0) / max(tokens, 1), "per_round": max(drafted, 0) / max(rounds, 1)}
    return times.model_copy(update=loops)


@torch.no_grad()
def _written(model: Any, answer: WrittenAnswer, config: Any, view: PreTrainedModel | None) -> list[int]:
    ids_1T = torch.tensor([answer.prompt], device=model.device)
    more = {} if view is None else {"assistant_model": view}
    out_1T = model.generate(
        ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        generation_config=config,
        max_new_tokens=answer.limit,
        pad_token_id=0,
        **more,
    )
    tokens: list[int] = out_1T[0, len(answer.prompt) :].tolist()
    return tokens


@contextmanager
def _counted(model: PreTrainedModel) -> Iterator[list[None]]:
    """Passes of a model within the block."""
    calls: list[None] = []
    hook = model.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()
