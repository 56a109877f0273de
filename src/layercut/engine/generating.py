"""Generating: answers under many plans, from their prompts to their last tokens."""

# Shapes: D hidden size, N positions that are read, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from torch import Tensor

from layercut.engine.answers import Answer
from layercut.engine.attention import KeyValue
from layercut.engine.base import Completion, Decoding, Wanted
from layercut.engine.decoding import DecodingPool, Row
from layercut.engine.head import chunks, logits
from layercut.engine.packing import Pack, Text
from layercut.engine.prompts import decode, encode_draft
from layercut.engine.rows import GenerationRow, Tokens
from layercut.engine.sampling import Next, next_tokens
from layercut.engine.shared_depth import Leaf
from layercut.engine.stopping import stop_tokens
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.engine.stack import Stack
    from layercut.models.loading import LoadedModel

Runner = Callable[[Sequence[Text], Callable[[CutPlan], bool]], Iterator[tuple[Leaf, Pack]]]
"""Runs texts under the plans that are wanted."""
_LOOK_EVERY = 8
"""Steps of decoding after which rows that are not wanted any more are let go."""


@dataclass
class _Cell:
    """Answers of one block under one plan."""

    plan: CutPlan
    num_open: int
    ended: list[Completion] = field(default_factory=list)


class Generating:
    """One call: requests, plans and how tokens are drawn.

    A block's prompts are run with their drafts behind them, under all plans. An answer is first held against its draft;
    where the model says something else the answer goes on from there in the pool, beside those of other plans.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        stack: Stack,
        prefix: Tokens,
        decoding: Decoding,
        wanted: Wanted,
        num_bytes: int,
    ) -> None:
        """Nothing is computed yet.

        Args:
            loaded: the model.
            stack: its layers.
            prefix: what all prompts begin with, and the runner does not need again.
            decoding: how tokens are drawn.
            wanted: asked before a plan is run, and while its answers grow.
            num_bytes: of keys and values of answers under way, at most.
        """
        self._loaded = loaded
        self._stack = stack
        self._num_prefix = len(prefix)
        self._decoding = decoding
        self._wanted = wanted
        self._stop_tokens = stop_tokens(loaded.tokenizer, loaded.model.generation_config)
        self._pool = DecodingPool(stack, loaded.num_layers, len(prefix), self._choose, num_bytes)
        self._cells: dict[tuple[str, str], _Cell] = {}
        """Open ones, by plan and request."""

    def answers(
        self, blocks: Iterable[Sequence[GenerationRow]], run: Runner
    ) -> Iterator[tuple[CutPlan, list[Completion]]]:
        """A plan and its answers to a block at a time."""
        for block in blocks:
            drafts = [self._draft(row) for row in block]
            texts = [
                Text.line(row.prompt[self._num_prefix :] + draft) for row, draft in zip(block, drafts, strict=True)
            ]
            for leaf, pack in run(texts, partial(self._any_wanted, block)):
                answers = [self._answer(row, draft) for row, draft in zip(block, drafts, strict=True)]
                ended = self._hold_against_drafts(answers, leaf, pack)
                cell = _Cell(leaf.plan, len(answers) - len(ended), [answer.completion() for answer in ended])
                if not cell.num_open:
                    yield leaf.plan, _sorted(cell.ended)
                for answer, start in zip(answers, pack.starts, strict=True):
                    if answer not in ended:
                        self._cells[leaf.plan.key, answer.id] = cell
                        self._pool.add(self._row(answer, start, leaf))
                yield from self._decode(lambda: not self._pool.is_full)
        yield from self._decode(lambda: self._pool.is_empty)

    def _any_wanted(self, block: Sequence[GenerationRow], plan: CutPlan) -> bool:
        return any(self._wanted(plan, row.id) for row in block)

    def _draft(self, row: GenerationRow) -> Tokens:
        return encode_draft(self._loaded.tokenizer, row.request, row.prompt)[: row.limit]

    def _answer(self, row: GenerationRow, draft: Tokens) -> Answer:
        return Answer(row, draft, self._stop_tokens, lambda tokens: decode(self._loaded.tokenizer, tokens))

    def _hold_against_drafts(self, answers: Sequence[Answer], leaf: Leaf, pack: Pack) -> list[Answer]:
        """Take what the model says behind the prompts and along the drafts; the answers that ended by it."""
        first = [
            start + len(a.row.prompt) - self._num_prefix - 1 for a, start in zip(answers, pack.starts, strict=True)
        ]
        firsts = self._next(leaf.states_1TD[0, first], answers, [0] * len(answers))
        ended = [answer for answer, new in zip(answers, firsts, strict=True) if answer.add(new)]
        # Most answers have left their drafts by now; the head is the dearest part of a short pass.
        on = [(a, at) for a, at in zip(answers, first, strict=True) if a not in ended and a.is_on_draft]
        if not on:
            return ended
        places = [(answer, at, step) for answer, at in on for step in range(1, len(answer.draft) + 1)]
        states_ND = leaf.states_1TD[0, [at + step for _, at, step in places]]
        predicted = iter(self._next(states_ND, [answer for answer, _, _ in places], [step for _, _, step in places]))
        for answer, _ in on:
            if answer.take([Next(answer.tokens[0]), *(next(predicted) for _ in answer.draft)]):
                ended.append(answer)
        return ended

    def _row(self, answer: Answer, start: int, leaf: Leaf) -> Row:
        """An answer that goes on: its last token has no keys yet, those before it stand in the pack."""
        num_own = len(answer.row.prompt) - self._num_prefix + len(answer.tokens) - 1
        here = slice(start, start + num_own)
        own = {layer: KeyValue(kv.keys[:, here], kv.values[:, here]) for layer, kv in leaf.own.items()}
        return Row(answer, leaf.plan, own, leaf.prefix, num_own)

    def _decode(self, is_enough: Callable[[], bool]) -> Iterator[tuple[CutPlan, list[Completion]]]:
        for number in count():
            if number % _LOOK_EVERY == 0:
                for row in self._pool.drop(lambda row: not self._wanted(row.plan, row.answer.id)):
                    yield from self._close(row, None)
            if is_enough():
                return
            for row in self._pool.step():
                yield from self._close(row, row.answer.completion())

    def _close(self, row: Row, completion: Completion | None) -> Iterator[tuple[CutPlan, list[Completion]]]:
        cell = self._cells.pop((row.plan.key, row.answer.id))
        cell.num_open -= 1
        cell.ended += [] if completion is None else [completion]
        if not cell.num_open and cell.ended:
            yield cell.plan, _sorted(cell.ended)

    def _choose(self, states_ND: Tensor, answers: Sequence[Answer]) -> list[Next]:
        return self._next(states_ND, answers, [len(answer.tokens) for answer in answers])

    def _next(self, states_ND: Tensor, answers: Sequence[Answer], steps: Sequence[int]) -> list[Next]:
        """The next token behind each of N states: token number ``steps`` of its answer."""
        model = self._loaded.model
        before = self._stack.leave(states_ND)
        tokens: list[Next] = []
        for chunk in chunks(model, len(answers)):
            names = [answer.id for answer in answers[chunk]]
            tokens += next_tokens(logits(model, before, chunk), self._decoding, names, steps[chunk])
        return tokens


def _sorted(completions: Sequence[Completion]) -> list[Completion]:
    return sorted(completions, key=lambda completion: completion.id)
