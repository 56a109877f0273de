"""Generate answers under many plans, from the prompt to the last token."""

# Shapes: D hidden size, N positions that are read, C of them in a chunk, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from layercut.engine.attention import KeyValue
from layercut.engine.base import Completion, Decoding, Under, Wanted, distinct_plans
from layercut.engine.batching import halve_after, refuse_smallest
from layercut.engine.decoding import DecodingPool, DecodingRow
from layercut.engine.products import packed_weights
from layercut.engine.rows import GenerationRow, Scoring, Tokens, decode_tokens, encode_draft
from layercut.engine.scores import Reading
from layercut.engine.stack import Leaf, Stack, logits, position_chunks
from layercut.engine.stopping import Answer, next_tokens, stop_tokens
from layercut.engine.text_groups import PackedText
from layercut.models.loading import LoadedModel
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Runner = Callable[[Sequence[PackedText], Callable[[CutPlan], bool]], Iterator[Leaf]]
"""Runs texts under the plans that are wanted."""
Predictions = dict[tuple[str, int], int]
"""By request and step: the model's next token behind the prompt and this many tokens of the draft."""
_CHECK_EVERY = 8
"""Steps of decoding after which ended answers are handed over, and rows that are not wanted any more let go. Counted in
steps, not in seconds: which answers a race asks for must not depend on the machine."""
_AT_ONCE = 32  # answers that are handed over together at most: where the disk becomes full, one such portion is lost


@dataclass(frozen=True)
class ItemRequest:
    """The question under one id: an answer, scores of continuations, or both. It is one text, however many branches."""

    row: GenerationRow | None
    scoring: Scoring | None
    num_rows: int = 1

    @property
    def id(self) -> str:
        part = self.row or self.scoring
        assert part is not None, "a question asks for something"
        return part.id

    @property
    def group(self) -> str:
        """See ``GenerationRequest``; that of all questions that are scored alone is empty."""
        return "" if self.row is None else self.row.request.group

    @property
    def ends(self) -> Iterator[tuple[Tokens, int]]:
        """Its rows, each with the number of last tokens after which something is read."""
        if self.row is not None:
            yield self.row.prompt, 1
        if self.scoring is not None:
            yield from ((row.tokens, row.num_scored) for row in self.scoring.rows)


def join_questions(rows: Sequence[GenerationRow], work: Sequence[Scoring]) -> list[ItemRequest]:
    """Prompts and scorings, those with one id as one question: first the prompts in their order, then what is left."""
    scoring_of = {item.id: item for item in work}
    answered = {row.id for row in rows}
    both = [ItemRequest(row, scoring_of.get(row.id)) for row in rows]
    return both + [ItemRequest(None, item) for item in work if item.id not in answered]


PromptBlock = tuple[Sequence[ItemRequest], int, Runner]
"""Questions whose prompts are run together, the number of tokens that all of them begin with, and what runs them."""


class _Drafted(NamedTuple):
    """A request to be answered, and the text of its prompt and draft: one for all that are alike in both."""

    row: GenerationRow
    draft: Tokens
    place: int


class Generating:
    """One call: questions, plans and how tokens are drawn.

    A block's prompts are run with their drafts behind them, and beside these the continuations that are to be scored,
    under all plans. An answer is first held against its draft; where the model says something else the answer goes on
    from there in the pool, with those of other plans and blocks.
    """

    def __init__(self, loaded: LoadedModel, stack: Stack, decoding: Decoding, wanted: Wanted, num_bytes: int) -> None:
        """``wanted`` is asked before a plan is run and while answers grow; ``num_bytes`` hold their keys and values."""
        self._loaded, self._stack, self._decoding, self._wanted = loaded, stack, decoding, wanted
        self._stop_tokens = stop_tokens(loaded.tokenizer, loaded.model.generation_config)
        # No method: through it the pool would hold this object, and their circle its memory after the last answer.
        self._next = partial(_choose_next, loaded.model, stack, decoding)
        self._pool = DecodingPool(stack, loaded.num_layers, self._next, num_bytes)
        self._ended: list[tuple[CutPlan, Completion]] = []  # answers that were not handed over yet

    def answers(self, blocks: Iterable[PromptBlock], *, packs: bool = False) -> Under[Any]:
        """A plan and its scores of a block, or some of its answers, as they end; ``packs``: with ``packed_weights``."""
        with packed_weights(self._loaded.model) if packs else nullcontext():
            for block in blocks:
                yield from self._begin(*block, set())
            yield from self._decode(lambda: self._pool.is_empty)
        yield from self._hand_over()

    def _begin(self, questions: Sequence[ItemRequest], num_prefix: int, run: Runner, begun: set[str]) -> Under[Any]:
        """Run a block's prompts under all plans but those that have ``begun``; in halves if memory runs out."""
        drafted, reading = self._lay_out(questions, num_prefix)
        leaves = run(
            reading.texts,
            lambda plan: plan.key not in begun and any(self._wanted(plan, question.id) for question in questions),
        )
        while True:
            try:
                if (leaf := next(leaves, None)) is None:
                    return
                predictions: Predictions = {}
                scores = []
                if reading.block:
                    listener = self._listener(drafted, reading, predictions)
                    scores = reading.scores(self._loaded, reading.head_input(self._stack, leaf), listener)
                answers, ended = self._hold_against_drafts(drafted, reading, leaf, predictions)
            except RuntimeError as error:
                refuse_smallest(questions, error)
                break
            begun.add(leaf.plan.key)
            if scores:
                yield leaf.plan, scores
            self._ended += [(leaf.plan, answer.completion()) for answer in ended]
            for answer, (_, _, place) in zip(answers, drafted, strict=True):
                if answer not in ended:
                    self._pool.add(_decoding_row(answer, num_prefix, leaf.pack.starts[place], leaf))
            del leaf
            yield from self._decode(lambda: not self._pool.is_full)
        del leaves
        half = halve_after(questions, "prompts")
        for part in (questions[:half], questions[half:]):
            yield from self._begin(part, num_prefix, run, set(begun))

    def _lay_out(self, questions: Sequence[ItemRequest], num_prefix: int) -> tuple[list[_Drafted], Reading]:
        drafted: list[_Drafted] = []
        lines: list[list[Tokens]] = []  # per text
        scorings: list[Scoring | None] = []
        known: dict[Tokens, int] = {}
        for question in questions:
            row, line, place = question.row, None, None
            if row is not None:
                draft = encode_draft(self._loaded.tokenizer, row.request, row.prompt)[: row.limit]
                line = row.prompt[num_prefix:] + draft
                place = known.get(line) if question.scoring is None else None
            if place is None:
                place = len(lines)
                scorings.append(question.scoring)
                lines.append([] if line is None else [line])
            if row is not None and line is not None:
                known.setdefault(line, place)
                drafted.append(_Drafted(row, draft, place))
        return drafted, Reading(scorings, num_prefix, lines)

    def _listener(
        self, drafted: Sequence[_Drafted], reading: Reading, predictions: Predictions
    ) -> Callable[[slice, Tensor], None]:
        """Takes down what the model says along the drafts at positions that are read for the scores anyway."""
        steps = [
            (position, row.id, step)
            for row, draft, place in drafted
            for step in range(len(draft) + 1)
            if (position := reading.read_at(place, len(row.prompt) - reading.num_prefix - 1 + step)) is not None
        ]

        def on_logits(chunk: slice, logits_CV: Tensor) -> None:
            here = [(at - chunk.start, name, step) for at, name, step in steps if chunk.start <= at < chunk.stop]
            if here:
                places, names, numbers = (list(part) for part in zip(*here, strict=True))
                new = next_tokens(logits_CV[places], self._decoding, names, numbers)
                predictions.update(zip(zip(names, numbers, strict=True), new, strict=True))

        return on_logits

    def _hold_against_drafts(
        self, drafted: Sequence[_Drafted], reading: Reading, leaf: Leaf, predictions: Predictions
    ) -> tuple[list[Answer], list[Answer]]:
        """A block's answers under a plan, as far as their drafts go; and those of them that ended by it."""
        as_text = partial(decode_tokens, self._loaded.tokenizer)
        answers = [Answer(row, self._stop_tokens, as_text, draft=draft) for row, draft, _ in drafted]
        end_of = {  # packed place of each prompt's last token
            row.id: leaf.pack.starts[place] + len(row.prompt) - reading.num_prefix - 1 for row, _, place in drafted
        }

        def predict(steps: Sequence[tuple[Answer, int]]) -> None:
            unknown = [(answer, step) for answer, step in steps if (answer.id, step) not in predictions]
            if unknown:
                states_ND = leaf.states_1TD[0, [end_of[answer.id] + step for answer, step in unknown]]
                new = self._next(states_ND, [answer for answer, _ in unknown], [step for _, step in unknown])
                predictions.update(zip(((answer.id, step) for answer, step in unknown), new, strict=True))

        def follow(answer: Answer) -> bool:
            """Take what the model says along the draft; whether the answer has ended."""
            while answer.follows_draft:
                if answer.add(predictions[answer.id, len(answer.tokens)]):
                    return True
            return False

        predict([(answer, 0) for answer in answers])
        ended = [answer for answer in answers if answer.add(predictions[answer.id, 0])]
        # Most answers have left their drafts by now; the head is the dearest part of a short pass.
        on = [answer for answer in answers if answer not in ended and answer.follows_draft and len(answer.draft) > 1]
        predict([(answer, step) for answer in on for step in range(1, len(answer.draft) + 1)])
        return answers, ended + [answer for answer in on if follow(answer)]

    def _decode(self, is_enough: Callable[[], bool]) -> Under[Completion]:
        for number in count():
            if number % _CHECK_EVERY == 0:
                yield from self._hand_over()
                self._pool.drop(lambda row: not self._wanted(row.plan, row.answer.id))
            if is_enough():
                return
            self._ended += [(row.plan, row.answer.completion()) for row in self._pool.step()]

    def _hand_over(self) -> Under[Completion]:
        ended, self._ended = self._ended, []
        for plan in distinct_plans([plan for plan, _ in ended]):
            own = [completion for of_plan, completion in ended if of_plan.key == plan.key]
            yield from ((plan, own[start : start + _AT_ONCE]) for start in range(0, len(own), _AT_ONCE))


def _decoding_row(answer: Answer, num_prefix: int, start: int, leaf: Leaf) -> DecodingRow:
    """An answer that goes on: its last token has no keys yet, those before it are in the pack."""
    num_own = len(answer.row.prompt) - num_prefix + len(answer.tokens) - 1
    here = slice(start, start + num_own)
    own = {layer: KeyValue(kv.keys[:, here], kv.values[:, here]) for layer, kv in leaf.own.items()}
    return DecodingRow(answer, leaf.plan, own, leaf.prefix, num_prefix, num_own)


def _choose_next(
    model: PreTrainedModel,
    stack: Stack,
    decoding: Decoding,
    states_ND: Tensor,
    answers: Sequence[Answer],
    steps: Sequence[int],
) -> list[int]:
    """The next token behind each of N states: token number ``steps`` of its answer."""
    before = stack.leave(states_ND)
    tokens: list[int] = []
    for chunk in position_chunks(model, len(answers)):
        names = [answer.id for answer in answers[chunk]]
        tokens += next_tokens(logits(model, before, chunk), decoding, names, steps[chunk])
    return tokens
