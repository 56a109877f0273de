"""SharedEngine: computes once what requests and plans share; its answers equal those of PlainEngine.

Prompts share their first tokens (prefix), the continuations of one question share its context (branches of a text),
plans share the layers below their first difference (shared_depth), and answers in progress share every step (decoding).
A draft that comes with a request is checked along with its prompt. In float32 all answers equal those of PlainEngine;
in bfloat16 rounding may decide between two tokens that are about equally likely. docs/explanation/search.md explains
the design, docs/experiments/speed.md the gain of each part.
"""

# Shapes: D hidden size, N positions that are read.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from layercut.engine.base import (
    GREEDY,
    Decoding,
    Divergence,
    Found,
    LikelihoodRequest,
    Likelihoods,
    Plans,
    Request,
    Under,
    Wanted,
    always,
    by_kind,
    distinct,
)
from layercut.engine.batching import lay_out
from layercut.engine.divergence import divergences_between
from layercut.engine.generating import Generating, PromptBlock, Runner
from layercut.engine.plain import PlainEngine
from layercut.engine.rows import (
    ItemRequest,
    Scoring,
    Tokens,
    compared_scorings,
    generation_rows,
    questions,
    scorings,
)
from layercut.engine.scores import Reading, neighbours
from layercut.engine.shared_depth import Leaf, PrefixCache, tree_of, walk
from layercut.engine.stack import HeadInput, Stack
from layercut.engine.text_groups import Pack, PackedText, shared_prefix
from layercut.errors import InputError
from layercut.progress.activity import muted
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import ACTIVE, bypass, check_plan

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel
    from layercut.surgery.channels import Channels

logger = logging.getLogger(__name__)
SHORTEST_PREFIX = 4  # tokens in common below which requests are run as they stand
_PACKS = 32
"""Tokens that an answer may have from which on weights are packed for the call: that takes as long as some 20 steps
save."""
_PLANS = 4  # plans that are compared with the reference at once: its distributions are made once for all of them


class SharedEngine(PlainEngine):
    """One loaded model under many plans at once; what it has no own way for is done as in PlainEngine."""

    shares_work = True

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 32, cache_gib: float = 2.0) -> None:
        """Nothing is computed yet.

        Args:
            batch_size: requests whose prompts are run at once.
            cache_gib: memory for keys and values that are held, in GiB: half for prefixes, half for answers under way.

        Raises:
            InputError: a size that is not possible.
        """
        if cache_gib <= 0:
            raise InputError(f"cache_gib {cache_gib} leaves no space for keys and values; use 0.5 or more.")
        super().__init__(loaded, batch_size=batch_size)
        self._stack = Stack(loaded)
        self.cache_gib = cache_gib
        self._prefixes = PrefixCache(int(cache_gib * 2**29))
        self._pool_bytes = int(cache_gib * 2**29)

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "engine": "shared"}

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always
    ) -> Under[Any]:
        """See Engine: block by block of requests, in each under all plans; answers come soon after they ended.

        A question that is asked both ways is one text: its options are branches behind the prompt, and the draft of its
        answer, if it is the right option, is the branch of that option.
        """
        checked = self._checked(plans)
        if any(plan.channels for plan in checked):
            return self._width_by_width(requests, checked, decoding, wanted)
        return self._answers(requests, checked, decoding, wanted)

    def _answers(
        self, requests: Sequence[Request], plans: Sequence[CutPlan], decoding: Decoding, wanted: Wanted
    ) -> Under[Any]:
        """The same under plans that remove layers alone, from the model with the MLP channels that it has now."""
        to_generate, to_score = by_kind(requests)
        if not to_generate:
            scored = neighbours(scorings(self._loaded, to_score))
            shared = _scored_prefix(scored)
            run = self._runner(shared, plans, keep=False)
            blocks = lay_out(scored, self._batch_size)

            def scoring(reading: Reading) -> Callable[[Sequence[HeadInput]], list[list[Likelihoods]]]:
                return lambda states: [reading.scores(self._loaded, of_plan) for of_plan in states]

            return (scores for block in blocks for scores in self._read(block, shared, run, wanted, scoring))
        work = questions(generation_rows(self._loaded, to_generate), scorings(self._loaded, to_score))
        groups: dict[str, list[ItemRequest]] = {}
        for question in work:
            groups.setdefault(question.group, []).append(question)
        block_of = {}
        for name, group in groups.items():
            prefix = _worthwhile(end for question in group for end in question.ends)
            run = self._runner(prefix, plans, keep=True)
            block_of[name] = partial(PromptBlock, num_prefix=len(prefix), run=run)
        generating = Generating(self._loaded, self._stack, decoding, wanted, self._pool_bytes)
        packs = not to_score and max(request.max_new_tokens for request in to_generate) >= _PACKS
        laid = lay_out(chain(*groups.values()), self._batch_size, apart=lambda question: question.group)
        return generating.answers((block_of[block[0].group](block) for block in laid), packs=packs)

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always
    ) -> Under[Divergence]:
        """See Engine: block by block of requests; the reference runs once a block, and its distributions are made once
        for several plans.
        """
        if thin := [plan for plan in plans if plan.channels]:
            whole = [plan for plan in plans if not plan.channels]
            return chain(
                self.compare(requests, whole, reference, wanted) if whole else (),
                super().compare(requests, thin, reference, wanted),
            )
        work = neighbours(compared_scorings(self._loaded, requests))
        prefix = _scored_prefix(work)
        run = self._runner(prefix, self._checked(plans), keep=False)
        run_reference = self._runner(prefix, self._checked([reference]), keep=False)

        def comparing(reading: Reading) -> Callable[[Sequence[HeadInput]], list[list[Divergence]]]:
            with muted():
                ((leaf, pack),) = run_reference(reading.texts, lambda _: True)
            before = self._head_input(leaf, pack, reading)
            return partial(divergences_between, self._loaded, reading.block, before)

        blocks = lay_out(work, self._batch_size)
        return (found for block in blocks for found in self._read(block, prefix, run, wanted, comparing, _PLANS))

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

            with self._thin(group[0].channels):
                depths = [plan.depth_only for plan in group]
                for plan, found in self._answers(requests, depths, decoding, is_wanted):
                    yield plan_of[plan.key], found

    @contextmanager
    def _thin(self, channels: Channels | None) -> Iterator[None]:
        """Within it the model has these MLP channels alone. Nothing else may be asked meanwhile."""
        if channels is None:
            yield
            return
        prefixes, self._prefixes = self._prefixes, PrefixCache(int(self.cache_gib * 2**29))
        with bypass(self._model, CutPlan(num_layers=self.num_layers, channels=channels)):
            try:
                yield
            finally:
                self._prefixes = prefixes

    def _read(
        self,
        block: Sequence[Scoring],
        prefix: Tokens,
        run: Runner,
        wanted: Wanted,
        begin: Callable[[Reading], Callable[[Sequence[HeadInput]], list[list[Found]]]],
        at_once: int = 1,
    ) -> Under[Found]:
        """Results of a block under every plan, ``at_once`` of them together; in halves if memory runs out."""
        reading = Reading(block, len(prefix))
        try:
            leaves = run(reading.texts, lambda plan: any(wanted(plan, item.id) for item in block))
            states = ((leaf.plan, self._head_input(leaf, pack, reading)) for leaf, pack in leaves)
            answer = None
            while group := list(islice(states, at_once)):
                answer = answer or begin(reading)
                yield from zip((plan for plan, _ in group), answer([one for _, one in group]), strict=True)
            return
        except RuntimeError as error:
            if len(block) == 1 or not should_reduce_batch_size(error):
                raise
        # After the handler, because its traceback holds the tensors that filled the memory.
        clear_device_cache(garbage_collection=True)
        half = len(block) // 2
        logger.warning("out of memory with %d requests at once; going on with %d", len(block), half)
        for part in (block[:half], block[half:]):
            yield from self._read(part, prefix, run, wanted, begin)

    def _head_input(self, leaf: Leaf, pack: Pack, reading: Reading) -> HeadInput:
        """Input of the head at the N positions that are read."""
        return self._stack.leave(leaf.states_1TD[0, reading.positions(pack)])

    def _runner(self, prefix: Tokens, plans: Sequence[CutPlan], *, keep: bool) -> Runner:
        """Runs texts behind the prefix under all those of the plans that are wanted."""

        def run(texts: Sequence[PackedText], wanted: Callable[[CutPlan], bool]) -> Iterator[tuple[Leaf, Pack]]:
            due = [plan for plan in plans if wanted(plan)]
            if not due:
                return
            tree = tree_of(due)
            # Looked up from the leaves down, so that what is given up first is what the fewest plans need.
            held = [self._prefixes.get(prefix, node.path) for node in tree.nodes() if node.path] if prefix else []
            pack = Pack(texts, prefix, device=self._model.device)
            ahead = Pack([PackedText.line(prefix)], (), device=self._model.device) if None in held else None
            for leaf in walk(self._stack, pack, tree, prefix, self._prefixes, ahead=ahead, keep=keep, wanted=wanted):
                yield leaf, pack

        return run

    def _checked(self, plans: Sequence[CutPlan]) -> list[CutPlan]:
        if getattr(self._model, ACTIVE, None) is not None:
            raise InputError("a bypass is active on this model; leave it first, the engine skips layers by itself.")
        for plan in plans:
            if plan.num_layers != self.num_layers:
                raise plan.unfit(f"this one has {self.num_layers}")
            check_plan(self._model, plan)
        return distinct(plans)


def _worthwhile(rows: Iterator[tuple[Tokens, int]]) -> Tokens:
    prefix = shared_prefix(rows)
    return prefix if len(prefix) >= SHORTEST_PREFIX else ()


def _scored_prefix(work: Sequence[Scoring]) -> Tokens:
    return _worthwhile((row.tokens, row.num_scored) for item in work for row in item.rows)
