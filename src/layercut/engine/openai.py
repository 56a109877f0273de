"""OpenAIEngine: a model behind an OpenAI-compatible server (vLLM, llama.cpp, TGI, ...), evaluated as served.

engine = OpenAIEngine("my-model", "http://localhost:8000/v1", tokenizer=tokenizer, concurrency=32)
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from pydantic import AliasPath, BaseModel, Field, ValidationError, model_validator

from layercut.engine.base import (
    GREEDY,
    Completion,
    Decoding,
    Engine,
    Likelihoods,
    Plans,
    Request,
    Under,
    Wanted,
    always_wanted,
    distinct_plans,
    split_by_kind,
)
from layercut.engine.batching import AnyWork, lay_out
from layercut.engine.handle import ServedModel
from layercut.engine.rows import GenerationRow, LikelihoodRow, Scoring, Tokens, generation_rows, make_scorings
from layercut.engine.scores import ContinuationScore, likelihoods_of
from layercut.engine.stopping import noise_key
from layercut.errors import InputError, MissingExtra, first_line
from layercut.progress.activity import report_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

RETRIES = 7
"""Times that openai sends a refused (429), failed (5xx) or lost request again: after 0.5 s, 1, 2, 4 and then 8 s, or
what the server asks for."""
PATIENCE = 10.0  # seconds that a server which was never reached is waited for, before the first request
SECONDS = 900.0  # for one request with all its repetitions, however slowly its reply comes
MOST_STOPS = 4  # stop strings that the interface takes. The answer is cut here at any others.
_CONNECT = 4.0  # seconds of one attempt to reach it
_UNREACHED = (502, 504)  # answers of a proxy in place of a missing server
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_LogProbability = Annotated[float, Field(le=1e-3, allow_inf_nan=False)]  # at most 0 but for rounding


class _Choice(BaseModel, strict=True):
    text: str | None = None
    message: dict[str, Any] | None = None
    content: str | None = Field(None, validation_alias=AliasPath("message", "content"))
    finish_reason: str | None = None
    log_ps: list[_LogProbability | None] | None = Field(None, validation_alias=AliasPath("logprobs", "token_logprobs"))
    top_log_ps: list[dict[str, _LogProbability] | None] | None = Field(
        None, validation_alias=AliasPath("logprobs", "top_logprobs")
    )

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


class _Served(NamedTuple):
    """A Reader. How long a text may be, the server says itself."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    context_length: int | None = None
    dtype: str = "the server's dtype"


class OpenAIEngine(Engine):
    """One served model, uncut: no plan can leave out layers of it.

    With the model's tokenizer, prompts are tokenised here, as for the other engines, and sent as tokens to
    ``/completions``. Without it the server does this: text goes to ``/completions`` and conversations to
    ``/chat/completions``. Log-likelihoods need the tokenizer and a server that returns the log-probabilities of the
    prompt (``echo`` with ``logprobs``; vLLM's does). The server's stop tokens are used. A draw is seeded by the seed
    and the request's id, where the server heeds seeds.
    """

    num_layers = 1  # what is behind a server is taken as a whole
    gives_not = "a server does not give"

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        concurrency: int = 32,
        retries: int = RETRIES,
    ) -> None:
        """Nothing is sent yet.

        Args:
            model: as the server calls it.
            base_url: with its version: ``http://localhost:8000/v1``. The key is in the environment, OPENAI_API_KEY.
            tokenizer: the model's.
            concurrency: requests under way at once.
            retries: times that a request that came to nothing is sent again; with 0 a server that is not there is not
                waited for either.

        Raises:
            MissingExtra: the ``openai`` package is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("asking a server", "openai") from error
        self._openai, self._model, self._url, self._concurrency = openai, model, base_url, concurrency
        self._reader = _Served(model, tokenizer) if tokenizer is not None else None
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=retries)
        self._is_reached, self._patience = False, PATIENCE if retries else 0.0

    @property
    def has_chat_template(self) -> bool:
        """True if it takes conversations. Without a tokenizer only the server knows; it is asked to."""
        return self._reader is None or bool(self._reader.tokenizer.chat_template)

    def describe(self) -> Mapping[str, Any]:
        return {"engine": "openai", "model": self._model, "model_hash": None, "own_tokenizer": self._reader is not None}

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always_wanted
    ) -> Under[Any]:
        """See Engine: as the answers come.

        Raises:
            InputError: at once: a plan that removes layers, two requests with one id, a prompt without tokens, and
                scores without a tokenizer. Later: a server that is not there, refuses a request, or gives back no
                log-probabilities of the prompt.
        """
        if not all(plan.is_uncut for plan in plans):
            raise InputError(
                "layers of a served model cannot be removed; cut the checkpoint with layercut cut and serve that, or "
                "use `engine` vllm."
            )
        to_generate, to_score = split_by_kind(requests)
        if self._reader is not None:
            rows, scored = generation_rows(self._reader, to_generate), lay_out(make_scorings(self._reader, to_score), 1)
        elif to_score:
            raise InputError(
                "ranking by likelihood takes the model's own tokenizer; name it with `tokenizer` (a hub id or a "
                "folder), or ask for `readouts` short,chain."
            )
        else:  # the server lays out the prompts
            rows, scored = [GenerationRow(request, (), request.max_new_tokens) for request in to_generate], []
        written = lay_out(rows, 1)

        def replies() -> Under[Any]:
            for plan in distinct_plans(plans):
                for answers in self._each(written, partial(wanted, plan), lambda row: self._complete(row, decoding)):
                    # Counted when they arrive, because nothing is known of an answer before.
                    report_tokens(sum(answer.num_new_tokens for answer in answers))
                    yield plan, answers
                for scores in self._each(scored, partial(wanted, plan), self._score):
                    yield plan, scores

        return replies()

    def _each(
        self, batches: Sequence[Sequence[AnyWork]], wanted: Callable[[str], bool], send: Callable[[AnyWork], Answer]
    ) -> Iterator[list[Answer]]:
        """Keep some requests under way and give answers as they come. If one fails, no more are sent, and those under
        way are waited for, so that their answers are not lost."""
        if not batches:
            return
        self._reach()
        waiting = (item for batch in batches for item in batch if wanted(item.id))
        pool = ThreadPoolExecutor(self._concurrency)
        under_way: set[Future[Answer]] = set()
        failure: BaseException | None = None
        try:
            while True:
                if failure is None:
                    under_way |= {pool.submit(send, row) for row in islice(waiting, self._concurrency - len(under_way))}
                if not under_way:
                    break
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                failure = next((error for future in ended if (error := future.exception())), failure)
                if answers := [future.result() for future in ended if future.exception() is None]:
                    yield answers
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            raise failure

    def _reach(self) -> None:
        """Wait for the server, once and not for long; any answer of its own will do.

        Raises:
            InputError: nothing answers at the address.
        """
        began, is_told = time.monotonic(), False
        while not self._is_reached and (reason := self._why_unreached()) is not None:
            if time.monotonic() - began > self._patience - _CONNECT:
                raise InputError(
                    f"no answer from {self._url} ({reason}). Start the server, or give another `base_url`; most end "
                    "in /v1."
                )
            if not is_told:
                logger.info("%s does not answer (%s); trying for %d s", self._url, reason, self._patience)
            is_told = True
            time.sleep(1)
        self._is_reached = True

    def _why_unreached(self) -> str | None:
        """Why the server cannot be reached; None where it can. One that is there and slow is reached."""
        try:
            _within(2 * _CONNECT, self._client.with_options(max_retries=0, timeout=_CONNECT).models.list)
        except Exception as error:  # other errors: an answer that is no list of models
            if isinstance(error, self._openai.APIStatusError) and error.status_code in _UNREACHED:
                return first_line(error)
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            if isinstance(error, self._openai.APIConnectionError) and type(cause).__name__ != "ReadTimeout":
                return first_line(cause)
        return None

    def _complete(self, row: GenerationRow, decoding: Decoding) -> Completion:
        request, extra = row.request, dict[str, Any]()
        options: dict[str, Any] = {"max_tokens": row.limit, "temperature": decoding.temperature, "extra_body": extra}
        if request.stop:
            options["stop"] = list(request.stop[:MOST_STOPS])
        if not decoding.is_greedy:
            options |= {"top_p": decoding.top_p, "seed": noise_key(decoding.seed, request.id) % 2**31}
            if decoding.top_k:
                extra["top_k"] = decoding.top_k  # not OpenAI's own, but known to most servers
        resource: Any = self._client.completions
        if row.prompt or isinstance(request.prompt, str):
            options["prompt"] = list(row.prompt) or request.prompt
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
            text=row.given + (text[: min(stops)] if stops else text),
            finish_reason="length" if choice.finish_reason == "length" and not stops else "stop",
            num_prompt_tokens=len(row.prompt) or reply.num_prompt_tokens,
            num_new_tokens=reply.num_new_tokens,
        )

    def _score(self, item: Scoring) -> Likelihoods:
        assert self._reader is not None
        scores = [self._score_one(row, continuation) for row in item.rows for continuation in row.continuations]
        return likelihoods_of(self._reader, [item], scores)[0]

    def _score_one(self, row: LikelihoodRow, continuation: Tokens) -> ContinuationScore:
        tokens = [*row.tokens, continuation[-1]]
        options = {"prompt": tokens, "temperature": 0, "echo": True, "logprobs": 1}
        # Some servers take max_tokens=0 for as many as fit.
        choice = self._send(self._client.completions, max_tokens=1, **options).choices[0]
        values, tops = choice.log_ps or [], choice.top_log_ps or []
        scored = slice(len(tokens) - len(continuation), len(tokens))
        own = [value for value in values[scored] if value is not None]
        if not len(tokens) <= len(values) <= len(tokens) + 1 or len(tops) < len(tokens) or len(own) < len(continuation):
            raise InputError(
                f"{self._url} gave {len(values)} log-probabilities for a prompt of {len(tokens)} tokens, and the "
                f"likeliest for {len(tops)}; ranking takes all of them. Use a server that echoes them for tokens "
                "(vLLM's does), and the tokenizer of its model, or ask for `readouts` short,chain."
            )
        is_greedy = all(
            value >= max((top or {}).values(), default=value) for value, top in zip(own, tops[scored], strict=True)
        )
        return ContinuationScore(sum(own), is_greedy)

    def _send(self, resource: Any, **options: Any) -> _Reply:
        create, reply = resource.with_raw_response.create, b""
        try:
            reply = _within(SECONDS, lambda: create(model=self._model, **options).content)
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
        except (TimeoutError, self._openai.APIConnectionError) as error:
            reason = f"none in {SECONDS:,.0f} s" if isinstance(error, TimeoutError) else first_line(error)
            raise InputError(
                f"no answer from {self._url} ({reason}); see whether the server runs or is overloaded, and run the "
                "same command again to go on."
            ) from error


def _within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """The result of a call that may read from a server for ever; TimeoutError where it takes longer."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def engine_of(handle: ServedModel) -> OpenAIEngine:
    """The engine of a row of ENGINES."""
    from layercut.models.convert import PREFIX
    from layercut.models.loading import load_tokenizer
    from layercut.models.sources import ModelSource, resolve_source

    wanted, tokenizer = handle.settings, None
    assert wanted.base_url is not None, "checked by the settings"
    if (name := wanted.tokenizer) is not None:
        # Of a hub id only the tokenizer's files are fetched.
        source = resolve_source(name) if name.startswith(PREFIX) else ModelSource(name=name, path=Path(name))
        tokenizer = load_tokenizer(source, wanted.trust_remote_code)
    return OpenAIEngine(wanted.model, wanted.base_url, tokenizer=tokenizer, concurrency=wanted.batch_size)
