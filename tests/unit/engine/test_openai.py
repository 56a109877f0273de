"""Asking a server, over HTTP, with the failures that servers have."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from layercut.cli.main import app
from layercut.engine.base import Decoding, GenerationRequest, LikelihoodRequest, Message
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from tests.support.engines import by_id, completions, divergences, log_likelihoods
from tests.support.fake_server import Body, Served, serving

pytest.importorskip("openai", reason="the openai package is not installed (layercut[openai])")
from layercut.engine.openai import OpenAIEngine

UNCUT = CutPlan(num_layers=1)
GREEDY = Decoding()


@pytest.fixture
def server():
    with serving(Served(answer=lambda body: " fine\nQ: more")) as served:
        yield served


def engine(server: Served, **settings: Any) -> OpenAIEngine:
    return OpenAIEngine("m", server.url, **settings)


def requests(count: int = 3, **more: Any) -> list[GenerationRequest]:
    return [
        GenerationRequest(id=str(index), prompt=f"How is {index}?", max_new_tokens=9, **more) for index in range(count)
    ]


def ask(engine: OpenAIEngine, asked: Sequence[GenerationRequest], decoding: Decoding = GREEDY, **more: Any) -> Any:
    """Answers by request."""
    return by_id(completions(engine, asked, UNCUT, decoding, **more))


def test_without_a_tokenizer_text_is_completed_and_conversations_are_chats(server):
    talk = GenerationRequest(id="talk", prompt=(Message("user", "hi"),), max_new_tokens=4)
    begun = replace(talk, id="begun", prompt=(*talk.prompt, Message("assistant", "I am")))
    found = ask(engine(server, concurrency=1), [*requests(1, stop=("\n",)), talk, begun])
    (plain, asked), (chat, talked), (_, went_on) = server.asked
    assert (plain, asked["prompt"], asked["stop"]) == ("/v1/completions", "How is 0?", ["\n"])
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("m", 9, 0.0)
    assert not {"top_p", "seed", "top_k"} & set(asked)
    assert (chat, talked["messages"]) == ("/v1/chat/completions", [{"role": "user", "content": "hi"}])
    assert (went_on["continue_final_message"], went_on["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in talked
    assert (found["0"].text, found["0"].finish_reason) == (" fine", "stop"), "cut at the stop string here too"
    assert (found["talk"].num_prompt_tokens, found["talk"].num_new_tokens) == (11, 3)


def test_length_and_stop_strings_end_an_answer(server):
    server.finish = "length"
    (found,) = ask(engine(server), requests(1)).values()
    assert (found.finish_reason, found.text) == ("length", " fine\nQ: more")
    (found,) = ask(engine(server), requests(1, stop=("Q:",))).values()
    assert found.finish_reason == "stop"
    # The interface takes four stop strings; more are looked for here.
    stops = ("1", "2", "3", "4", "Q:")
    (found,) = ask(engine(server), requests(1, stop=stops)).values()
    assert server.asked[-1][1]["stop"] == ["1", "2", "3", "4"]
    assert found.text == " fine\n"


def test_draws_are_seeded_by_the_request(server):
    drawn = Decoding(temperature=0.5, top_p=0.9, top_k=7, seed=3)
    ask(engine(server), requests(2), drawn)
    ask(engine(server), requests(2), drawn)
    bodies = [body for _, body in server.asked]
    assert all((body["temperature"], body["top_p"], body["top_k"]) == (0.5, 0.9, 7) for body in bodies)
    seeds = {body["prompt"]: {one["seed"] for one in bodies if one["prompt"] == body["prompt"]} for body in bodies}
    assert [len(found) for found in seeds.values()] == [1, 1]
    assert len(set.union(*seeds.values())) == 2


def test_failures_are_sent_again_and_answers_stay_whole(server):
    server.failures = [429, 500, 503, 429]
    found = ask(engine(server, concurrency=2), requests(5))
    assert sorted(found) == ["0", "1", "2", "3", "4"]
    assert len(server.asked) == 9
    assert server.most_at_once <= 2


def test_a_lasting_failure_is_one_line_and_what_was_answered_is_kept(server):
    server.answer = lambda body: "yes"
    asking = engine(server, concurrency=1, retries=1)
    found = completions(asking, requests(4), UNCUT, GREEDY)
    kept = by_id(iter([next(found), next(found)]))
    server.failures = [500, 500, 500]
    with pytest.raises(InputError, match=r"^http://127.0.0.1:\d+/v1 refuses .*\(500\)"):
        list(found)
    server.failures = []
    rest = ask(asking, requests(4), done=kept)
    assert sorted([*kept, *rest]) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("status", "says"), [(400, r"\(400\)"), (404, "ends in /v1")])
def test_a_refused_request_is_not_sent_again(server, status, says):
    server.failures = [status]
    with pytest.raises(InputError, match=says):
        ask(engine(server), requests(1))
    assert len(server.asked) == 1


def test_what_a_server_cannot_do_is_refused_in_one_line(server):
    asked = [LikelihoodRequest(id="a", prompt="x", continuations=("y",))]
    with pytest.raises(InputError, match="ranks nothing by likelihood"):
        log_likelihoods(engine(server), asked, UNCUT)
    with pytest.raises(InputError, match="two requests have one id"):
        completions(engine(server), [*requests(1), *requests(1)], UNCUT, GREEDY)
    plan = CutPlan(num_layers=6, removed=(2,))
    with pytest.raises(InputError, match="cannot be removed"):
        completions(engine(server), requests(), plan, GREEDY)
    with pytest.raises(InputError, match="hidden states"):
        engine(server).hidden_states([], UNCUT)
    with pytest.raises(InputError, match="whole vocabulary"):
        divergences(engine(server), [], UNCUT, UNCUT)


def test_eval_that_was_stopped_asks_only_the_rest(server, tmp_path):
    def stops_after_five(body: Body) -> str:
        if len(server.asked) > 5:
            server.failures = [400]
        return " 7"

    server.answer = stops_after_five
    command = ["eval", "m", "--engine", "openai", "--base-url", server.url, "--tasks", "arithmetic"]
    command += ["--readouts", "short", "--limit", "12", "--batch-size", "1", "--out", str(tmp_path / "run")]
    stopped = CliRunner().invoke(app, command)
    assert isinstance(stopped.exception, InputError)
    server.failures, server.answer = [], lambda body: " 7"
    finished = CliRunner().invoke(app, command)
    assert finished.exit_code == 0 and "as served at" in finished.output, finished.output
    assert len(server.asked) == 13, "one was refused, and none was asked twice"
    cut = CliRunner().invoke(app, [*command, "--remove", "3"])
    assert isinstance(cut.exception, InputError) and "layers of a served" in str(cut.exception)
    other = [*command[:3], "openai", "--base-url", "http://127.0.0.1:9/v1", *command[6:]]
    assert CliRunner().invoke(app, other).exit_code == 0, "a finished run asks no one, wherever the server is now"
    assert len(server.asked) == 13


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/v1", "http://no-such-host.invalid/v1"])
def test_a_server_that_is_not_there_is_one_line(url):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed_port = probe.getsockname()[1]
    asking = OpenAIEngine("m", url.format(closed_port), retries=0)
    with pytest.raises(InputError, match=r"no answer from http://.*/v1 \(.*`base_url`") as caught:
        ask(asking, requests(1))
    assert "\n" not in str(caught.value)


def reply(**change: Any) -> bytes:
    choice: dict[str, Any] = {"text": "a", "finish_reason": "stop"}
    return json.dumps({"choices": [choice | change], "usage": None}).encode()


BAD_TEXTS = {
    "HTML": b"<html><body>502</body></html>",
    **{text: text.encode() for text in ("", "null", "[]", "{}")},
    **{
        f"choices {text}": f'{{"choices": {text}}}'.encode()
        for text in ("[]", "null", "[null]", '{"0": {"text": "a"}}')
    },
    **{f"text {value}": reply(text=value) for value in (None, 3, ["a"], {"a": 1})},
    "no text": b'{"choices": [{"finish_reason": "stop"}]}',
    "half a pair": reply(text="\ud83d"),
    "no UTF-8": b'{"choices": [{"text": "\xff"}]}',
    "torn": reply()[:-5],
    "deep": b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "message a text": reply(text=None, message="a"),
    "content a number": reply(text=None, message={"content": 3}),
    "finish reason a list": reply(finish_reason=[]),
    "usage a list": b'{"choices": [{"text": "a"}], "usage": []}',
    "usage of less than nothing": b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": -1}}',
    "usage a text": b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": "9"}}',
    "usage without end": b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": ' + b"9" * 400 + b"}}",
    "a long wrong key": b'{"choices": "' + b"x" * 10**6 + b'"}',
}


@pytest.mark.parametrize("raw", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_reply_that_is_none_is_one_line(server, raw):
    server.raw = raw
    with pytest.raises(InputError, match="end in /v1") as caught:
        ask(engine(server), requests(1))
    assert len(str(caught.value)) < 600 and len(str(caught.value).splitlines()) == 1


def test_what_a_reply_may_leave_out(server):
    server.raw = b'{"choices": [{"text": "a"}]}'
    (found,) = ask(engine(server), requests(1)).values()
    assert (found.text, found.finish_reason, found.num_new_tokens) == ("a", "stop", 0)
    server.raw = reply(text=None, message={"content": None}, finish_reason="content_filter")
    talk = [GenerationRequest(id="talk", prompt=(Message("user", "hi"),), max_new_tokens=4)]
    assert ask(engine(server), talk)["talk"].text == ""
