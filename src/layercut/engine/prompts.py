"""Turn prompts into tokens: plain text unchanged, conversations with the tokenizer's own chat template.

A template writes the tokens that begin a text itself, so a rendered conversation is tokenised without adding special
tokens again (no double BOS). Plain text gets what the tokenizer adds by default, unless it already begins with that
token. A final assistant message is continued, so that a task can begin the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.engine.base import GenerationRequest, Message, Prompt
from layercut.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
