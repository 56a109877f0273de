"""Chains of a fixed length: ``chain@N`` stops a chain after N tokens and makes the model answer.

The same item ids and the same prompt as ``chain``. A chain that ends by itself within N tokens and contains an answer
is kept unchanged. Any other chain is truncated at the budget and continued with the task's own ``answer_begins`` (such
as "The answer is"); the text after that is the answer. So the length of the reasoning is fixed, every answer is in the
same place, and retention at 0, 32, 64 or 128 tokens can be compared item by item. Budgets of this kind: Muennighoff et
al., "s1: Simple test-time scaling", arXiv:2501.19393; for pruned models Wang et al., arXiv:2510.22228.

``filler@N`` replaces the chain by N dots: the distance to the question is the same, without reasoning. Pfau et al.,
"Let's Think Dot by Dot", arXiv:2404.15758.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Message, Prompt
from layercut.tasks.base import FILLER, Asking, Readout, Sample, Task, answer_start, budget_of

ANSWER_TOKENS = 32
"""Longest answer behind the words that ask for it."""
_GROUP = 256
"""Items whose chains are written before the first of them is made to answer. Fixed, so that work that was stopped
forms the same batches when it goes on."""
_DOT = " ."
_SUFFIX = " answer"
"""Behind an item's id, names the request for its answer: a request's noise is its own."""


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """The model's text within its budget."""

    text: str
    num_tokens: int
    num_prompt_tokens: int
    stopped: bool
    """It ended by itself."""
    ended: bool
    """It ended by itself and holds an answer."""


@dataclass(frozen=True, kw_only=True)
class BudgetedAnswer:
    """An item's answer within a budget."""

    sample: Sample
    chain: _Chain
    begun: str = ""
    """The words that asked for the answer; empty where the chain held one."""
    answer: Completion | None = None

    @property
    def graded(self) -> Completion:
        """Text for the grader: the chain where it ended with an answer, else only the forced answer."""
        chain = self.chain
        text = chain.text if self.answer is None else self.begun.lstrip() + self.answer.text
        return Completion(
            id=self.sample.id,
            text=text,
            finish_reason="stop",  # that the length was limited is no fault of the answer's
            num_prompt_tokens=chain.num_prompt_tokens if self.answer is None else self.answer.num_prompt_tokens,
            num_new_tokens=chain.num_tokens + (0 if self.answer is None else self.answer.num_new_tokens),
        )

    def facts(self) -> dict[str, Any]:
        """Fields of a record that the grader does not know, or that replace its own."""
        stopped = "stop" if self.chain.stopped else "length"
        if self.answer is None:
            return {"finish_reason": stopped, "forced_at": None}
        before = self.chain.text
        return {
            "completion": _joined(before, self.begun) + self.answer.text,
            "finish_reason": stopped,
            "answer_depth": self.chain.num_tokens,
            "forced_at": len(before.rstrip()),
            "chain_tokens": self.chain.num_tokens,
        }


def asked(task: Task, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
    """The first request of a readout; of a chain with a budget, with as many tokens as it may take in all."""
    budget = budget_of(readout)
    request = task.request(sample, readout if budget is None else "chain")
    return request if budget is None else replace(_generation(request), max_new_tokens=budget + ANSWER_TOKENS)


def answers(asked: Asking) -> Iterator[list[BudgetedAnswer]]:
    """Answers that are not known, a batch at a time, of a task with ``answer_begins``.

    Raises:
        InputError: requests that the engine refuses.
    """
    task, samples, budget = asked.task, asked.samples, budget_of(asked.readout)
    assert budget is not None
    known = {record["id"]: _chain_of(record) for record in asked.records}
    for start in range(0, len(samples), _GROUP):
        group = samples[start : start + _GROUP]
        if all(sample.id in known for sample in group):
            continue
        done = frozenset(known)
        if asked.readout.startswith(FILLER) or not budget:
            # In most vocabularies a dot is one token.
            dots = _Chain(text=_DOT * budget, num_tokens=budget, num_prompt_tokens=0, stopped=False, ended=False)
            chains = {sample.id: dots for sample in group}
        else:
            chains = {**known, **_chains(asked, group, budget, done)}
        fresh = [sample for sample in group if sample.id not in done]
        if ended := [sample for sample in fresh if chains[sample.id].ended]:
            yield [BudgetedAnswer(sample=sample, chain=chains[sample.id]) for sample in ended]
        open_ones = {sample.id + _SUFFIX: sample for sample in group if not chains[sample.id].ended}
        requests = [_made_to_answer(task, sample, chains[sample.id].text, name) for name, sample in open_ones.items()]
        for found in asked.engine.completions(requests, asked.plan, asked.decoding, {name + _SUFFIX for name in done}):
            new = [(open_ones[one.id], one) for one in found if open_ones[one.id].id not in done]
            if new:
                yield [
                    BudgetedAnswer(sample=sample, chain=chains[sample.id], begun=_begins(task), answer=one)
                    for sample, one in new
                ]


def _chains(asked: Asking, samples: Sequence[Sample], budget: int, done: frozenset[str]) -> dict[str, _Chain]:
    task, by_id = asked.task, {sample.id: sample for sample in samples}
    requests = [replace(_generation(task.request(sample, "chain")), max_new_tokens=budget) for sample in samples]
    return {
        one.id: _Chain(
            text=one.text,
            num_tokens=one.num_new_tokens,
            num_prompt_tokens=one.num_prompt_tokens,
            stopped=one.finish_reason == "stop",
            ended=one.finish_reason == "stop" and answer_start(task, by_id[one.id], "chain", one.text) is not None,
        )
        for found in asked.engine.completions(requests, asked.plan, asked.decoding, done)
        for one in found
        if one.id not in done
    }


def _chain_of(record: Mapping[str, Any]) -> _Chain:
    """As it was when the record was made; its length in tokens is not asked for again."""
    forced_at = record["forced_at"]
    return _Chain(
        text=record["completion"][:forced_at],
        num_tokens=record.get("chain_tokens", record["num_new_tokens"]),
        num_prompt_tokens=record["num_prompt_tokens"],
        stopped=record["finish_reason"] == "stop",
        ended=forced_at is None,
    )


def _made_to_answer(task: Task, sample: Sample, chain: str, name: str) -> GenerationRequest:
    """The prompt of the chain, the chain so far and the words that ask for the answer."""
    request = _generation(task.request(sample, "chain"))
    text = _joined(chain, _begins(task))
    prompt = _continued(request.prompt, text)
    return replace(request, id=name, prompt=prompt, begins="", max_new_tokens=ANSWER_TOKENS)


def _continued(prompt: Prompt, text: str) -> Prompt:
    """The prompt with an answer that was begun.

    >>> _continued("Q: 1 + 1?\\nA:", " The answer is")
    'Q: 1 + 1?\\nA: The answer is'
    >>> _continued((Message("user", "1 + 1?"),), "The answer is")[-1]
    Message(role='assistant', content='The answer is')
    """
    if isinstance(prompt, str):
        return prompt + text
    begun = prompt[-1].content if prompt[-1].role == "assistant" else ""
    before = prompt[:-1] if prompt[-1].role == "assistant" else prompt
    return (*before, Message("assistant", (begun + text).lstrip()))


def _joined(chain: str, begins: str) -> str:
    return chain.rstrip() + begins


def _begins(task: Task) -> str:
    return cast("str", getattr(task, "answer_begins"))  # noqa: B009  a Task need not have it


def _generation(request: GenerationRequest | LikelihoodRequest) -> GenerationRequest:
    assert isinstance(request, GenerationRequest), "chains are generated"
    return request
