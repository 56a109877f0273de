"""Measure a draft: the same prompts by plain greedy decoding and by transformers' assisted generation, by turns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import GenerationConfig

from layercut.drafting.times import DraftSteps, StepTimes, shares_of
from layercut.engine.plain import without_defaults
from layercut.engine.stopping import stop_tokens
from layercut.engine.timing import now
from layercut.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.drafting.agreement import WrittenAnswer
    from layercut.drafting.search import TriedDraft
    from layercut.models.loading import LoadedModel
    from layercut.surgery.plan import CutPlan


class MeasuredAnswer(NamedTuple):
    """One answer, written with and without a draft."""

    id: str
    task: str
    tokens: int
    plain: float  # seconds without a draft
    drafted: float
    rounds: int  # passes of the original model
    proposed: int  # steps of the draft
    is_same: bool  # both texts have the same tokens


class TimedAnswer(NamedTuple):
    """One answer, and the seconds of its passes; the first pass of each model reads the prompt."""

    answer: MeasuredAnswer
    plain: Sequence[float]  # of the original model without a draft
    checks: Sequence[float]  # of the original model with it
    steps: Sequence[float]  # of the draft


def measure(
    loaded: LoadedModel, view: PreTrainedModel, answers: Sequence[WrittenAnswer], window: int
) -> Iterator[TimedAnswer]:
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
            found: dict[bool, tuple[list[int], float, list[float], list[float]]] = {}
            for has_draft in ((False, True), (True, False))[number % 2]:
                with _timed(loaded.model) as passes, _timed(view) as steps:
                    began = time.perf_counter()
                    tokens = _written(loaded.model, answer, config, view if has_draft else None)
                    found[has_draft] = (tokens, time.perf_counter() - began, passes, steps)
            (plain, seconds, passes, _), (drafted, assisted, checks, steps) = found[False], found[True]
            one = MeasuredAnswer(
                answer.id, answer.task, len(plain), seconds, assisted, len(checks), len(steps), plain == drafted
            )
            yield TimedAnswer(one, passes, checks, steps)


def times_within(
    times: StepTimes, plan: CutPlan, one: TriedDraft, answers: Sequence[WrittenAnswer], found: Sequence[TimedAnswer]
) -> StepTimes:
    """The times of both models as they are within transformers' loops, and what the loops add, from a few answers.

    All of them come from the same minutes, so that they compare on a machine whose speed changes.

    Args:
        times: of steps outside the loops, which give the ratios of what these answers do not show.
        one: the draft.
        answers: what was written.
        found: how it was written.
    """
    plain, checks, steps = zip(*((each.plain, each.checks, each.steps) for each in found), strict=True)
    whole = times.cost(plan, one.name)
    step, check = _mean(plain, times.check[0]), _mean(checks, times.check[one.window])
    pace, longer = step / times.check[0], check / times.check[one.window]
    share = times.prompt / sum(len(answer.prompt) for answer in answers)
    before, *others = [
        timed.model_copy(update={"step": timed.step * pace, "read": timed.read * pace}) for timed in times.drafts
    ]
    draft = DraftSteps(
        **shares_of(plan),
        step=_mean(steps, whole.draft * pace),
        read=share * sum(each[0] for each in steps),
        name=one.name,
    )
    tokens, rounds = sum(each.answer.tokens - 1 for each in found), sum(each.answer.rounds for each in found)
    looped = sum(each.answer.plain - sum(each.plain) for each in found)
    assisted = sum(each.answer.drafted - sum(each.checks) - sum(each.steps) for each in found)
    return times.model_copy(
        update={
            "check": (step, *(seconds * longer for seconds in times.check[1:])),
            "drafts": (before.model_copy(update={"read": share * sum(each[0] for each in plain)}), *others, draft),
            "per_token": looped / max(tokens, 1),
            "per_round": assisted / max(rounds, 1),
        }
    )


def _mean(passes: Sequence[Sequence[float]], otherwise: float) -> float:
    """Mean seconds of a pass after the prompt's."""
    later = [seconds for each in passes for seconds in each[1:]]
    return sum(later) / len(later) if later else otherwise


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
def _timed(model: PreTrainedModel) -> Iterator[list[float]]:
    """Seconds of the passes of a model within the block."""
    found: list[float] = []
    begun: list[float] = []
    hooks = (
        model.register_forward_pre_hook(lambda *_: begun.append(now(model))),
        model.register_forward_hook(lambda *_: found.append(now(model) - begun.pop())),
    )
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
