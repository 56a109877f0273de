from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from tokenizers import processors

from layercut.engine.base import Completion, Decoding, GenerationRequest, Message
from layercut.engine.plain import PlainEngine
from layercut.engine.rows import encode_begun, encode_pairs, encode_prompt, render_prompt
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.healing.examples import encode_example
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.loaded import tiny_loaded
from tests.support.tiny import byte_tokenizer

BOS, END = 257, 259
QUESTION = (Message("user", "2+2?"),)
GEMMA_LIKE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{{ m['role'] + ': ' + (m['content'] | trim) + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture
def tokenizer():
    """Adds BOS to plain text, as Llama 3's does, and has a template that writes BOS itself."""
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)]
    )
    tokenizer.chat_template = GEMMA_LIKE
    return tokenizer


def test_a_conversation_has_one_bos_and_ends_where_the_answer_begins(tokenizer):
    tokens = encode_prompt(tokenizer, QUESTION)
    assert tokens[0] == BOS and tokens.count(BOS) == 1
    assert tokenizer.decode(tokens) == "<|bos|>user: 2+2?<|im_end|>assistant: "
    assert tokenizer("x")["input_ids"][0] == BOS, "the tokenizer of this test must add BOS, else it shows nothing"
    # Plain text gets the tokenizer's own, once.
    assert encode_prompt(tokenizer, "ab")[0] == BOS
    assert encode_prompt(tokenizer, "<|bos|>ab") == encode_prompt(tokenizer, "ab")
    assert BOS not in encode_prompt(byte_tokenizer(), "ab"), "this one adds none"


def test_a_final_assistant_message_is_continued(tokenizer):
    begun = (*QUESTION, Message("assistant", "The answer is"))
    assert render_prompt(tokenizer, begun).text.endswith("assistant: The answer is")
    assert render_prompt(tokenizer, (*QUESTION, Message("assistant", ""))) == render_prompt(tokenizer, QUESTION)


def test_what_a_template_refuses_is_told_in_one_line(tokenizer):
    with pytest.raises(InputError, match="System role not supported") as caught:
        render_prompt(tokenizer, (Message("system", "Be brief."), *QUESTION), "m")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="empty conversation"):
        render_prompt(tokenizer, ())


def test_a_template_that_asks_for_the_date_gets_the_same_one_every_day(tokenizer):
    tokenizer.chat_template = "{% if strftime_now is defined %}{{ strftime_now('%A, %d %b %Y, %Y-%m-%d') }}{% endif %}|"
    assert render_prompt(tokenizer, QUESTION).text == "Friday, 26 Jul 2024, 2024-07-26|"


def test_white_space_before_a_continuation_belongs_to_it(tokenizer):
    (pair,) = encode_pairs(tokenizer, "A: ", ["5"])
    assert tokenizer.decode(pair.context) == "<|bos|>A:"
    assert tokenizer.decode(pair.continuation) == " 5"
    chat, plain = encode_pairs(tokenizer, QUESTION, ["5", " 5"])
    assert chat.context == plain.context and chat.context.count(BOS) == 1
    assert tokenizer.decode(chat.continuation) == " 5"


def test_after_an_empty_context_bos_or_else_eos_stands_once():
    tokenizer = copy.deepcopy(byte_tokenizer())
    five = tokenizer("5")["input_ids"]
    assert encode_pairs(tokenizer, "", ["5"]) == [((BOS,), tuple(five))]
    assert encode_pairs(tokenizer, "", ["<|bos|>5"]) == [((BOS,), tuple(five))]
    tokenizer.bos_token = None
    assert encode_pairs(tokenizer, "", ["5"]) == [((END,), tuple(five))]


@pytest.mark.parametrize(
    ("context", "texts", "says"),
    [("", ["5", ""], "continuation ''"), ("A:", ["5", ""], "continuation ''"), (" \n", ["5"], "more than white space")],
)
def test_pairs_without_tokens_before_or_behind_their_boundary_are_refused(context, texts, says, tokenizer):
    with pytest.raises(InputError, match=says):
        encode_pairs(byte_tokenizer(), context, texts)
    assert encode_pairs(tokenizer, " \n", ["5"])[0].context == (BOS,)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "tiny/base has no chat template"),
        ("{{ 'x' + 1 }}", "chat template of tiny/base"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "chat template of tiny/base"),
    ],
)
def test_a_template_that_is_missing_or_fails_is_refused(tokenizer, template, says):
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=says):
        render_prompt(tokenizer, QUESTION, "tiny/base")


def test_a_prompt_ends_in_a_whole_token():
    """Where the tokenizer joins the quote with the line break that the answer begins with, the prompt has both."""
    request = GenerationRequest(id="f", prompt='def f():\n    "One."', begins="\n", max_new_tokens=8)
    apart, joined = byte_tokenizer(), byte_tokenizer(joins=True)
    assert encode_begun(apart, request) == (encode_prompt(apart, request.prompt), "")
    assert encode_begun(joined, request) == (encode_prompt(joined, f"{request.prompt}\n"), "\n")
    assert len(encode_begun(joined, request)[0]) == len(encode_prompt(joined, request.prompt))
    assert encode_begun(joined, replace(request, begins="")) == (encode_prompt(joined, request.prompt), "")
    assert encode_begun(joined, replace(request, prompt="def f(): pass"))[1] == ""
    chat = replace(request, prompt=(Message("user", "Write f."), Message("assistant", 'def f():\n    "One."')))
    tokens, given = encode_begun(joined, chat)
    assert given == "\n" and joined.decode(tokens).endswith('    "One."\n')


@pytest.mark.parametrize("build", [PlainEngine, SharedEngine])
def test_an_answer_has_its_line_break_whoever_gave_it(build):
    asked = GenerationRequest(id="f", prompt='def f():\n    "One."', begins="\n", max_new_tokens=8)
    whole = GenerationRequest(id="f", prompt=f"{asked.prompt}\n", max_new_tokens=8)

    def answer(request: GenerationRequest, *, joins: bool) -> Completion:
        loaded = replace(tiny_loaded("llama"), tokenizer=copy.deepcopy(byte_tokenizer(joins=joins)))
        ((found,),) = completions(build(loaded), [request], CutPlan(num_layers=6, removed=(2,)), Decoding())
        return found

    found, expected = answer(asked, joins=True), answer(whole, joins=True)
    assert found.text == f"\n{expected.text}" and expected.text
    assert replace(found, text="") == replace(expected, text="")
    assert answer(asked, joins=False) == answer(replace(asked, begins=""), joins=False)


def test_an_example_to_train_on_is_divided_as_its_whole_text():
    """The loss begins behind the token that joins quote and line break, which the prompt of generation has as well."""
    tokenizer = byte_tokenizer(joins=True)
    record = {"id": "f", "prompt": 'def f():\n    "One."', "completion": "\n    return 1", "begins": "\n"}
    example = encode_example(tokenizer, record)
    whole = encode_prompt(tokenizer, f"{record['prompt']}{record['completion']}")
    assert (*example.prompt, *example.completion) == (*whole, tokenizer.eos_token_id)
    assert tokenizer.decode(example.completion[:-1]) == "    return 1"
    del record["begins"]
    assert tokenizer.decode(encode_example(tokenizer, record).completion[:-1]) == "\n    return 1"
