"""A draft in memory: its view on the original model's tensors, the times of its steps, and answers written with it."""

# Shapes: B batch, T tokens.

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from layercut.drafting.forecast import DraftSteps, MeasuredAnswer, StepTimes, TriedDraft, WrittenAnswer
from layercut.engine.plain import without_defaults
from layercut.engine.stopping import stop_tokens
from layercut.engine.timing import cache_name, random_ids, synchronised_time
from layercut.errors import InputError
from layercut.models.quiet import quiet_transformers
from layercut.pruning.settings import Profile
from layercut.runs.environment import describe_machine
from layercut.surgery.remove import ACTIVE, remove_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.models.loading import LoadedModel
    from layercut.progress import Progress
    from layercut.surgery.plan import CutPlan

NUM_ROUNDS = 5  # timed rounds; one more before them warms caches up


def draft_view(model: PreTrainedModel, plan: CutPlan | str | Sequence[int]) -> PreTrainedModel:
    """A model without the plan's layers and MLP channels, whose tensors are those of ``model``.

        view = layercut.draft_view(model, "9-12")
        model.generate(**inputs, assistant_model=view)

    Its own are the key-value cache and the config, and the part of each MLP that a plan with channels keeps. With an
    empty plan it wraps another model that is to be a draft.

    The input of its head is copied: it is the last of several tokens in most steps, and for a slice of a batch of one
    torch 2.13 copies the head's whole weight on a CPU (0.8 s of a round on a vocabulary of 151,936).

    Raises:
        InputError: the plan does not fit the model, or a bypass is active on it.
    """
    if getattr(model, ACTIVE, None) is not None:
        raise InputError("a bypass is active on this model; leave it first.")
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    view: Any = remove_layers(copy.deepcopy(model, shared), plan)
    view.train(False)
    if (head := view.get_output_embeddings()) is not None:
        head.register_forward_pre_hook(
            lambda _, inputs: (inputs[0].clone(memory_format=torch.contiguous_format), *inputs[1:])
        )
    return view  # type: ignore[no-any-return]


def measure_times(
    loaded: LoadedModel, plans: Sequence[CutPlan], profile: Profile, window: int, seed: int, progress: Progress
) -> StepTimes:
    """Time checks of 1 to ``window + 1`` tokens and steps of the plans, by turns; medians over rounds.

    Args:
        plans: the original model first.

    Raises:
        InputError: a model whose key-value cache cannot be shortened, so that nothing can be taken back.
    """
    models = [loaded.model, *(draft_view(loaded.model, plan) for plan in plans[1:])]
    steppers = [_Stepper(model, profile, seed) for model in models]
    pieces = [(steppers[0], tokens) for tokens in range(1, window + 2)] + [(stepper, 1) for stepper in steppers[1:]]
    seconds: list[list[float]] = [[] for _ in pieces]
    for number in range(NUM_ROUNDS + 1):
        progress("rounds timed", number, NUM_ROUNDS + 1)
        for place in range(len(pieces)):
            turn = (place + number) % len(pieces)
            stepper, tokens = pieces[turn]
            took = stepper.step(tokens)
            seconds[turn] += [took] if number else []
    medians = [statistics.median(times) for times in seconds]
    steps = [medians[0], *medians[window + 1 :]]
    return StepTimes(
        where=describe_machine(),
        batch=profile.batch,
        prompt=profile.prompt,
        middle=profile.middle,
        check=tuple(medians[: window + 1]),
        drafts=tuple(
            _draft_steps(TriedDraft(plan), step, stepper.read)
            for plan, step, stepper in zip(plans, steps, steppers, strict=True)
        ),
    )


class _Stepper:
    """One model that has read a text of random tokens."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, profile: Profile, seed: int) -> None:
        self._model: Any = model
        self._ids_BT = random_ids(model, profile.batch, profile.middle + 64, seed)
        self._middle, self._keyword = profile.middle, cache_name(model)
        self._forward(self._ids_BT[:, :8])
        self.read = min(self._timed(self._ids_BT[:, : profile.prompt]) for _ in range(2))
        self._cache = getattr(self._forward(self._ids_BT[:, : profile.middle]), self._keyword)
        self._cache.activate_past_recording()
        if not getattr(self._cache, "is_croppable", True):
            raise InputError(
                f"the key-value cache of {type(model).__name__} cannot be shortened, as it must be where a proposal is "
                "refused, so it takes no draft."
            )

    @torch.no_grad()
    def step(self, tokens: int) -> float:
        """Seconds of a step over some tokens of each request."""
        ids_BT = self._ids_BT[:, self._middle : self._middle + tokens]
        took = self._timed(ids_BT, logits_to_keep=tokens, **{self._keyword: self._cache})
        self._cache.crop(-tokens)
        return took

    def _timed(self, ids_BT: torch.Tensor, **more: Any) -> float:
        began = synchronised_time(self._model)
        self._forward(ids_BT, **more)
        return synchronised_time(self._model) - began

    def _forward(self, ids_BT: torch.Tensor, **more: Any) -> Any:
        return self._model(input_ids=ids_BT, use_cache=True, **{"logits_to_keep": 1, **more})


def write_twice(
    loaded: LoadedModel, view: PreTrainedModel, answers: Sequence[WrittenAnswer], window: int
) -> Iterator[MeasuredAnswer]:
    """Write each answer by plain greedy decoding and by transformers' assisted generation, by turns."""
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=list(stop_tokens(loaded.tokenizer, loaded.model.generation_config)) or None
    )
    own: Any = view.generation_config
    own.num_assistant_tokens, own.num_assistant_tokens_schedule = window, "constant"
    own.assistant_confidence_threshold = 0.0
    with quiet_transformers(), without_defaults(loaded.model):
        _write(loaded.model, answers[0]._replace(limit=8), config, view)  # warms caches up
        for number, answer in enumerate(answers):
            texts: dict[bool, tuple[list[int], float, list[float], list[float]]] = {}
            for has_draft in ((False, True), (True, False))[number % 2]:
                with _timed_passes(loaded.model) as passes, _timed_passes(view) as steps:
                    began = time.perf_counter()
                    tokens = _write(loaded.model, answer, config, view if has_draft else None)
                    texts[has_draft] = (tokens, time.perf_counter() - began, passes, steps)
            (plain, seconds, passes, _), (drafted, assisted, checks, steps) = texts[False], texts[True]
            counts, same = (len(checks), len(steps)), plain == drafted
            yield MeasuredAnswer(
                answer.id, answer.task, len(plain), seconds, assisted, *counts, same, passes, checks, steps
            )


def times_within(
    times: StepTimes, draft: TriedDraft, answers: Sequence[WrittenAnswer], written: Sequence[MeasuredAnswer]
) -> StepTimes:
    """The times of both models as they are within transformers' loops, and what the loops add, from a few answers.

    All of them come from the same minutes, so that they compare on a machine whose speed changes.

    Args:
        times: of steps outside the loops, which give the ratios of what these answers do not show.
        draft: what the answers were written with.
        answers: to be written.
        written: the same, written and timed.
    """
    step = _mean_pass([own.passes for own in written], times.check[0])
    check = _mean_pass([own.checks for own in written], times.check[draft.window])
    pace, longer = step / times.check[0], check / times.check[draft.window]
    share = times.prompt / sum(len(answer.prompt) for answer in answers)
    first, *others = [own.model_copy(update={"step": own.step * pace, "read": own.read * pace}) for own in times.drafts]
    first = first.model_copy(update={"read": share * sum(own.passes[0] for own in written)})
    draft_step = _mean_pass([own.steps for own in written], times.cost(draft).draft * pace)
    steps = _draft_steps(draft, draft_step, share * sum(own.steps[0] for own in written))
    # What the loops take beyond the passes, for each token and for each round.
    looped = sum(own.plain - sum(own.passes) for own in written)
    assisted = sum(own.drafted - sum(own.checks) - sum(own.steps) for own in written)
    tokens, rounds = sum(own.tokens - 1 for own in written), sum(own.rounds for own in written)
    return times.model_copy(
        update={
            "check": (step, *(seconds * longer for seconds in times.check[1:])),
            "drafts": (first, *others, steps),
            "per_token": looped / max(tokens, 1),
            "per_round": assisted / max(rounds, 1),
        }
    )


def _draft_steps(draft: TriedDraft, step: float, read: float) -> DraftSteps:
    layers, channels = draft.stays
    return DraftSteps(layers=layers, channels=channels, step=step, read=read)


def _mean_pass(passes: Sequence[Sequence[float]], otherwise: float) -> float:
    """Mean seconds of a pass after the prompt's."""
    later = [seconds for of_answer in passes for seconds in of_answer[1:]]
    return sum(later) / len(later) if later else otherwise


@torch.no_grad()
def _write(model: Any, answer: WrittenAnswer, config: Any, view: PreTrainedModel | None) -> list[int]:
    ids_1T = torch.tensor([answer.prompt], device=model.device)
    out_1T = model.generate(
        ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        generation_config=config,
        max_new_tokens=answer.limit,
        pad_token_id=0,
        **({} if view is None else {"assistant_model": view}),
    )
    return out_1T[0, len(answer.prompt) :].tolist()  # type: ignore[no-any-return]


@contextmanager
def _timed_passes(model: PreTrainedModel) -> Iterator[list[float]]:
    """Seconds of the passes of a model within the block."""
    seconds: list[float] = []
    begun: list[float] = []
    hooks = (
        model.register_forward_pre_hook(lambda *_: begun.append(synchronised_time(model))),
        model.register_forward_hook(lambda *_: seconds.append(synchronised_time(model) - begun.pop())),
    )
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()
