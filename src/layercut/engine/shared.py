"""SharedEngine: computes once what requests and plans share; its answers equal those of PlainEngine.

Prompts share their first tokens (prefix), the continuations of one question share its context (branches of a text),
plans share the layers below their first difference (shared_depth), and answers in progress share every step (decoding).
A draft that comes with a request is checked along with its prompt. In float32 all answers equal those of PlainEngine;
in bfloat16 rounding may decide between two tokens that are about equally likely. docs/explanation/search.md explains
the design, docs/experiments/speed.md the gain of each part. Whether it may run a model is asked of the model itself, by
a few short texts run both ways.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from layercut.engine.base import (
    GREEDY,
    Decoding,
    Divergence,
    Engine,
    Found,
    LikelihoodRequest,
    Likelihoods,
    Plans,
    Request,
    Under,
    Wanted,
    always_wanted,
    distinct_plans,
    split_by_kind,
)
from layercut.engine.batching import halve_after, lay_out, refuse_smallest
from layercut.engine.generating import Generating, ItemRequest, Runner, join_questions
from layercut.engine.handle import ModelHandle
from layercut.engine.plain import PlainEngine
from layercut.engine.rows import Scoring, Tokens, compared_scorings, generation_rows, make_scorings
from layercut.engine.scores import Reading, divergences_between, group_neighbours
from layercut.engine.stack import HeadInput, PrefixCache, Stack, logits, run_under_plans
from layercut.engine.text_groups import PackedText, shared_prefix
from layercut.errors import InputError, one_line
from layercut.models.loading import LoadedModel
from layercut.models.placement import widened_model
from layercut.progress.activity import muted_activity
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import ACTIVE, bypass, check_plan_on_model

logger = logging.getLogger(__name__)
SHORTEST_PREFIX = 4  # tokens in common below which requests are run as they stand
_PACKS = 32
"""Tokens that an answer may have from which on weights are packed for the call: that takes as long as some 20 steps
save."""
_PLANS = 4  # plans that are compared with the reference at once: its distributions are made once for all of them
_Reader = Callable[[Sequence[HeadInput]], list[list[Found]]]  # results of a block from its states under some plans

_PREFIX, _LENGTHS = 8, (5, 12)  # tokens that the two texts share, and tokens of each behind them
_TOLERANCE, _STEPS = 1e-3, 8
"""Share of the largest logit, and rounding steps of the dtype there, whichever is more: sums run in other orders."""

_HALF = (torch.bfloat16, torch.float16)
_FURTHER = 1.3
"""Times as far from float32 as the model itself, on average, that packed texts may be in half precision. 0.9 to 1.2 was
seen of right ones, and 1.4 and more where scores of attention were 5 % too large."""

_known: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


class SharedEngine(PlainEngine):
    """One loaded model under many plans at once; what it has no own way for is done as in PlainEngine."""

    shares_work = True

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 32, cache_gib: float = 2.0) -> None:
        """Nothing is computed yet. ``batch_size`` prompts are run at once; half of ``cache_gib`` is for prefixes."""
        super().__init__(loaded, batch_size=batch_size)
        self._stack = Stack(loaded)
        self.cache_gib = cache_gib
        self._half_bytes = int(cache_gib * 2**29)
        self._prefixes = PrefixCache(self._half_bytes)

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "engine": "shared"}

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always_wanted
    ) -> Under[Any]:
        """See Engine: block by block, in each under all plans. A question that is asked both ways is one text."""
        checked = self._checked(plans)
        if any(plan.channels for plan in checked):
            return self._width_by_width(requests, checked, decoding, wanted)
        return self._answers(requests, checked, decoding, wanted)

    def _answers(
        self, requests: Sequence[Request], plans: Sequence[CutPlan], decoding: Decoding, wanted: Wanted
    ) -> Under[Any]:
        """The same under plans that remove layers alone, from the model with the MLP channels that it has now."""
        to_generate, to_score = split_by_kind(requests)
        if not to_generate:
            scored = group_neighbours(make_scorings(self._loaded, to_score))

            def scoring(reading: Reading, run: Runner) -> _Reader[Likelihoods]:
                return lambda states: [reading.scores(self._loaded, of_plan) for of_plan in states]

            return self._read_all(scored, plans, wanted, scoring)
        work = join_questions(generation_rows(self._loaded, to_generate), make_scorings(self._loaded, to_score))
        groups: dict[str, list[ItemRequest]] = {}
        for question in work:
            groups.setdefault(question.group, []).append(question)
        runner_of: dict[str, tuple[int, Runner]] = {}
        for name, group in groups.items():
            prefix = _worthwhile(end for question in group for end in question.ends)
            run = partial(run_under_plans, self._stack, plans, prefix, self._prefixes, keep=True)
            runner_of[name] = len(prefix), run
        generating = Generating(self._loaded, self._stack, decoding, wanted, self._half_bytes)
        packs = not to_score and max(request.max_new_tokens for request in to_generate) >= _PACKS
        laid = lay_out(chain(*groups.values()), self._batch_size, apart=lambda question: question.group)
        return generating.answers(((block, *runner_of[block[0].group]) for block in laid), packs=packs)

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always_wanted
    ) -> Under[Divergence]:
        """See Engine: block by block; the reference's distributions are made once a block, for several plans."""
        if thin := [plan for plan in plans if plan.channels]:
            whole = [plan for plan in plans if not plan.channels]
            return chain(
                self.compare(requests, whole, reference, wanted) if whole else (),
                super().compare(requests, thin, reference, wanted),
            )

        def comparing(reading: Reading, run: Runner) -> _Reader[Divergence]:
            with muted_activity():
                (leaf,) = run(reading.texts, lambda _: True)
            return partial(divergences_between, self._loaded, reading.block, reading.head_input(self._stack, leaf))

        work = group_neighbours(compared_scorings(self._loaded, requests))
        return self._read_all(work, self._checked(plans), wanted, comparing, self._checked([reference]), _PLANS)

    def _read_all(
        self,
        work: Sequence[Scoring],
        plans: Sequence[CutPlan],
        wanted: Wanted,
        begin: Callable[[Reading, Runner], _Reader[Found]],
        first_plans: Sequence[CutPlan] = (),
        at_once: int = 1,
    ) -> Under[Found]:
        """Results under every plan, block by block; ``begin`` gets the texts, ``at_once`` plans are read at once."""
        prefix = _worthwhile((row.tokens, row.num_scored) for item in work for row in item.rows)
        run, run_first = (
            partial(run_under_plans, self._stack, some, prefix, self._prefixes, keep=False)
            for some in (plans, first_plans)
        )

        def read(block: Sequence[Scoring], at_once: int) -> Under[Found]:
            reading = Reading(block, len(prefix))
            try:
                leaves = run(reading.texts, lambda plan: any(wanted(plan, item.id) for item in block))
                states = ((leaf.plan, reading.head_input(self._stack, leaf)) for leaf in leaves)
                answer = None
                while group := list(islice(states, at_once)):
                    answer = answer or begin(reading, run_first)
                    yield from zip((plan for plan, _ in group), answer([given for _, given in group]), strict=True)
                return
            except RuntimeError as error:
                refuse_smallest(block, error)
            half = halve_after(block, "requests")
            for part in (block[:half], block[half:]):
                yield from read(part, 1)

        return (scored for block in lay_out(work, self._batch_size) for scored in read(block, at_once))

    def _width_by_width(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding, wanted: Wanted
    ) -> Under[Any]:
        """Answers under plans with MLP channels: one set of channels after the other, with all its plans at once."""
        groups: dict[str, list[CutPlan]] = {}
        for plan in plans:
            groups.setdefault(plan.channels.key if plan.channels else "", []).append(plan)
        for group in groups.values():
            plan_of = {plan.depth_only.key: plan for plan in group}

            def is_wanted(plan: CutPlan, item: str, plan_of: Mapping[str, CutPlan] = plan_of) -> bool:
                return wanted(plan_of[plan.key], item)

            depths, channels, prefixes = [plan.depth_only for plan in group], group[0].channels, self._prefixes
            thin: AbstractContextManager[Any] = nullcontext()
            if channels is not None:
                thin = bypass(self._model, CutPlan(num_layers=self.num_layers, channels=channels))
                self._prefixes = PrefixCache(self._half_bytes)
            with thin:  # within it the model has these MLP channels alone, and nothing else may be asked
                try:
                    for plan, found in self._answers(requests, depths, decoding, is_wanted):
                        yield plan_of[plan.key], found
                finally:
                    self._prefixes = prefixes

    def _checked(self, plans: Sequence[CutPlan]) -> list[CutPlan]:
        if getattr(self._model, ACTIVE, None) is not None:
            raise InputError("a bypass is active on this model; leave it first, the engine skips layers by itself.")
        for plan in plans:
            self._check(plan)
            check_plan_on_model(self._model, plan)
        return distinct_plans(plans)


def _worthwhile(rows: Iterator[tuple[Tokens, int]]) -> Tokens:
    prefix = shared_prefix(rows)
    return prefix if len(prefix) >= SHORTEST_PREFIX else ()


def fastest_engine(loaded: LoadedModel, *, batch_size: int = 32, cache_gib: float = 2.0) -> Engine:
    """The shared engine where it gives what the model itself gives, else the plain one."""
    if why_not_shared(loaded):
        return PlainEngine(loaded, batch_size=batch_size)
    return SharedEngine(loaded, batch_size=batch_size, cache_gib=cache_gib)


def why_not_shared(loaded: LoadedModel) -> str:
    """The reason why the shared engine cannot run a model; empty if nothing does. Asked and logged once of a model.

    Two texts behind one prefix, of random tokens, are packed and run through all layers and through all but one in the
    middle. Their logits must be those of the model itself, text by text, within rounding. In half precision rounding
    can grow from layer to layer beyond any bound of one step. A copy in float32 then decides, if memory allows: packed
    texts must give its logits, and in half precision be about as near to them as the model itself is.
    """
    if loaded.model not in _known:
        reason = _known[loaded.model] = _probed(loaded)
        if reason:
            logger.warning("%s runs in the engine plain: %s", loaded.name, reason)
    return _known[loaded.model]


class _Ways(NamedTuple):
    """Logits (N, V) under one plan."""

    plan: CutPlan
    alone_NV: Tensor
    packed_NV: Tensor


def _probed(loaded: LoadedModel) -> str:
    try:
        ways = _both_ways(loaded)
        reason = _difference(ways, loaded)
        if not reason or loaded.model.dtype not in _HALF or (wide := widened_model(loaded.model)) is None:
            return reason
        exact = _both_ways(wider := replace(loaded, model=wide))
        # In half precision packed texts must be about as near to float32 as the model itself is.
        is_as_near = all(
            bool((packed - right.alone_NV).abs().mean() <= _FURTHER * (alone - right.alone_NV).abs().mean())
            for (_, alone, packed), right in zip(ways, exact, strict=True)
        )
        return _difference(exact, wider) or ("" if is_as_near else reason)
    except InputError as error:
        return str(error)


@torch.no_grad()
def _both_ways(loaded: LoadedModel) -> list[_Ways]:
    """Logits behind the texts' own tokens: of each text in a pass of its own, and as the shared engine runs them."""
    embeddings: Any = loaded.model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(embeddings.weight.shape[0], (_PREFIX + sum(_LENGTHS),), generator=generator)
    prefix, *texts = (tuple(part.tolist()) for part in tokens.split_with_sizes([_PREFIX, *_LENGTHS]))

    def alone(plan: CutPlan) -> Tensor:
        with bypass(loaded.model, plan):
            rows = [torch.tensor([[*prefix, *text]], device=loaded.model.device) for text in texts]
            logits_NV = [loaded.model(input_ids=ids_1T, use_cache=False).logits[0, _PREFIX:] for ids_1T in rows]
        return torch.cat(logits_NV).float().cpu()

    uncut = CutPlan(num_layers=loaded.num_layers)
    expected = [(uncut, alone(uncut))]
    if loaded.num_layers > 1:
        # Where no layer in the middle can go, the model itself must agree all the same.
        with suppress(InputError):
            middle = CutPlan(num_layers=loaded.num_layers, removed=(loaded.num_layers // 2,))
            expected.append((middle, alone(middle)))
    try:
        stack, lines = Stack(loaded), [PackedText.line(text) for text in texts]
        packed = {}
        for leaf in run_under_plans(
            stack, [plan for plan, _ in expected], prefix, PrefixCache(2**30), lines, keep=False
        ):
            before = stack.leave(leaf.states_1TD[0])
            packed[leaf.plan.key] = logits(loaded.model, before, slice(None)).float().cpu()
    except Exception as error:  # a model's own code, called in a way that it may not know
        raise InputError(f"its layers do not run over packed texts ({one_line(error)})") from error
    return [_Ways(plan, alone_NV, packed[plan.key]) for plan, alone_NV in expected]


def _difference(ways: list[_Ways], loaded: LoadedModel) -> str:
    """The place where packed texts give other logits than the model itself; empty where rounding explains it."""
    for plan, alone_NV, packed_NV in ways:
        worst = (packed_NV - alone_NV).abs().max().item()
        share = max(_TOLERANCE, _STEPS * torch.finfo(loaded.model.dtype).eps)
        bound = share * max(1.0, alone_NV.abs().max().item())
        if not worst <= bound:  # so written, it also catches NaN
            under = "" if plan.is_uncut else f" without layer {plan.removed[0]}"
            return f"packed texts{under} give logits that differ by {worst:.2g}, and rounding explains {bound:.2g}"
    return ""


def engine_of(handle: ModelHandle) -> Engine:
    """The engine of a row of ENGINES."""
    wanted = handle.settings
    return fastest_engine(handle.loaded, batch_size=wanted.batch_size, cache_gib=wanted.cache_gib)
