"""Engine: completions, log-likelihoods and hidden states of one loaded model under a CutPlan.

Tasks, criteria and studies speak to an Engine and never to a model. A request carries an ``id``; answers carry it back.

Every method takes *all* the requests of a piece of work plus the ids that are already ``done``. The engine lays its
batches out over all of them and leaves out only batches that are done throughout, so that a job that was killed and
resumed forms the same batches, hence gives the same answers, as one that ran through (bfloat16 rounding depends on
what shares a batch). Answers come batch by batch; a batch that was partly done gives again answers that the caller has.
"""

# Shapes: B batch, T tokens, D hidden size, L decoder layers that the plan keeps, V vocabulary.

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from layercut.errors import InputError
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from torch import Tensor


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str


Prompt = str | tuple[Message, ...]
"""Plain text, tokenised as it stands, or a conversation, rendered with the tokenizer's own chat template."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are drawn. Temperature 0 is greedy and leaves the other three without effect."""

    temperature: float = 0.0
    """Softmax temperature; 0 takes the most likely token."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens with at least this probability mass."""
    top_k: int = 0
    """Only this many most likely tokens; 0 for all."""
    seed: int = 0
    """Root of every request's own noise: token t of request r depends on (seed, r's id, t) alone."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(
                f"temperature {self.temperature} is negative; use 0 for greedy decoding or a positive number."
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p} is not in (0, 1]; use 1 to keep all tokens.")
        if self.top_k < 0:
            raise InputError(f"top_k {self.top_k} is negative; use 0 to keep all tokens.")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt to be answered."""

    id: str
    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    """Strings that end the answer, beside the model's own stop tokens; the answer is cut before the first one found."""


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer."""

    id: str
    text: str
    """What was generated, without special tokens and without the stop string."""
    finish_reason: FinishReason
    """``stop``: a stop token or stop string came; ``length``: max_new_tokens or the model's context ran out."""
    num_prompt_tokens: int
    num_new_tokens: int
    """Generated tokens, the stop token included."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodRequest:
    """One context and the continuations to be scored after it."""

    id: str
    prompt: Prompt
    continuations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """Scores of one request's continuations, in their order."""

    id: str
    log_likelihoods: tuple[float, ...]
    """Natural logarithm of p(continuation | prompt), summed over the continuation's tokens."""
    num_tokens: tuple[int, ...]
    is_greedy: tuple[bool, ...]
    """Whether greedy decoding would have produced exactly this continuation."""
    num_prompt_tokens: int


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """How far a plan is from a reference plan on one continuation: sums over its tokens, in nats.

    With p the reference's next-token distribution and q the plan's, both after the same (given) tokens.
    """

    id: str
    num_tokens: int
    """Tokens of the continuation."""
    nll: float
    """-ln q(token), which is minus the plan's log-likelihood."""
    reference_nll: float
    """-ln p(token)."""
    kl: float
    """KL(p || q) over the whole vocabulary."""
    js_top100: float
    """Jensen-Shannon divergence of p and q over the 100 likeliest tokens of p, and all others as one more outcome."""
    top1_disagreements: int
    """Tokens at which the likeliest next token differs."""


class HiddenStates(NamedTuple):
    """Hidden states of one batch."""

    ids: tuple[int, ...]
    """Positions of the texts in the list that was given."""
    mask_BT: Tensor
    """1 on real tokens, 0 on padding."""
    states_BTD: tuple[Tensor, ...]
    """L + 1 tensors: the embedding output, then each kept layer's output, before the final norm."""


class Engine(Protocol):
    """A loaded model that can be run uncut or under any plan."""

    @property
    def num_layers(self) -> int:
        """Decoder layers of the uncut model."""
        ...

    @property
    def has_chat_template(self) -> bool:
        """Whether it takes conversations."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What decides the numbers, for run settings, JSON-able: engine, model, hash, dtype, device, batch size."""
        ...

    def completions(
        self, requests: Sequence[GenerationRequest], plan: CutPlan, decoding: Decoding, done: Collection[str] = ()
    ) -> Iterator[list[Completion]]:
        """Answer every request that is not done, a batch at a time, in the engine's order.

        Raises:
            InputError: a conversation and no chat template; a prompt that leaves no room in the model's context.
        """
        ...

    def log_likelihoods(
        self, requests: Sequence[LikelihoodRequest], plan: CutPlan, done: Collection[str] = ()
    ) -> Iterator[list[Likelihoods]]:
        """Score every request that is not done, a batch at a time, in the engine's order."""
        ...

    def divergences(
        self, requests: Sequence[LikelihoodRequest], plan: CutPlan, reference: CutPlan, done: Collection[str] = ()
    ) -> Iterator[list[Divergence]]:
        """Compare a plan with a reference on every request that is not done, a batch at a time, in the engine's order.

        Raises:
            InputError: a request that has not exactly one continuation.
        """
        ...

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        """Hidden states of every text, a batch at a time, on the CPU in float32."""
        ...
