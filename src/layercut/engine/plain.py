"""PlainEngine: transformers' own ``generate`` and forward pass. The reference that faster engines must equal.

The composition of a batch changes answers by rounding only, except in models whose rotary embedding stretches with the
longest position in the batch (``longrope``, ``dynamic``) once a text is longer than they were trained for.
"""

# Shapes: B batch, T tokens, D hidden size, N positions that are read.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from layercut.engine.base import (
    Completion,
    Decoding,
    Divergence,
    HiddenStates,
    LikelihoodRequest,
    Likelihoods,
    Plans,
    Under,
    Wanted,
    always_wanted,
    distinct_plans,
)
from layercut.engine.batching import Backoff, PlanByPlan, lay_out
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import GenerationRow, LikelihoodRow, Scoring, Tokens, compared_scorings, text_tokens
from layercut.engine.scores import ContinuationScore, Spans, divergences_between, likelihoods_of, score_spans
from layercut.engine.stack import HeadInput, body_of_model, read_states_at
from layercut.engine.stopping import Answer, RequestNoise, RowStops, stop_tokens
from layercut.models.loading import LoadedModel
from layercut.models.quiet import without_defaults
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers


class PlainEngine(PlanByPlan):
    """One loaded model, uncut or under any plan."""

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 32) -> None:
        self._loaded, self._model = loaded, loaded.model
        self._batch_size, self._backoff = batch_size, Backoff(batch_size)
        self._stop_tokens = stop_tokens(loaded.tokenizer, self._model.generation_config)
        # Any token of the model's vocabulary will do, as padding is masked or stands after everything that is read. A
        # tokenizer's own may lie beyond the embedding matrix.
        size = self._model.get_input_embeddings().num_embeddings
        named = (loaded.tokenizer.pad_token_id, *self._stop_tokens)
        self._pad_token = next((token for token in named if token is not None and token < size), 0)

    def describe(self) -> Mapping[str, Any]:
        return self._described("plain", self._model.device.type)

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always_wanted
    ) -> Under[Divergence]:
        """See Engine: batch by batch, the longest first; each runs the reference once, and every other plan."""
        each = distinct_plans(plans)
        batches = lay_out(compared_scorings(self._loaded, requests), self._batch_size)

        def compare(part: Sequence[Scoring], due: Sequence[CutPlan]) -> list[list[Divergence]]:
            ids_BT, _ = self._padded([item.rows[0].tokens for item in part], side="right")
            read = [(row, position) for row, item in enumerate(part) for position in item.rows[0].read_positions]

            def states_under(plan: CutPlan) -> HeadInput:
                with bypass(self._model, plan):
                    return read_states_at(self._model, ids_BT, read)

            before = states_under(reference)
            states = [before if plan.key == reference.key else states_under(plan) for plan in due]
            return divergences_between(self._loaded, part, before, states)

        def under() -> Under[Divergence]:
            for batch in batches:
                due = [plan for plan in each if any(wanted(plan, item.id) for item in batch)]
                parts = list(self._backoff.run(batch, partial(compare, due=due))) if due else []
                for place, plan in enumerate(due):
                    yield plan, [divergence for part in parts for divergence in part[place]]

        return under()

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        encoded = [text_tokens(self._loaded, text, index) for index, text in enumerate(texts)]
        order = sorted(range(len(texts)), key=lambda index: -len(encoded[index]))

        def read(start: int) -> list[HiddenStates]:
            indices = order[start : start + self._batch_size]
            # One batch at a time, so that a caller who stops in the middle finds the model whole.
            with bypass(self._model, plan):
                return list(self._backoff.run(indices, partial(self._states, encoded=encoded)))

        return (states for start in range(0, len(order), self._batch_size) for states in read(start))

    def _write(self, rows: Sequence[GenerationRow], plan: CutPlan, decoding: Decoding) -> list[Completion]:
        completions: list[Completion] = []
        context = self._loaded.context_length
        with bypass(self._model, plan):
            # Rows are split so that none is carried beyond the context while it waits for the others: learned position
            # embeddings have no entry there. Nearly always they are one group.
            while rows:
                steps = max(row.limit for row in rows)
                group = [row for row in rows if context is None or len(row.prompt) + steps <= context]
                for part in self._backoff.run(group, lambda part: self._generate(part, decoding)):
                    completions += part
                rows = [row for row in rows if context is not None and len(row.prompt) + steps > context]
        return completions

    def _generate(self, rows: Sequence[GenerationRow], decoding: Decoding) -> list[Completion]:
        ids_BT, mask_BT = self._padded([row.prompt for row in rows], side="left")
        answers = [Answer(row, self._stop_tokens, self._decode, settles=False) for row in rows]
        noise = [] if decoding.is_greedy else [RequestNoise(decoding, [row.id for row in rows], ids_BT.shape[1])]
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max(row.limit for row in rows),
            do_sample=False,  # a draw is the argmax of noisy scores: layercut.engine.stopping
            eos_token_id=list(self._stop_tokens) or None,
            pad_token_id=self._pad_token,
        )
        with without_defaults(self._model):
            self._model.generate(  # type: ignore[operator]
                ids_BT,
                attention_mask=mask_BT,
                generation_config=config,
                logits_processor=LogitsProcessorList(noise),
                stopping_criteria=StoppingCriteriaList([RowStops(answers, ids_BT.shape[1])]),
            )
        return [answer.completion() for answer in answers]

    def _score(self, items: Sequence[Scoring], plan: CutPlan) -> list[Likelihoods]:
        rows = [row for item in items for row in item.rows]
        with bypass(self._model, plan):
            scores = [row for part in self._backoff.run(rows, self._score_rows) for row in part]
        return likelihoods_of(self._loaded, items, [score for row in scores for score in row])

    def _score_rows(self, rows: Sequence[LikelihoodRow]) -> list[list[ContinuationScore]]:
        ids_BT, _ = self._padded([row.tokens for row in rows], side="right")
        read: list[tuple[int, int]] = []  # N: row and position in it
        spans: Spans = []
        for index, row in enumerate(rows):
            places = range(len(read), len(read) + row.num_scored)
            spans += [(places, continuation) for continuation in row.continuations]
            read += [(index, position) for position in row.read_positions]
        scores = score_spans(self._loaded, read_states_at(self._model, ids_BT, read), spans)
        return [[next(scores) for _ in row.continuations] for row in rows]

    @torch.no_grad()
    def _states(self, indices: Sequence[int], encoded: Sequence[Tokens]) -> HiddenStates:
        ids_BT, mask_BT = self._padded([encoded[index] for index in indices], side="right")
        states_BTD: list[Tensor] = []

        def keep(state: Tensor | tuple[Tensor, ...]) -> None:
            state_BTD = state if isinstance(state, Tensor) else state[0]
            states_BTD.append(state_BTD.to(device="cpu", dtype=torch.float32, copy=True))

        # The layers are listened to, because the last of the states that transformers gives has been through the norm.
        layers = decoder_layers(self._model)
        hooks = [layer.register_forward_hook(lambda _, __, output: keep(output)) for layer in layers]
        hooks.append(layers[0].register_forward_pre_hook(lambda _, args: keep(args[0])))
        try:
            body_of_model(self._model)(input_ids=ids_BT, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return HiddenStates(tuple(indices), mask_BT.cpu(), tuple(states_BTD))

    def _padded(self, rows: Sequence[Sequence[int]], *, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, (B, T) each, on the model's device."""
        width = max(len(row) for row in rows)
        ids_BT = torch.full((len(rows), width), self._pad_token)
        mask_BT = torch.zeros_like(ids_BT)
        for index, row in enumerate(rows):
            place = slice(width - len(row), width) if side == "left" else slice(len(row))
            ids_BT[index, place] = torch.tensor(row)
            mask_BT[index, place] = 1
            if side == "right":  # a pad token without a mask would set off a warning of transformers
                ids_BT[index, len(row) :] = row[-1]
        return ids_BT.to(self._model.device), mask_BT.to(self._model.device)


def engine_of(handle: ModelHandle) -> PlainEngine:
    """The engine of a row of ENGINES."""
    return PlainEngine(handle.loaded, batch_size=handle.settings.batch_size)
