"""PlanByPlan: an engine that holds one model and runs one plan after the other, batch by batch.

Batches depend on the requests alone (longest first, ids break ties), so their order in the list does not matter. What
is longer than the model's context loses tokens at its beginning when it is scored, as in the LM Evaluation Harness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

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
    always,
    by_kind,
    distinct,
)
from layercut.engine.batching import lay_out
from layercut.engine.rows import GenerationRow, Scoring, generation_rows, scorings
from layercut.surgery.plan import CutPlan


class PlanByPlan(Engine):
    """One model, uncut or under one plan after the other.

    The checkpoint's stop tokens are used. Its sampling parameters (temperature, repetition penalty, ...) are ignored: a
    Decoding says all that happens.
    """

    _loaded: Any  # a LoadedModel, or a WeightlessModel
    _batch_size: int
    _batches_at_once = 1  # batches whose answers come together
    _always_writes = False  # True if a token is written behind each text that is scored, which takes space

    @property
    def num_layers(self) -> int:
        return int(self._loaded.num_layers)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._loaded.has_chat_template)

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always
    ) -> Under[Any]:
        """See Engine: first all prompts plan by plan, those with the most tokens first; then all scores.

        ``max_new_tokens`` is shortened where the model's context leaves less space.
        """
        to_generate, to_score = by_kind(requests)
        plans, loaded, size = distinct(plans), self._loaded, self._batches_at_once * self._batch_size
        for plan in plans:
            self._check(plan)
        if self._always_writes:
            loaded = replace(loaded, context_length=loaded.context_length - 1)
        written = lay_out(generation_rows(self._loaded, to_generate), size)
        scored = lay_out(scorings(loaded, to_score), size)

        def replies() -> Iterator[tuple[CutPlan, Sequence[Any]]]:
            for plan in plans:
                for rows in written:
                    if any(wanted(plan, row.id) for row in rows):
                        yield plan, self._write(rows, plan, decoding)
            for plan in plans:
                for items in scored:
                    if any(wanted(plan, item.id) for item in items):
                        yield plan, self._score(items, plan)

        return replies()

    def _check(self, plan: CutPlan) -> None:
        """Refuse a plan that the engine cannot run. Raises InputError."""
        if plan.num_layers != self.num_layers:
            raise plan.unfit(f"this one has {self.num_layers}")

    def _write(self, rows: Sequence[GenerationRow], plan: CutPlan, decoding: Decoding) -> list[Completion]:
        """The answers to some prompts."""
        raise NotImplementedError

    def _score(self, items: Sequence[Scoring], plan: CutPlan) -> list[Likelihoods]:
        """The scores of some requests."""
        raise NotImplementedError

    def _described(self, engine: str, device: str) -> dict[str, Any]:
        """Settings that decide the numbers, for the run's settings."""
        loaded = self._loaded
        model = {"engine": engine, "model": loaded.name, "model_hash": loaded.model_hash, "dtype": loaded.dtype}
        return {**model, "device": device, "batch_size": self._batch_size}
