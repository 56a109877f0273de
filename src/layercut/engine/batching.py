"""Split requests into batches, and split further when memory runs out; and the engines that run plan by plan."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from layercut.engine.base import (
    GREEDY,
    Completion,
    Decoding,
    Engine,
    Likelihoods,
    Plans,
    Request,
    Under,
    Wanted,
    always_wanted,
    distinct_plans,
    split_by_kind,
)
from layercut.engine.rows import GenerationRow, Scoring, decode_tokens, generation_rows, make_scorings
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan

logger = logging.getLogger(__name__)
Row = TypeVar("Row")
Result = TypeVar("Result")


AnyWork = TypeVar("AnyWork", bound=Any)  # a request, ready to run: its ``id``, and ``num_rows`` of the model's input


def lay_out(
    work: Iterable[AnyWork], batch_size: int, apart: Callable[[AnyWork], object] = lambda _: None
) -> list[list[AnyWork]]:
    """Pack requests, whole and in order, into batches of at most ``batch_size`` rows; a larger one has a batch of its
    own, and a new one begins where ``apart`` gives another value. Raises InputError: two requests with one id.
    """
    batches: list[list[AnyWork]] = []
    room = 0
    for item in work:
        if not batches or item.num_rows > room or apart(item) != apart(batches[-1][-1]):
            batches.append([])
            room = batch_size
        batches[-1].append(item)
        room -= item.num_rows
    for name, count in Counter(item.id for batch in batches for item in batch).items():
        if count > 1:
            raise InputError(f"the request {name!r} is there more than once; give every request its own id.")
    return batches


class Backoff:
    """Runs a batch in parts, and halves the parts for good when memory runs out."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, rows: Sequence[Row], work: Callable[[Sequence[Row]], Result]) -> Iterator[Result]:
        """Results of ``work`` on the parts of ``rows``, in order; raises where a single row does not fit."""
        start = 0
        while start < len(rows):
            part = rows[start : start + self.size]
            try:
                result = work(part)
            except RuntimeError as error:
                refuse_smallest(part, error)
            else:
                yield result
                start += len(part)
                continue
            self.size = halve_after(part, "rows")


def refuse_smallest(part: Sequence[Any], error: RuntimeError) -> None:
    """Raise an error that smaller parts would not mend; to be followed by ``halve_after``."""
    if len(part) == 1 or not should_reduce_batch_size(error):
        raise error


def halve_after(part: Sequence[Any], what: str) -> int:
    """Half of the part's length, once memory is free; called after the handler, whose traceback holds the tensors."""
    half = len(part) // 2
    clear_device_cache(garbage_collection=True)
    logger.warning("out of memory with %d %s at once; going on with %d", len(part), what, half)
    return half


class PlanByPlan(Engine):
    """One model, uncut or under one plan after the other; batches depend on the requests alone.

    What is longer than the context loses its beginning when it is scored, as in lm-eval, and ``max_new_tokens`` shrinks
    where the context leaves less. The checkpoint's stop tokens are used, none of its sampling parameters.
    """

    _loaded: Any  # a LoadedModel, or a WeightlessModel
    _batch_size: int
    _batches_at_once = 1  # batches whose answers come together
    _always_writes = False  # True if a token is written behind each text that is scored, which takes space

    @property
    def num_layers(self) -> int:
        return int(self._loaded.num_layers)

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always_wanted
    ) -> Under[Any]:
        """See Engine: first all prompts plan by plan, those with the most tokens first; then all scores."""
        to_generate, to_score = split_by_kind(requests)
        plans, loaded, size = distinct_plans(plans), self._loaded, self._batches_at_once * self._batch_size
        for plan in plans:
            self._check(plan)
        if self._always_writes:
            loaded = replace(loaded, context_length=loaded.context_length - 1)
        written = lay_out(generation_rows(self._loaded, to_generate), size)
        scored = lay_out(make_scorings(loaded, to_score), size)

        def replies() -> Iterator[tuple[CutPlan, Sequence[Any]]]:
            work: tuple[tuple[list[list[Any]], Callable[..., Sequence[Any]]], ...]
            work = (written, partial(self._write, decoding=decoding)), (scored, self._score)
            for batches, answer in work:
                for plan in plans:
                    for batch in batches:
                        if any(wanted(plan, item.id) for item in batch):
                            yield plan, answer(batch, plan)

        return replies()

    def _check(self, plan: CutPlan) -> None:
        """Refuse a plan that the engine cannot run. Raises InputError."""
        if plan.num_layers != self.num_layers:
            raise plan.unfit(f"this one has {self.num_layers}")

    def _write(self, rows: Sequence[GenerationRow], plan: CutPlan, decoding: Decoding) -> list[Completion]:
        raise NotImplementedError

    def _score(self, items: Sequence[Scoring], plan: CutPlan) -> list[Likelihoods]:
        raise NotImplementedError

    def _decode(self, tokens: Sequence[int]) -> str:
        return decode_tokens(self._loaded.tokenizer, tokens)

    def _described(self, engine: str, device: str) -> dict[str, Any]:
        loaded = self._loaded
        model = {"engine": engine, "model": loaded.name, "model_hash": loaded.model_hash, "dtype": loaded.dtype}
        return {**model, "device": device, "batch_size": self._batch_size}
