"""LlamaCppEngine: a GGUF file in llama.cpp, in this process; a plan runs from a file of its own, cut GGUF to GGUF."""

from __future__ import annotations

import json
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from layercut.engine.base import Completion, Decoding, Likelihoods
from layercut.engine.batching import PlanByPlan
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import GenerationRow, Scoring, Tokens
from layercut.engine.scores import ContinuationScore, likelihoods_of
from layercut.engine.stopping import Answer, noise_key, stop_tokens
from layercut.engine.timing import NUM_NEW_TOKENS, Timing
from layercut.errors import InputError, MissingExtra, one_line
from layercut.models.gguf_file import read_gguf_head
from layercut.models.loading import WeightlessModel
from layercut.models.weights import cached_values
from layercut.progress.activity import report_tokens
from layercut.settings import ModelSettings
from layercut.surgery.gguf import cut_gguf_file, gguf_bytes, gguf_file
from layercut.surgery.gguf_parts import num_rows_of_gguf
from layercut.surgery.plan import CutPlan

logger = logging.getLogger(__name__)

_FORCED = 1e9  # added to the logit of a token that must come; probabilities are those from before it
_HERE = build_opener(ProxyHandler({}))  # asks this machine itself, past any proxy
_SHORT = 512  # tokens of context below which a slot is of no use


class LlamaCppEngine(PlanByPlan):
    """One GGUF file in llama.cpp, uncut or under a plan; keys and values in float16, or float32 if asked for."""

    gives_not = "llama.cpp does not give"
    _batches_at_once = 4  # so that a finished sequence frees its slot for the next one
    _always_writes = True

    def __init__(
        self,
        model: WeightlessModel,
        file: Path,
        *,
        batch_size: int = 32,
        device: str = "auto",
        cache_gib: float = 2.0,
        exact: bool = False,
    ) -> None:
        """Nothing is loaded yet. ``cache_gib`` decides the context; ``exact``: a float32 cache."""
        try:
            import xllamacpp
        except ImportError as error:
            raise MissingExtra("running a GGUF file in llama.cpp", "llama-cpp") from error
        self._library, self.file = xllamacpp, file
        self._leaves_copy_out = "copy" in model.source.origin
        self._batch_size, self._exact, self._device = batch_size, exact, device
        self.token_bytes = max(1, model.num_layers * cached_values(model.source.path) * (4 if exact else 2))
        room = int(cache_gib * 2**30 / self.token_bytes / batch_size)
        self.context = min(room, model.context_length or room)
        if self.context < min(_SHORT, model.context_length or _SHORT):
            raise InputError(
                f"`cache_gib` {cache_gib:g} holds {room:,} tokens for each of {batch_size} requests at once; give "
                "more, or a smaller `batch_size`."
            )
        self._loaded: WeightlessModel = replace(model, context_length=self.context)
        self._stop_tokens = stop_tokens(model.tokenizer, model.generation_config)
        self._serving: tuple[str, ServerInProcess, ExitStack] | None = None

    def describe(self) -> Mapping[str, Any]:
        return {**self._described("llama.cpp", self._device), "cache": "float32" if self._exact else "float16"}

    def close(self) -> None:
        if self._serving is not None:
            _, _, files = self._serving
            self._serving = None  # the server ends with its last reference
            files.close()

    def _write(self, rows: Sequence[GenerationRow], plan: CutPlan, decoding: Decoding) -> list[Completion]:
        server = self.serve_plan(plan)

        def write(answer: Answer) -> Completion:
            row, before = answer.row, answer.num_left
            options: dict[str, Any] = {"n_predict": row.limit, "stop": list(row.request.stop), "min_p": 0.0}
            if not decoding.is_greedy:
                options |= {"top_p": decoding.top_p, "top_k": decoding.top_k or 0}
                options["seed"] = noise_key(decoding.seed, answer.id) % 2**31
            reply = server.ask(row.prompt, temperature=decoding.temperature, cache_prompt=True, **options)
            any(answer.add(token) for token in reply["tokens"])
            report_tokens(before - answer.num_left)
            return answer.completion()

        return self.run_at_once(write, (Answer(row, self._stop_tokens, self._decode) for row in rows))

    def _score(self, items: Sequence[Scoring], plan: CutPlan) -> list[Likelihoods]:
        server, tokenizer = self.serve_plan(plan), self._loaded.tokenizer
        character = tokenizer.encode("a", add_special_tokens=False)[-1], len(tokenizer)

        def score(part: tuple[Tokens, Tokens]) -> ContinuationScore:
            return _score_continuation(server, *part, character)

        parts = ((row.tokens, tokens) for item in items for row in item.rows for tokens in row.continuations)
        return likelihoods_of(self._loaded, items, self.run_at_once(score, parts))

    def run_at_once(self, ask: Callable[[Any], Any], work: Iterable[Any]) -> list[Any]:
        pool = ThreadPoolExecutor(self._batch_size)
        try:
            return list(pool.map(ask, work))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def serve_plan(self, plan: CutPlan) -> ServerInProcess:
        """llama.cpp with the file of a plan; the one of another plan is let go first."""
        if self._serving is not None and self._serving[0] == plan.key:
            return self._serving[1]
        self.close()
        file = self.file
        bare = CutPlan(num_layers=plan.num_layers, removed=plan.removed, channels=plan.channels)
        with ExitStack() as files:
            if self._leaves_copy_out or not bare.is_uncut:
                file = Path(files.enter_context(TemporaryDirectory(prefix="layercut-"))) / "plan.gguf"
                settings = ModelSettings(model=str(self.file))
                if bare.is_uncut:
                    logger.info("writing %s for llama.cpp, without a copy of its embeddings", self.file.name)
                cut_gguf_file(settings, lambda **_: bare, self.file, file, verify=False)
            try:
                parameters = self.parameters(file)
                server = ServerInProcess(self._library.Server(parameters), parameters.api_keys[0])
            except Exception as error:  # of llama.cpp; its log says more
                raise InputError(
                    f"llama.cpp cannot run {self._loaded.name} ({one_line(error)}). Try a smaller `cache_gib`, or use "
                    "`engine` shared."
                ) from error
            self._serving = (plan.key, server, files.pop_all())
        return server

    def parameters(self, file: Path) -> Any:
        parameters, library = self._library.CommonParams(), self._library
        parameters.model.path = str(file)
        parameters.n_ctx, parameters.n_parallel = self.context * self._batch_size, self._batch_size
        parameters.kv_unified = parameters.warmup = parameters.ui = False
        parameters.api_keys = [secrets.token_hex()]  # it listens on this machine, for this process alone
        parameters.verbosity = -1
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        if self._device == "cpu":
            parameters.n_gpu_layers = 0
        if self._exact:
            parameters.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            parameters.cache_type_k = parameters.cache_type_v = library.ggml_type.GGML_TYPE_F32
        return parameters


class ServerInProcess:
    """llama.cpp's server in this process."""

    def __init__(self, server: Any, key: str) -> None:
        self._server = server  # it ends with its last reference
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def ask(self, prompt: Sequence[int], **options: Any) -> Any:
        """Its reply to a prompt of tokens. Raises InputError: it refuses the request, or has ended."""
        body = json.dumps({"prompt": list(prompt), "return_tokens": True, **options}).encode()
        request = Request(f"{self._server.listening_address}/completion", body, self._headers)
        try:
            with _HERE.open(request) as reply:
                return json.load(reply)
        except HTTPError as error:
            reason = one_line(ValueError(error.read().decode()))
            raise InputError(f"llama.cpp refuses a request of {len(prompt):,} tokens: {reason}") from error
        except URLError as error:
            raise InputError(f"llama.cpp does not answer any more ({one_line(error)}).") from error


def _score_continuation(
    server: ServerInProcess, row: Tokens, continuation: Tokens, character: tuple[int, int]
) -> ContinuationScore:
    """Its log-likelihood, token by token; half a ``character`` is reported only among all tokens that come with one."""
    tokens = [*row, continuation[-1]]
    total, is_greedy = 0.0, True

    def forced(place: int, token: int, most: int) -> Any:
        """Log-probabilities of a token at a place and of this many of the likeliest; None where it gives none."""
        bias = [[token, _FORCED]]
        options = {"n_predict": 1, "temperature": 0.0, "logit_bias": bias, "n_probs": most, "cache_prompt": True}
        reply = server.ask(tokens[:place], **options)
        return next(iter(reply.get("completion_probabilities") or ()), None)

    for place in range(len(tokens) - len(continuation), len(tokens)):
        token = tokens[place]
        entry = forced(place, token, 1)
        if entry is not None:
            total += entry["logprob"]
        else:
            entry = forced(place, *character)
            assert entry is not None, "a whole character is reported"
            total += next(other["logprob"] for other in entry["top_logprobs"] if other["id"] == token)
        is_greedy = is_greedy and entry["top_logprobs"][0]["id"] == token
    return ContinuationScore(total, is_greedy)


class GgufTimer:
    """A GGUF file under a plan, timed in llama.cpp."""

    def __init__(self, handle: ModelHandle, plan: CutPlan) -> None:
        self._engine, self._plan = engine_of(handle), plan
        rows = num_rows_of_gguf(read_gguf_head(self._engine.file))
        self._num_tokens = min(len(handle.weightless.tokenizer), rows)
        self.weight_bytes = gguf_bytes(self._engine.file, plan)

    def __call__(self, batch: int, prompt: int, middle: int, seed: int) -> Timing:
        engine, plan, longest = self._engine, self._plan, max(prompt, middle)
        if longest + NUM_NEW_TOKENS > engine.context:
            raise InputError(
                f"{longest:,} tokens and {NUM_NEW_TOKENS} more do not fit into {engine.context:,} tokens of context of "
                f"{engine.describe()['model']}; give more `cache_gib`, or fewer tokens in `serve`."
            )
        server, draw = engine.serve_plan(plan), random.Random(seed)
        texts = [draw.choices(range(self._num_tokens), k=longest) for _ in range(batch)]

        def seconds(read: int, written: int, *, fresh: bool) -> float:
            begun = time.perf_counter()
            options = {"n_predict": written, "temperature": 0.0, "ignore_eos": True, "cache_prompt": not fresh}
            engine.run_at_once(lambda slot: server.ask(texts[slot][:read], id_slot=slot, **options), range(batch))
            return time.perf_counter() - begun

        first = seconds(prompt, 1, fresh=True)
        seconds(longest, 1, fresh=False)
        one, more = (seconds(longest, written, fresh=False) for written in (1, NUM_NEW_TOKENS))
        return Timing(
            first_token=first,
            prefill=batch * prompt / first,
            decode=batch * (NUM_NEW_TOKENS - 1) / max(more - one, 1e-9),
            cache_bytes=batch * longest * engine.token_bytes * len(plan.kept) // plan.num_layers,
        )


def engine_of(handle: ModelHandle) -> LlamaCppEngine:
    """The engine of a row of ENGINES."""
    wanted = handle.settings
    file = gguf_file(wanted.model)
    if file is None:
        raise InputError(f"{wanted.model} is no GGUF file; convert it (docs/how_to/gguf.md), or use `engine` shared.")
    options = {name: getattr(wanted, name) for name in ("batch_size", "device", "cache_gib")}
    return LlamaCppEngine(handle.weightless, file, **options, exact=wanted.dtype == "float32")
