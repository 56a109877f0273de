"""Turn requests into rows of tokens that fit in the model's context: plain text unchanged, conversations by a template.

The tokenizer's own chat template writes the tokens that begin a text itself, so a rendered conversation is tokenised
without adding special tokens again (no double BOS). Plain text gets what the tokenizer adds by default, unless it
already begins with that token. A final assistant message is continued, so that a task can begin the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.engine.base import GenerationRequest, LikelihoodRequest, Message, Prompt
from layercut.errors import InputError, first_line
from layercut.models.loading import LoadedModel, WeightlessModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from layercut.engine.handle import ModelHandle

# Some templates write today's date, so that the same run gives other numbers tomorrow. A macro of the same name takes
# the place of their clock and always says Friday, 26 July 2024 (the date that Llama 3.1's template falls back to).
_FIXED_DATE = {"%d": "26", "%m": "07", "%Y": "2024", "%y": "24", "%b": "Jul", "%B": "July", "%a": "Fri", "%A": "Friday"}
_FIXED_CLOCK = (
    "{%- macro strftime_now(format) -%}{{- format"
    + "".join(f" | replace('{code}', '{text}')" for code, text in _FIXED_DATE.items())
    + " -}}{%- endmacro -%}"
)


class Rendered(NamedTuple):
    """A prompt as text, and whether the tokenizer may add its special tokens to it."""

    text: str
    add_special_tokens: bool

    def encode(self, tokenizer: PreTrainedTokenizerBase, more: str = "") -> tuple[int, ...]:
        return encode_text(tokenizer, self.text + more, add_special_tokens=self.add_special_tokens)


class TokenPair(NamedTuple):
    """Tokens of a context and of the continuation that is scored after it."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, model: str = "this model") -> Rendered:
    """The text that the model reads. Raises InputError: a conversation that is empty, or that no template takes."""
    if isinstance(prompt, str):
        prefix = _prefix_token(tokenizer)  # a text may begin with it already
        begins = str(tokenizer.decode(prefix)) if prefix is not None else ""
        return Rendered(prompt, not (begins and prompt.startswith(begins)))
    if not tokenizer.chat_template:
        raise InputError(f"{model} has no chat template, and this prompt is a conversation; take its instruct version.")
    messages = list(prompt)
    if messages and messages[-1] == Message("assistant", ""):
        messages.pop()  # an answer that begins with nothing is an ordinary answer
    if not messages:
        raise InputError("an empty conversation cannot be answered; give at least one message.")
    begun = messages[-1].role == "assistant"
    text = apply_template(tokenizer, messages, model, add_generation_prompt=not begun, continue_final_message=begun)
    return Rendered(text, False)


def apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], model: str = "this model", **options: Any
) -> str:
    """A conversation as the chat template writes it, on a fixed date. Raises InputError: the template refuses it."""
    try:
        turns = [message._asdict() for message in messages]
        template = tokenizer.get_chat_template()
        template = _FIXED_CLOCK + template if "strftime_now" in template else template
        return str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **options))
    except Exception as error:  # a template is a program that comes with the model
        roles = ", ".join(message.role for message in messages)
        raise InputError(
            f"the chat template of {model} refuses this conversation ({first_line(error)}); its turns are {roles}. "
            "Use turns that the template knows."
        ) from error


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
    """Token ids of one text, never truncated."""
    return tuple(tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, model: str = "this model") -> tuple[int, ...]:
    """Token ids of one prompt."""
    return render_prompt(tokenizer, prompt, model).encode(tokenizer)


def encode_begun(
    tokenizer: PreTrainedTokenizerBase, request: GenerationRequest, model: str = "this model"
) -> tuple[tuple[int, ...], str]:
    """Token ids of a prompt, and what they hold of its answer: ``begins``, where a token joins both, or nothing."""
    rendered = render_prompt(tokenizer, request.prompt, model)
    prompt = rendered.encode(tokenizer)
    begun = rendered.encode(tokenizer, request.begins) if request.begins else prompt
    return (prompt, "") if begun[: len(prompt)] == prompt else (begun, request.begins)


def encode_draft(
    tokenizer: PreTrainedTokenizerBase, request: GenerationRequest, prompt: Sequence[int]
) -> tuple[int, ...]:
    """Tokens of a request's draft as they would come after its prompt: of both together, where these begin with it."""
    if not request.draft:
        return ()
    whole = render_prompt(tokenizer, request.prompt).encode(tokenizer, request.draft)
    if whole[: len(prompt)] == tuple(prompt):
        return whole[len(prompt) :]
    return encode_text(tokenizer, request.draft, add_special_tokens=False)


def decode_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of an answer, without special tokens. Cleaning up would take away spaces that were shown before."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, continuations: Sequence[str], model: str = "this model"
) -> list[TokenPair]:
    """Split context + continuation into tokens as the LM Evaluation Harness does, so that scores can be compared.

    White space at the end of the context goes to the continuation, because tokenizers glue it to the word that follows.
    The continuation's tokens are those of the whole text from the length of the context's own tokens on. After an empty
    context the continuation follows the BOS token, or the EOS token where there is no BOS, once.

    Raises InputError: a continuation without tokens of its own.
    """
    rendered = render_prompt(tokenizer, prompt, model)
    head = rendered._replace(text=rendered.text.rstrip()).encode(tokenizer)
    pairs = []
    for continuation in continuations:
        if rendered.text:
            pair = TokenPair(head, rendered.encode(tokenizer, continuation)[len(head) :])
        else:
            ids, prefix = encode_text(tokenizer, continuation, add_special_tokens=False), _prefix_token(tokenizer)
            if prefix is None:
                raise InputError(
                    "an empty prompt needs a BOS or EOS token to stand for it, and this tokenizer has neither."
                )
            pair = TokenPair(ids[:1], ids[1:]) if ids[:1] == (prefix,) else TokenPair((prefix,), ids)
        if not pair.context:
            raise InputError("the prompt has no tokens; give one that is more than white space.")
        if not pair.continuation:
            raise InputError(
                f"the continuation {continuation!r} has no tokens of its own after this prompt; give a longer one."
            )
        pairs.append(pair)
    return pairs


def _prefix_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    bos: int | None = tokenizer.bos_token_id
    return bos if bos is not None else tokenizer.eos_token_id


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
