"""OpenAIEngine: a model behind an OpenAI-compatible server (vLLM, llama.cpp, TGI, ...), evaluated as served."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import Annotated, Any, TypeVar

from pydantic import AliasPath, BaseModel, Field, ValidationError, model_validator

from layercut.engine.base import (
    GREEDY,
    Completion,
    Decoding,
    Engine,
    GenerationRequest,
    Plans,
    Request,
    Under,
    Wanted,
    always_wanted,
    distinct_plans,
    split_by_kind,
)
from layercut.engine.handle import ServedModel
from layercut.engine.stopping import noise_key
from layercut.errors import InputError, MissingExtra, first_line
from layercut.progress.activity import report_tokens

Answer = TypeVar("Answer")

RETRIES = 7
"""Times that openai sends a refused (429), failed (5xx) or lost request again: after 0.5 s, 1, 2, 4 and then 8 s, or
what the server asks for."""
SECONDS = 900.0  # longest wait for one reply
MOST_STOPS = 4  # stop strings that the interface takes. The answer is cut here at any others.
_Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Choice(BaseModel, strict=True):
    text: str | None = None
    message: dict[str, Any] | None = None
    content: str | None = Field(None, validation_alias=AliasPath("message", "content"))
    finish_reason: str | None = None

    @model_validator(mode="after")
    def _answers(self) -> _Choice:
        if self.text is None and self.message is None:
            raise ValueError("neither a text nor a message")
        return self


class _Reply(BaseModel, strict=True):
    """The part of a reply that is read. openai's own classes take any type in any field."""

    choices: list[_Choice] = Field(min_length=1)
    usage: dict[str, Any] | None = None
    num_prompt_tokens: _Count = Field(0, validation_alias=AliasPath("usage", "prompt_tokens"))
    num_new_tokens: _Count = Field(0, validation_alias=AliasPath("usage", "completion_tokens"))


class OpenAIEngine(Engine):
    """One served model, uncut; the server lays out prompts, ends answers, and seeds draws where it heeds seeds."""

    num_layers = 1  # what is behind a server is taken as a whole
    gives_not = "a server does not give"

    def __init__(self, model: str, base_url: str, *, concurrency: int = 32, retries: int = RETRIES) -> None:
        """Nothing is sent yet. The key is OPENAI_API_KEY of the environment."""
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("asking a server", "openai") from error
        self._openai, self._model, self._url, self._concurrency = openai, model, base_url, concurrency
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=retries, timeout=SECONDS)

    def describe(self) -> Mapping[str, Any]:
        return {"engine": "openai", "model": self._model, "model_hash": None}

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always_wanted
    ) -> Under[Any]:
        if not all(plan.is_uncut for plan in plans):
            raise InputError("layers of a served model cannot be removed; serve what layercut cut writes.")
        to_generate, to_score = split_by_kind(requests)
        if to_score:
            raise InputError(
                "a server ranks nothing by likelihood; ask for `readouts` short,chain, or use `engine` vllm."
            )
        if len({request.id for request in to_generate}) < len(to_generate):
            raise InputError("two requests have one id; give every request its own.")

        def replies() -> Under[Any]:
            for plan in distinct_plans(plans):
                for answers in self._each([request for request in to_generate if wanted(plan, request.id)], decoding):
                    # Counted when they arrive, because nothing is known of an answer before.
                    report_tokens(sum(answer.num_new_tokens for answer in answers))
                    yield plan, answers

        return replies()

    def _each(self, requests: Sequence[GenerationRequest], decoding: Decoding) -> Iterator[list[Completion]]:
        """Keep some requests under way; if one fails no more are sent, and those under way are waited for."""
        failed = Event()

        def complete(request: GenerationRequest) -> list[Completion]:
            if failed.is_set():
                return []
            try:
                return [self._complete(request, decoding)]
            except BaseException:
                failed.set()  # before this thread takes its next request
                raise

        pool = ThreadPoolExecutor(self._concurrency)
        try:
            futures = [pool.submit(complete, request) for request in requests]
            yield from (future.result() for future in as_completed(futures) if future.exception() is None)
            for future in futures:
                future.result()  # raises
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _complete(self, request: GenerationRequest, decoding: Decoding) -> Completion:
        extra: dict[str, Any] = {}
        options: dict[str, Any] = {"max_tokens": request.max_new_tokens, "temperature": decoding.temperature}
        options["extra_body"] = extra
        if request.stop:
            options["stop"] = list(request.stop[:MOST_STOPS])
        if not decoding.is_greedy:
            options |= {"top_p": decoding.top_p, "seed": noise_key(decoding.seed, request.id) % 2**31}
            if decoding.top_k:
                extra["top_k"] = decoding.top_k  # not OpenAI's own, but known to most servers
        resource: Any = self._client.completions
        if isinstance(request.prompt, str):
            options["prompt"] = request.prompt
        else:
            resource = self._client.chat.completions
            options["messages"] = [message._asdict() for message in request.prompt]
            if request.prompt[-1].role == "assistant":  # its beginning of the answer is to be continued
                extra |= {"continue_final_message": True, "add_generation_prompt": False}
        reply = self._send(resource, **options)
        choice = reply.choices[0]
        text = choice.text or choice.content or ""
        stops = [text.find(string) for string in request.stop if string in text]
        return Completion(
            id=request.id,
            text=text[: min(stops)] if stops else text,
            finish_reason="length" if choice.finish_reason == "length" and not stops else "stop",
            num_prompt_tokens=reply.num_prompt_tokens,
            num_new_tokens=reply.num_new_tokens,
        )

    def _send(self, resource: Any, **options: Any) -> _Reply:
        create, reply = resource.with_raw_response.create, b""
        try:
            reply = create(model=self._model, **options).content
            return _Reply.model_validate_json(reply)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = " ".join(".".join(map(str, first["loc"])).split()) or "all of it"
            raise InputError(
                f"{self._url} gave a reply that is not OpenAI's ({place}: {first['msg']}): "
                f"{reply[:80]!r}. See whether `base_url` is right; most end in /v1."
            ) from error
        except self._openai.APIStatusError as error:
            hint = " The address ends in /v1 on most servers." if error.status_code == 404 else ""
            raise InputError(
                f"{self._url} refuses a request to {self._model} ({error.status_code}): {first_line(error)}{hint}"
            ) from error
        except self._openai.APIConnectionError as error:
            raise InputError(
                f"no answer from {self._url} ({first_line(error)}); see whether the server runs or is overloaded, and "
                "whether `base_url` is right (most end in /v1), and run the same command again to go on."
            ) from error


def engine_of(handle: ServedModel) -> OpenAIEngine:
    """The engine of a row of ENGINES."""
    wanted = handle.settings
    assert wanted.base_url is not None, "checked by the settings"
    return OpenAIEngine(wanted.model, wanted.base_url, concurrency=wanted.batch_size)
