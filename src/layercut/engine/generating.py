"""Generate answers under many plans, from the prompt to the last token."""

# Shapes: D hidden size, N positions that are read, V vocabulary.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from layercut.engine.answers import Answer
from layercut.engine.attention import KeyValue
from layercut.engine.base import Completion, Decoding, Likelihoods, Under, Wanted, distinct
from layercut.engine.decoding import DecodingPool, DecodingRow
from layercut.engine.prompts import decode, encode_draft
from layercut.engine.rows import GenerationRow, ItemRequest, Scoring, Tokens
from layercut.engine.sampling import Next, next_tokens
from layercut.engine.scores import OnLogits, Reading
from layercut.engine.shared_depth import Leaf
from layercut.engine.stack import chunks, logits
from layercut.engine.stopping import stop_tokens
from layercut.engine.text_groups import Pack, PackedText
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.engine.stack import Stack
    from layercut.models.loading import LoadedModel

logger = logging.getLogger(__name__)
Runner = Callable[[Sequence[PackedText], Callable[[CutPlan], bool]], Iterator[tuple[Leaf, Pack]]]
"""Runs texts under the plans that are wanted."""
Said = dict[tuple[str, int], Next]
"""By request and step: the model's next token behind the prompt and this many tokens of the draft."""
_CHECK_EVERY = 8
"""Steps of decoding after which ended answers are handed over, and rows that are not wanted any more let go. Counted in
steps, not in seconds: which answers a race asks for must not depend on the machine."""
_AT_ONCE = 32  # answers that are handed over together at most: where the disk becomes full, one such portion is lost


class PromptBlock(NamedTuple):
    """Questions whose prompts are run together, and what runs them."""

    questions: Sequence[ItemRequest]
    num_prefix: int  # tokens that all prompts begin with, and that the runner has computed
    run: Runner


class _Laid(NamedTuple):
    """A block as texts."""

    rows: list[GenerationRow]  # requests to be answered
    drafts: list[Tokens]  # per row
    places: list[int]
    """Per row, which text holds its prompt and draft; one text for all rows that are alike in both, such as the drawn
    answers to one question."""
    num_prefix: int
    reading: Reading


class Generating:
    """One call: questions, plans and how tokens are drawn.

    A block's prompts are run with their drafts behind them, and beside these the continuations that are to be scored,
    under all plans. An answer is first held against its draft; where the model says something else the answer goes on
    from there in the pool, with those of other plans and blocks.
    """

    def __init__(self, loaded: LoadedModel, stack: Stack, decoding: Decoding, wanted: Wanted, num_bytes: int) -> None:
        """Nothing is computed yet.

        Args:
            wanted: asked before a plan is run, and while its answers grow.
            num_bytes: of keys and values of answers under way, at most.
        """
        self._loaded = loaded
        self._stack = stack
        self._decoding = decoding
        self._wanted = wanted
        self._stop_tokens = stop_tokens(loaded.tokenizer, loaded.model.generation_config)
        # No method: through it the pool would hold this object, and their circle its memory after the last answer.
        self._next = partial(_next, loaded.model, stack, decoding)
        self._pool = DecodingPool(stack, loaded.num_layers, self._next, num_bytes)
        self._ended: list[tuple[CutPlan, Completion]] = []  # answers that were not handed over yet

    def answers(self, blocks: Iterable[PromptBlock], *, packs: bool = False) -> Under[Any]:
        """A plan and its scores of a block, or some of its answers, soon after they ended; ``packs``: see ``Stack``."""
        with self._stack.packed() if packs else nullcontext():
            for block in blocks:
                yield from self._begin(block, set())
            yield from self._decode(lambda: self._pool.is_empty)
        yield from self._tell()

    def _begin(self, block: PromptBlock, begun: set[str]) -> Under[Any]:
        """Run a block's prompts under all plans but those that have ``begun``; in halves if memory runs out."""
        laid, questions = self._lay(block), block.questions
        leaves = block.run(
            laid.reading.texts,
            lambda plan: plan.key not in begun and any(self._wanted(plan, one.id) for one in questions),
        )
        while True:
            try:
                if (found := next(leaves, None)) is None:
                    return
                leaf, pack = found
                scores, answers, ended = self._read(laid, leaf, pack)
            except RuntimeError as error:
                if len(questions) == 1 or not should_reduce_batch_size(error):
                    raise
                break
            begun.add(leaf.plan.key)
            if scores:
                yield leaf.plan, scores
            self._ended += [(leaf.plan, answer.completion()) for answer in ended]
            for answer, place in zip(answers, laid.places, strict=True):
                if answer not in ended:
                    self._pool.add(_row(answer, laid.num_prefix, pack.starts[place], leaf))
            del found, leaf, pack
            yield from self._decode(lambda: not self._pool.is_full)
        # After the handler, because its traceback holds the tensors that filled the memory.
        del leaves
        clear_device_cache(garbage_collection=True)
        half = len(questions) // 2
        logger.warning("out of memory with %d prompts at once; going on with %d", len(questions), half)
        for part in (questions[:half], questions[half:]):
            yield from self._begin(block._replace(questions=part), set(begun))

    def _lay(self, block: PromptBlock) -> _Laid:
        rows = [question.row for question in block.questions if question.row is not None]
        drafts = [encode_draft(self._loaded.tokenizer, row.request, row.prompt)[: row.limit] for row in rows]
        own_lines = iter([row.prompt[block.num_prefix :] + draft for row, draft in zip(rows, drafts, strict=True)])
        scorings: list[Scoring | None] = []
        lines: list[list[Tokens]] = []
        places: list[int] = []
        known: dict[Tokens, int] = {}
        for question in block.questions:
            line = None if question.row is None else next(own_lines)
            place = None if line is None or question.scoring is not None else known.get(line)
            if place is None:
                place = len(lines)
                scorings.append(question.scoring)
                lines.append([] if line is None else [line])
            if line is not None:
                known.setdefault(line, place)
                places.append(place)
        return _Laid(rows, drafts, places, block.num_prefix, Reading(scorings, block.num_prefix, lines))

    def _read(self, laid: _Laid, leaf: Leaf, pack: Pack) -> tuple[list[Likelihoods], list[Answer], list[Answer]]:
        """A block's scores under a plan, its answers as far as their drafts go, and those of them that have ended."""
        as_text = partial(decode, self._loaded.tokenizer)
        drafted = zip(laid.rows, laid.drafts, strict=True)
        answers = [Answer(row, draft, self._stop_tokens, as_text) for row, draft in drafted]
        said: Said = {}
        scores: list[Likelihoods] = []
        if laid.reading.block:
            before = self._stack.leave(leaf.states_1TD[0, laid.reading.positions(pack)])
            on_logits = self._listener(laid, answers, said)
            scores = laid.reading.scores(self._loaded, before, on_logits)
        starts = [pack.starts[place] for place in laid.places]
        ends = [
            start + len(answer.row.prompt) - laid.num_prefix - 1 for answer, start in zip(answers, starts, strict=True)
        ]
        return scores, answers, self._hold_against_drafts(answers, ends, leaf, said)

    def _listener(self, laid: _Laid, answers: Sequence[Answer], said: Said) -> OnLogits:
        """Takes down what the model says along the drafts at positions that are read for the scores anyway."""
        steps = [
            (found, answer, step)
            for place, answer in zip(laid.places, answers, strict=True)
            for step in range(len(answer.draft) + 1)
            if (found := laid.reading.read_at(place, len(answer.row.prompt) - laid.num_prefix - 1 + step)) is not None
        ]

        def on_logits(chunk: slice, logits_CV: Tensor) -> None:
            here = [(at - chunk.start, answer, step) for at, answer, step in steps if chunk.start <= at < chunk.stop]
            if here:
                names = [answer.id for _, answer, _ in here]
                rows_NV = logits_CV[[at for at, _, _ in here]]
                new = next_tokens(rows_NV, self._decoding, names, [step for _, _, step in here])
                said.update(((answer.id, step), one) for (_, answer, step), one in zip(here, new, strict=True))

        return on_logits

    def _hold_against_drafts(
        self, answers: Sequence[Answer], ends: Sequence[int], leaf: Leaf, said: Said
    ) -> list[Answer]:
        """Take what the model says behind the prompts, which end at these places, and along the drafts; the answers
        that ended by it."""
        first = {answer.id: end for answer, end in zip(answers, ends, strict=True)}

        def ask(steps: Sequence[tuple[Answer, int]]) -> None:
            unknown = [(answer, step) for answer, step in steps if (answer.id, step) not in said]
            if unknown:
                states_ND = leaf.states_1TD[0, [first[answer.id] + step for answer, step in unknown]]
                new = self._next(states_ND, [answer for answer, _ in unknown], [step for _, step in unknown])
                said.update(((answer.id, step), one) for (answer, step), one in zip(unknown, new, strict=True))

        ask([(answer, 0) for answer in answers])
        ended = [answer for answer in answers if answer.add(said[answer.id, 0])]
        # Most answers have left their drafts by now; the head is the dearest part of a short pass.
        on = [answer for answer in answers if answer not in ended and answer.is_on_draft]
        ask([(answer, step) for answer in on for step in range(1, len(answer.draft) + 1)])
        return ended + [
            answer for answer in on if answer.take([said[answer.id, step] for step in range(len(answer.draft) + 1)])
        ]

    def _decode(self, is_enough: Callable[[], bool]) -> Under[Completion]:
        for number in count():
            if number % _CHECK_EVERY == 0:
                yield from self._tell()
                self._pool.drop(lambda row: not self._wanted(row.plan, row.answer.id))
            if is_enough():
                return
            self._ended += [(row.plan, row.answer.completion()) for row in self._pool.step()]

    def _tell(self) -> Under[Completion]:
        """Hand over the answers that have ended, plan by plan."""
        ended, self._ended = self._ended, []
        for plan in distinct([plan for plan, _ in ended]):
            own = [completion for of_plan, completion in ended if of_plan.key == plan.key]
            yield from ((plan, own[start : start + _AT_ONCE]) for start in range(0, len(own), _AT_ONCE))


def _row(answer: Answer, num_prefix: int, start: int, leaf: Leaf) -> DecodingRow:
    """An answer that goes on: its last token has no keys yet, those before it are in the pack."""
    num_own = len(answer.row.prompt) - num_prefix + len(answer.tokens) - 1
    here = slice(start, start + num_own)
    own = {layer: KeyValue(kv.keys[:, here], kv.values[:, here]) for layer, kv in leaf.own.items()}
    return DecodingRow(answer, leaf.plan, own, leaf.prefix, num_prefix, num_own)


def _next(
    model: PreTrainedModel,
    stack: Stack,
    decoding: Decoding,
    states_ND: Tensor,
    answers: Sequence[Answer],
    steps: Sequence[int],
) -> list[Next]:
    """The next token behind each of N states: token number ``steps`` of its answer."""
    before = stack.leave(states_ND)
    tokens: list[Next] = []
    for chunk in chunks(model, len(answers)):
        names = [answer.id for answer in answers[chunk]]
        tokens += next_tokens(logits(model, before, chunk), decoding, names, steps[chunk])
    return tokens
