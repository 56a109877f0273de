"""A module that stands for vllm: a toy model with layers called as vLLM calls them, and a cache that goes stale.

Next-token scores are kept by (cache salt, tokens), whatever layers are out by then. An engine that lets two plans share
a namespace gets wrong answers here, as it does from vLLM.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 260
NUM_PRINTABLE = 94
"""The byte tokenizer's first tokens, ``!`` to ``~``; the toy writes no others, so that every answer is text."""
SIZE = 16


class ToyLayer(nn.Module):
    """Mixes each position with those before it; gives back what it adds, and the stream it is to be added to."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        residual = hidden_states if residual is None else hidden_states + residual
        mixed = residual.cumsum(dim=0) / (positions + 1).unsqueeze(1)
        return torch.sin(4 * self.linear(mixed)), residual


class ToyModel(nn.Module):
    """``model.layers`` as in vLLM's llama."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, SIZE)
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(ToyLayer() for _ in range(num_layers))
        self.head = nn.Linear(SIZE, VOCABULARY)
        self.head.bias.data[NUM_PRINTABLE:] -= 50

    @torch.no_grad()
    def forward(self, tokens: Sequence[int], kept: Collection[int] | None = None) -> Tensor:
        """Log-probabilities (T, V). ``kept`` runs these layers alone, whatever is put in the place of their forward."""
        hidden, residual, positions = self.embed(torch.tensor(tokens)), None, torch.arange(len(tokens))
        for index, layer in enumerate(self.model.layers):
            if kept is None:
                hidden, residual = layer(positions, hidden, residual)
            elif index in kept:
                hidden, residual = ToyLayer.forward(layer, positions, hidden, residual)
        return self.head(hidden if residual is None else hidden + residual).log_softmax(dim=-1)


@dataclass
class Live:
    """A request under way."""

    tokens: list[int]
    salt: str
    parameters: SimpleNamespace
    num_prompt: int


@dataclass
class FakeEngine:
    """What an ``LLMEngine`` does, one token of every request a step."""

    model: ToyModel
    model_config: SimpleNamespace
    live: dict[str, Live] = field(default_factory=dict)
    cache: dict[tuple[str, tuple[int, ...]], Tensor] = field(default_factory=dict)
    asked: list[Live] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    fail_after: int | None = None
    """Steps until one raises."""

    def __post_init__(self) -> None:
        self.engine_core = SimpleNamespace(shutdown=lambda: None)

    def add_request(self, name: str, prompt: dict[str, Any], parameters: SimpleNamespace) -> None:
        tokens = prompt["prompt_token_ids"]
        assert name not in self.live
        assert len(tokens) < self.model_config.max_model_len
        self.live[name] = Live([*tokens], prompt["cache_salt"], parameters, len(tokens))
        self.asked.append(self.live[name])

    def has_unfinished_requests(self) -> bool:
        return bool(self.live)

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            self.live.pop(name, None)

    def step(self) -> list[SimpleNamespace]:
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise KeyboardInterrupt
        outputs = [self._advance(name, live) for name, live in list(self.live.items())]
        for output in outputs:
            if output.finished:
                del self.live[output.request_id]
        return outputs

    def _advance(self, name: str, live: Live) -> SimpleNamespace:
        wanted = live.parameters
        key = live.salt, tuple(live.tokens)
        if key not in self.cache:
            self.cache[key] = self.model(live.tokens)[-1]
        after_V = self.cache[key]
        token = int(after_V.argmax())
        logprobs = prompt_logprobs = None
        if wanted.logprob_token_ids is not None:
            logprobs = [{one: entry(after_V, one) for one in (token, *wanted.logprob_token_ids)}]
        if wanted.prompt_logprobs is not None:
            log_p_TV = self.model(live.tokens)
            along = enumerate(live.tokens[1:])
            prompt_logprobs = [None, *({one: entry(log_p_TV[at], one)} for at, one in along)]
        live.tokens.append(token)
        is_long = len(live.tokens) - live.num_prompt >= wanted.max_tokens
        finished = is_long or token in wanted.stop_token_ids
        answer = SimpleNamespace(token_ids=[token], logprobs=logprobs)
        return SimpleNamespace(request_id=name, finished=finished, outputs=[answer], prompt_logprobs=prompt_logprobs)


def entry(log_p_V: Tensor, token: int) -> SimpleNamespace:
    return SimpleNamespace(logprob=float(log_p_V[token]), rank=1 + int((log_p_V > log_p_V[token]).sum()))


def sampling_params(**given: Any) -> SimpleNamespace:
    defaults = {"logprob_token_ids": None, "prompt_logprobs": None, "stop_token_ids": [], "top_p": 1.0, "top_k": 0}
    assert given["detokenize"] is False
    assert given["ignore_eos"] is True
    return SimpleNamespace(**{**defaults, "seed": None, **given})


class FakeVllm(SimpleNamespace):
    """The module, which remembers what was started."""

    def __init__(self, num_layers: int, room: float = math.inf, refuses: Exception | None = None) -> None:
        self.started: list[dict[str, Any]] = []
        self.stopped = 0

        def start(path: str, **settings: Any) -> SimpleNamespace:
            if refuses is not None:
                raise refuses
            self.started.append({"path": path, **settings})
            model = ToyModel(num_layers)
            config = SimpleNamespace(max_model_len=min(room, 512), get_vocab_size=lambda: VOCABULARY)

            def apply_model(change: Callable[[nn.Module], Any]) -> list[Any]:
                return [change(model)]

            return SimpleNamespace(llm_engine=FakeEngine(model, config), apply_model=apply_model)

        def count_stop() -> None:
            self.stopped += 1

        super().__init__(
            LLM=start,
            SamplingParams=sampling_params,
            sampling_params=SimpleNamespace(RequestOutputKind=SimpleNamespace(DELTA="delta", FINAL_ONLY="final")),
            platforms=SimpleNamespace(current_platform=SimpleNamespace(device_type="cpu")),
            distributed=SimpleNamespace(cleanup_dist_env_and_memory=count_stop),
            started=self.started,
            stopped=self.stopped,
        )
