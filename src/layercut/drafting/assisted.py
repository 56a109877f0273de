"""A draft in memory: its view on the original model's tensors, the times of its steps, and answers written with it."""

# Shapes: 1 request, T tokens.

from __future__ import annotations

import copy
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel

from layercut.drafting.search import StepTimes, TriedDraft
from layercut.engine.stopping import stop_tokens
from layercut.engine.timing import CheckpointTimer, draw_random_ids, name_of_cache, synchronised_time
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.models.quiet import quiet_transformers, without_defaults
from layercut.progress import Progress
from layercut.pruning.settings import Profile
from layercut.pruning.speed import NUM_ROUNDS, TimeParts, timed_rounds
from layercut.selection.written_answers import WrittenAnswer
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import ACTIVE, remove_layers


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


class MeasuredAnswer(NamedTuple):
    """One answer, written with and without a draft."""

    id: str
    task: str
    tokens: int  # with the draft
    plain: float  # seconds without a draft
    drafted: float
    rounds: int  # passes of the original model with the draft; the first one reads the prompt
    proposed: int  # passes of the draft, each of which proposes a token
    is_same: bool  # both texts have the same tokens


def measure_times(
    loaded: LoadedModel, plans: Sequence[CutPlan], profile: Profile, window: int, seed: int, progress: Progress
) -> StepTimes:
    """Time plans by turns, the original model first, and checks of 1 to ``window + 1`` tokens; medians over rounds."""
    checks = _time_checks(loaded.model, window + 1, profile, seed)
    timed = timed_rounds({plan.key: CheckpointTimer(loaded, plan) for plan in plans}, profile, seed, progress)
    turns = [timed[plan.key]["rounds"] for plan in plans]
    # All in steps of the original model in the same round, so that times of other minutes compare.
    rounds = [[(own, whole["decode"]) for own, whole in zip(of_plan, turns[0], strict=True)] for of_plan in turns]
    step = [statistics.median(decode / own["decode"] for own, decode in of_plan) for of_plan in rounds]
    read = [statistics.median(decode * own["first_token"] for own, decode in of_plan) for of_plan in rounds]
    shares = [TriedDraft(plan).stays for plan in plans]
    return StepTimes(
        prompt=profile.prompt,
        check=tuple(seconds / checks[0] for seconds in checks),
        step=TimeParts.fitted(shares, step),
        read=TimeParts.fitted(shares, read),
    )


@torch.no_grad()
def _time_checks(model: Any, most: int, profile: Profile, seed: int) -> list[float]:
    """Seconds of a pass over 1, 2, 3 ... tokens behind a text."""
    ids_1T, keyword = draw_random_ids(model, 1, profile.middle + most, seed), name_of_cache(model)
    cache: Any = getattr(model(input_ids=ids_1T[:, : profile.middle], use_cache=True, logits_to_keep=1), keyword)
    cache.activate_past_recording()
    if not getattr(cache, "is_croppable", True):
        raise InputError(
            f"the key-value cache of {type(model).__name__} cannot be shortened, as it must be where a proposal is "
            "refused, so it takes no draft."
        )
    seconds: list[list[float]] = [[] for _ in range(most)]
    for number in range(NUM_ROUNDS + 1):  # the first round warms caches up
        for place in range(most):
            tokens = (place + number) % most + 1
            began = synchronised_time(model)
            more_1T = ids_1T[:, profile.middle : profile.middle + tokens]
            model(input_ids=more_1T, use_cache=True, logits_to_keep=tokens, **{keyword: cache})
            took = synchronised_time(model) - began
            cache.crop(-tokens)
            seconds[tokens - 1] += [took] if number else []
    return [statistics.median(times) for times in seconds]


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
    passes = Counter[str]()
    hooks = [
        model.register_forward_hook(lambda *_, name=name: passes.update([name]))
        for name, model in (("original", loaded.model), ("draft", view))
    ]
    try:
        with quiet_transformers(), without_defaults(loaded.model):
            _write(loaded.model, answers[0]._replace(limit=8), config, view)  # warms caches up
            for number, answer in enumerate(answers):
                texts, seconds = {}, {}
                for has_draft in ((False, True), (True, False))[number % 2]:
                    passes.clear()
                    began = time.perf_counter()
                    texts[has_draft] = _write(loaded.model, answer, config, view if has_draft else None)
                    seconds[has_draft] = time.perf_counter() - began
                    if has_draft:
                        rounds, proposed = passes["original"], passes["draft"]
                yield MeasuredAnswer(
                    answer.id,
                    answer.task,
                    tokens=len(texts[True]),
                    plain=seconds[False],
                    drafted=seconds[True],
                    rounds=rounds,
                    proposed=proposed,
                    is_same=texts[True] == texts[False],
                )
    finally:
        for hook in hooks:
            hook.remove()


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
