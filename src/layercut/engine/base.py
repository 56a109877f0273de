"""Engine: completions, log-likelihoods and hidden states of one loaded model under CutPlans.

Tasks, criteria and studies use an Engine, never a model. There are three questions: ``ask``, ``compare`` and
``hidden_states``. The first two take many plans, so an engine can compute once what the plans share; one plan is a list
of one. A request has an ``id``; its answer has the same ``id``.

A question takes *all* the requests of a piece of work, and ``wanted``, which the engine calls again before every piece
of work. It forms its batches over all requests and skips only batches of which nothing is wanted. A job that was killed
and resumed therefore forms the same batches and gives the same answers as an uninterrupted one (bfloat16 rounding
depends on the batch). Answers arrive batch by batch; a partly wanted batch repeats answers that the caller already has.
Callers also use ``wanted`` to cancel requests of eliminated candidates.
"""

# Shapes: B batch, T tokens, D hidden size, L decoder layers that the plan keeps, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from pydantic import Field

from layercut.base_settings import Seed
from layercut.errors import InputError
from layercut.settings import DecodingSettings
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from torch import Tensor


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # ``system``, ``user`` or ``assistant``
    content: str


Prompt = str | tuple[Message, ...]
"""Plain text, tokenised as it stands, or a conversation, rendered with the tokenizer's own chat template."""


class Decoding(DecodingSettings):
    """Settings of drawing tokens, and the noise."""

    seed: Seed = Field(0, description="Root of every request's own noise.")
    """Token t of request r depends on (seed, r's id, t) alone."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


GREEDY = Decoding()


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt to be answered."""

    id: str
    prompt: Prompt
    max_new_tokens: int
    begins: str = ""
    """The certain beginning of the answer, such as the line break behind a docstring. Where a tokenizer joins it with
    the end of the prompt to one token, the prompt takes it: a model that sees a part of that token does not go on as
    it would. The text of the answer has it either way."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer, beside the model's own stop tokens; the answer is cut before the first one found."""
    draft: str = ""  # a guess of the answer. An engine may check it in one pass; it changes the speed and nothing else.
    settled: Callable[[str], bool] | None = None
    """Early verdict: whether an answer that begins with this text gets the same score however it goes on. An engine may
    end such an answer there (finish reason ``settled``). The text may end in U+FFFD, for a character half written."""
    group: str = ""
    """Requests of one group begin alike, as those of a task do. An engine may compute what they have in common once."""
    where: str = field(default="", compare=False)  # the line of the user's file that it was made from, for errors


FinishReason = Literal["stop", "length", "settled"]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer."""

    id: str
    text: str  # the generated text, without special tokens and without the stop string
    finish_reason: FinishReason
    """``stop``: a stop token or stop string came; ``length``: max_new_tokens or the model's context ran out;
    ``settled``: the request's early verdict, and the text is the beginning of what would have come."""
    num_prompt_tokens: int
    num_new_tokens: int  # generated tokens, the stop token included
    tokens: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The generated tokens, the stop token included; empty where an engine gives text alone."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodRequest:
    """One context and the continuations to be scored after it."""

    id: str
    prompt: Prompt
    continuations: tuple[str, ...]
    prompts: tuple[Prompt, ...] = ()
    """Contexts, where each continuation has its own: as many prompts as continuations, in the same order, in place
    of ``prompt``. Winogrande puts its options there. Empty where all follow ``prompt``."""
    by_token: bool = False  # have a comparison of plans say what it found at each token, too (``Divergence.tokens``)
    tokens: tuple[tuple[int, ...], tuple[int, ...]] | None = field(default=None, repr=False)
    """The prompt and its one continuation as tokens, in place of their texts: an answer as it was written, which its
    text need not give back, with its stop token."""


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """Scores of one request's continuations, in their order."""

    id: str
    log_likelihoods: tuple[float, ...]
    """Natural logarithm of p(continuation | prompt), summed over the continuation's tokens."""
    num_tokens: tuple[int, ...]
    is_greedy: tuple[bool, ...]  # True if greedy decoding would have produced exactly this continuation
    num_prompt_tokens: int
    hits: tuple[tuple[bool, ...], ...] = field(default=(), compare=False, repr=False)
    """Of each continuation, for each token: it is the likeliest one after those before it. Empty where an engine does
    not say."""


Request = GenerationRequest | LikelihoodRequest
Found = TypeVar("Found")


class TokenDamage(NamedTuple):
    """One token of a continuation under a plan and under the reference plan, in nats."""

    text: str  # characters that it adds to the continuation; empty for a token that only begins one
    nll: float
    reference_nll: float
    kl: float
    rank: int  # rank of the token among all next tokens under the plan; 1 is the likeliest
    reference_rank: int
    likeliest: str  # the likeliest token under the plan
    reference_likeliest: str


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Distance of a plan from a reference plan on one continuation: sums over its tokens, in nats.

    With p the reference's next-token distribution and q the plan's, both after the same (given) tokens.
    """

    id: str
    num_tokens: int  # tokens of the continuation
    nll: float  # -ln q(token), which is minus the plan's log-likelihood
    reference_nll: float  # -ln p(token)
    kl: float  # KL(p || q) over the whole vocabulary
    tokens: tuple[TokenDamage, ...] = ()  # token by token, for a request that asks for it (``by_token``)


class HiddenStates(NamedTuple):
    """Hidden states of one batch."""

    ids: tuple[int, ...]  # positions of the texts in the list that was given
    mask_BT: Tensor  # 1 on real tokens, 0 on padding
    states_BTD: tuple[Tensor, ...]
    """L + 1 tensors: the embedding output, then each kept layer's output, before the final norm."""


Wanted = Callable[[CutPlan, str], bool]  # True if a plan's answer to the request with this id is still wanted


def always_wanted(plan: CutPlan, request_id: str) -> bool:
    """Every answer is wanted."""
    return True


Plans = Sequence[CutPlan]
Under = Iterator[tuple[CutPlan, Sequence[Found]]]  # a plan and some of what was found under it, at a time


class Engine(Protocol):
    """A loaded model that can be run uncut or under any plan."""

    shares_work: ClassVar[bool] = False  # True if it computes once what plans have in common
    gives_not: ClassVar[str] = ""  # beginning of an error, for an engine that gives texts and likelihoods alone

    @property
    def num_layers(self) -> int:
        """Decoder layers of the original model."""

    def describe(self) -> Mapping[str, Any]:
        """Settings that decide the numbers, JSON-able: engine, model, hash, dtype, device, batch size."""

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always_wanted
    ) -> Under[Any]:
        """Answer and score requests under every plan, as far as it is wanted: a plan and some of its replies at a time.

        A GenerationRequest gets a Completion and a LikelihoodRequest its Likelihoods, in the engine's own order; a plan
        that is listed twice is asked once, and a question both answered and scored has one id. Raises InputError at
        once for a request or plan that cannot be run, and later for values that are not numbers.
        """

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always_wanted
    ) -> Under[Divergence]:
        """Compare every plan with the reference on every request of one continuation, as far as wanted; see ``ask``."""
        raise self._missing("distributions over the whole vocabulary, by which plans are compared")

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        """Hidden states of every text, a batch at a time, on the CPU in float32."""
        raise self._missing("hidden states")

    def close(self) -> None:
        """Let go of what the engine itself holds; nothing can be asked afterwards."""
        return

    def _missing(self, what: str) -> InputError:
        return InputError(f"{self.gives_not} {what}; use `engine` shared.")


def split_by_kind(requests: Sequence[Request]) -> tuple[list[GenerationRequest], list[LikelihoodRequest]]:
    """The requests to be answered and those to be scored, each in their order."""
    to_generate = [request for request in requests if isinstance(request, GenerationRequest)]
    return to_generate, [request for request in requests if isinstance(request, LikelihoodRequest)]


def distinct_plans(plans: Sequence[CutPlan]) -> list[CutPlan]:
    """The plans in their order, each set of removed layers once."""
    return list({plan.key: plan for plan in plans}.values())
