"""Turn requests into rows of tokens that fit in the model's context, before an engine runs them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.engine.prompts import TokenPair, encode_begun, encode_pairs, encode_prompt
from layercut.errors import InputError
from layercut.models.loading import LoadedModel, WeightlessModel

if TYPE_CHECKING:
    from layercut.engine.handle import ModelHandle

_LONG = 2000  # characters of a prompt from which a dry run counts its tokens

logger = logging.getLogger(__name__)
Tokens = tuple[int, ...]
Reader = LoadedModel | WeightlessModel


@dataclass(frozen=True)
class GenerationRow:
    """A prompt to be continued."""

    request: GenerationRequest
    prompt: Tokens
    limit: int  # new tokens at most: the request's own number, or the space that the prompt leaves in the context
    given: str = ""  # the part of the answer that the prompt has already: the request's ``begins``, or nothing
    num_rows: int = 1

    @property
    def id(self) -> str:
        return self.request.id


@dataclass(frozen=True)
class LikelihoodRow:
    """One row of the model's input, and continuations of one length that are read off its last positions."""

    tokens: Tokens
    continuations: tuple[Tokens, ...]

    @property
    def num_scored(self) -> int:
        return len(self.continuations[0])

    @property
    def read_positions(self) -> range:
        return range(len(self.tokens) - self.num_scored, len(self.tokens))


@dataclass(frozen=True)
class Scoring:
    """A request whose continuations are to be scored."""

    request: LikelihoodRequest
    pairs: tuple[TokenPair, ...]
    rows: tuple[LikelihoodRow, ...]  # continuations that differ in their last token alone share a row
    places: tuple[tuple[int, int], ...]  # per continuation: its row and its place among that row's continuations

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def num_dropped(self) -> int:
        """Tokens that the longest row lost at its beginning, because the context is too short."""
        longest = max(len(pair.context) + len(pair.continuation) - 1 for pair in self.pairs)
        return longest - max(len(row.tokens) for row in self.rows)


def generation_row(loaded: Reader, request: GenerationRequest) -> GenerationRow:
    """Encode a prompt, with as many new tokens as were asked for and fit. Raises InputError: no tokens, or no space."""
    with _naming(request.where or f"request {request.id!r}"):
        if request.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {request.max_new_tokens}; use 1 or more.")
        prompt, given = encode_begun(loaded.tokenizer, request, loaded.name)
        if not prompt:
            raise InputError("the prompt has no tokens; give one that is not empty.")
        context = loaded.context_length
        room = request.max_new_tokens if context is None else context - len(prompt)
        if room < 1:
            raise InputError(
                f"the prompt has {len(prompt)} tokens and leaves no space in the context of {loaded.name}, which takes "
                f"{context}. Shorten it, for example by giving fewer examples."
            )
    return GenerationRow(request, prompt, min(request.max_new_tokens, room), given)


def check_longest(handle: ModelHandle, requests: Iterable[GenerationRequest | LikelihoodRequest]) -> None:
    """Refuse the longest prompt where it leaves no space in the context; a tokenizer is loaded only for a long one."""
    written = [request for request in requests if isinstance(request, GenerationRequest)]
    longest = max(written, key=lambda request: len(str(request.prompt)), default=None)
    if longest is not None and len(str(longest.prompt)) > _LONG:
        what = [longest.prompt, longest.begins, longest.max_new_tokens]
        handle.read("longest", what, lambda reader: generation_row(reader, longest).limit)


def generation_rows(loaded: Reader, requests: Sequence[GenerationRequest]) -> list[GenerationRow]:
    """All prompts, those with the most tokens first; see ``generation_row``."""
    rows = [generation_row(loaded, request) for request in requests]
    return sorted(rows, key=lambda row: (-row.request.max_new_tokens, -len(row.prompt), row.id))


def make_scorings(loaded: Reader, requests: Sequence[LikelihoodRequest]) -> list[Scoring]:
    """All requests as rows, the longest first; see ``make_scoring``. A warning says if some are too long."""
    work = [make_scoring(loaded, request) for request in requests]
    if dropped := [item.num_dropped for item in work if item.num_dropped]:
        logger.warning(
            "%d of %d prompts are longer than the context of %s and lose up to %d tokens at their beginning",
            *(len(dropped), len(work), loaded.name, max(dropped)),
        )
    return sorted(work, key=lambda item: (-max(len(row.tokens) for row in item.rows), item.id))


def compared_scorings(loaded: Reader, requests: Sequence[LikelihoodRequest]) -> list[Scoring]:
    """``make_scorings`` for a comparison of plans. Raises InputError: also without exactly one continuation."""
    for request in requests:
        if (count := len(request.continuations)) != 1:
            raise InputError(f"request {request.id!r} has {count} continuations, and plans are compared on one.")
    return make_scorings(loaded, requests)


def make_scoring(loaded: Reader, request: LikelihoodRequest) -> Scoring:
    """Encode a context with its continuations, and drop the beginning of what is too long, as lm-eval does."""
    with _naming(f"request {request.id!r}"):
        if not request.continuations:
            raise InputError("there are no continuations; give at least one.")
        if request.prompts and len(request.prompts) != len(request.continuations):
            raise InputError(
                f"{len(request.prompts)} prompts for {len(request.continuations)} continuations; give one for each."
            )
        if request.tokens is not None:
            pairs = [TokenPair(*request.tokens)]
        elif request.prompts:
            each = zip(request.prompts, request.continuations, strict=True)
            pairs = [encode_pairs(loaded.tokenizer, prompt, [text], loaded.name)[0] for prompt, text in each]
        else:
            pairs = encode_pairs(loaded.tokenizer, request.prompt, request.continuations, loaded.name)
        context = loaded.context_length
        longest = max(len(pair.continuation) for pair in pairs)
        if context is not None and longest > context:
            raise InputError(
                f"a continuation has {longest} tokens and {loaded.name} takes {context}. Shorten the continuation."
            )
    shared: dict[Tokens, list[Tokens]] = {}
    places = []
    for pair in pairs:
        whole = (*pair.context, *pair.continuation[:-1])
        tokens = whole if context is None else whole[-context:]
        on_row = shared.setdefault(tokens, [])
        places.append((list(shared).index(tokens), len(on_row)))
        on_row.append(pair.continuation)
    rows = tuple(LikelihoodRow(tokens, tuple(continuations)) for tokens, continuations in shared.items())
    return Scoring(request, tuple(pairs), rows, tuple(places))


def text_tokens(loaded: Reader, text: str, index: int) -> Tokens:
    """Encode text number ``index`` to be read through. Raises InputError: no tokens, or more than the context takes."""
    tokens = encode_prompt(loaded.tokenizer, text, loaded.name)
    context = loaded.context_length
    if not tokens or (context is not None and len(tokens) > context):
        raise InputError(
            f"text {index} has {len(tokens)} tokens; {loaded.name} takes from 1 to {context or 'any number'}; cut it."
        )
    return tokens


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
