"""FakeEngine: answers from a table or a function, in batches, without torch. For tests of tasks and studies."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layercut.engine.base import (
    GREEDY,
    Completion,
    Decoding,
    Divergence,
    Engine,
    GenerationRequest,
    HiddenStates,
    LikelihoodRequest,
    Likelihoods,
    Plans,
    Request,
    Under,
    Wanted,
    always_wanted,
    distinct_plans,
    split_by_kind,
)
from layercut.surgery.plan import CutPlan

Texts = Mapping[str, str | Completion] | Callable[[GenerationRequest, CutPlan], str | Completion]
"""Per request id, or by a function of request and plan: the answer's text, or a whole Completion."""
Scores = Mapping[str, Sequence[float]] | Callable[[LikelihoodRequest, CutPlan], Sequence[float]]
"""Per request id, or by a function of request and plan: one log-likelihood a continuation."""


class Killed(Exception):
    """What a FakeEngine raises where a real run would be killed."""


class Unwanted(Container[str]):
    """Ids whose answers under a plan are not wanted (any more), looked up again each time."""

    def __init__(self, plan: CutPlan, wanted: Wanted) -> None:
        self._plan = plan
        self._wanted = wanted

    def __contains__(self, request_id: object) -> bool:
        return not self._wanted(self._plan, str(request_id))


@dataclass
class FakeEngine(Engine):
    """Batches follow the order of the requests; those done throughout are left out, as in a real engine.

    A text that is given as such ends with ``stop``, counts its words as tokens, and is cut at ``max_new_tokens`` words
    (finish reason ``length``) and before stop strings, or after the first word at which it is ``settled``.
    """

    texts: Texts = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    damage: Callable[[LikelihoodRequest, CutPlan, CutPlan], Divergence] | None = None
    """What a request gives under a plan and a reference plan."""
    states: Callable[[Sequence[str], CutPlan], Iterator[HiddenStates]] | None = None
    num_layers: int = 6
    batch_size: int = 4
    name: str = "fake"
    kill_after: int | None = None
    """Batches that are still answered, over all calls, before Killed is raised; None for no end."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Method and plan key of every call."""
    batches: list[list[str]] = field(default_factory=list)
    """Ids of every batch that was answered."""

    def describe(self) -> Mapping[str, Any]:
        return {"engine": "fake", "model": self.name, "batch_size": self.batch_size}

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always_wanted
    ) -> Under[Any]:
        to_generate, to_score = split_by_kind(requests)
        for plan in distinct_plans(plans) if to_generate else ():
            for answers in self.completions(to_generate, plan, decoding, Unwanted(plan, wanted)):
                yield plan, answers
        for plan in distinct_plans(plans) if to_score else ():
            for scores in self.log_likelihoods(to_score, plan, Unwanted(plan, wanted)):
                yield plan, scores

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always_wanted
    ) -> Under[Divergence]:
        for plan in distinct_plans(plans):
            for answers in self.divergences(requests, plan, reference, Unwanted(plan, wanted)):
                yield plan, answers

    def completions(
        self, requests: Sequence[GenerationRequest], plan: CutPlan, decoding: Decoding, done: Container[str] = ()
    ) -> Iterator[list[Completion]]:
        self.calls.append(("completions", plan.key))
        for batch in self._pending(requests, done):
            yield [self._completion(request, plan) for request in batch]

    def log_likelihoods(
        self, requests: Sequence[LikelihoodRequest], plan: CutPlan, done: Container[str] = ()
    ) -> Iterator[list[Likelihoods]]:
        self.calls.append(("log_likelihoods", plan.key))
        for batch in self._pending(requests, done):
            yield [self._likelihoods(request, plan) for request in batch]

    def divergences(
        self, requests: Sequence[LikelihoodRequest], plan: CutPlan, reference: CutPlan, done: Container[str] = ()
    ) -> Iterator[list[Divergence]]:
        self.calls.append(("divergences", plan.key))
        assert self.damage is not None, "this FakeEngine was given no damage"
        assert all(len(request.continuations) == 1 for request in requests), "one continuation a request"
        for batch in self._pending(requests, done):
            yield [self.damage(request, plan, reference) for request in batch]

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        self.calls.append(("hidden_states", plan.key))
        assert self.states is not None, "this FakeEngine was given no states"
        return self.states(texts, plan)

    def _pending(self, requests: Sequence[Any], done: Container[str]) -> Iterator[Sequence[Any]]:
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            if all(request.id in done for request in batch):
                continue
            if self.kill_after is not None and len(self.batches) >= self.kill_after:
                raise Killed
            self.batches.append([request.id for request in batch])
            yield batch

    def _completion(self, request: GenerationRequest, plan: CutPlan) -> Completion:
        answer = self.texts(request, plan) if callable(self.texts) else self.texts[request.id]
        if isinstance(answer, Completion):
            return answer
        words = answer.split(" ")
        too_long = len(words) > request.max_new_tokens
        text = " ".join(words[: request.max_new_tokens])
        given: dict[str, Any] = {"id": request.id, "num_prompt_tokens": _num_words(request.prompt)}
        found = [text.find(string) for string in request.stop if string in text]
        for count in range(len(words) if request.settled is not None and not found else 0):
            if request.settled is not None and request.settled(beginning := " ".join(words[:count])):
                return Completion(**given, text=beginning, finish_reason="settled", num_new_tokens=count)
        return Completion(
            **given,
            text=text[: min(found)] if found else text,
            finish_reason="length" if too_long and not found else "stop",
            num_new_tokens=min(len(words), request.max_new_tokens),
        )

    def _likelihoods(self, request: LikelihoodRequest, plan: CutPlan) -> Likelihoods:
        scores = self.scores(request, plan) if callable(self.scores) else self.scores[request.id]
        assert len(scores) == len(request.continuations), f"{request.id}: one score a continuation"
        best = max(scores)
        return Likelihoods(
            id=request.id,
            log_likelihoods=tuple(float(score) for score in scores),
            num_tokens=tuple(_num_words(continuation) for continuation in request.continuations),
            is_greedy=tuple(score == best for score in scores),
            num_prompt_tokens=_num_words(request.prompt),
        )


def _num_words(prompt: Any) -> int:
    text = prompt if isinstance(prompt, str) else " ".join(message.content for message in prompt)
    return len(text.split())
