"""Answers of the original model, token by token, and where plans would have written the same token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from layercut.drafting.forecast import Drafted
from layercut.engine.base import GREEDY, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.engine.rows import generation_row
from layercut.engine.stopping import stop_tokens
from layercut.errors import InputError
from layercut.progress import Progress
from layercut.selection.answers import ObjectiveTask
from layercut.selection.search_journal import JournalPart, JournalQuestion, SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Split, generates

if TYPE_CHECKING:
    from layercut.engine.handle import ModelHandle

ANSWERS, AGREEMENT = "answers", "agreement"  # names of the journal's readouts
_VERSION = 1


class WrittenAnswer(NamedTuple):
    """A greedy answer of the original model."""

    id: str
    task: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]  # with its stop token
    limit: int  # tokens that it may have at most

    def first(self, tokens: int) -> WrittenAnswer:
        """Its beginning; the limit stays."""
        return self._replace(tokens=self.tokens[:tokens])


class Agreements:
    """Where each plan's likeliest token is the answer's next one; nothing is computed twice."""

    def __init__(self, model: ModelHandle, journal: SearchJournal, progress: Progress) -> None:
        """Nothing is asked yet."""
        self.model, self._journal, self._progress = model, journal, progress

    def answers(self, part: ObjectiveTask, split: Split, limit: int) -> list[WrittenAnswer]:
        """The original model's answers to the first items of a task.

        Raises:
            InputError: a task that is not answered by writing, or one without such items.
        """
        if not generates(part.readout):
            raise InputError(
                f"{part.label} is not written, so there is nothing to draft; name a task that is, such as gsm8k."
            )
        samples = part.task.samples(split, limit)
        if not samples:
            raise InputError(f"{part.task.name} has no {split} items.")
        asked = [cast("GenerationRequest", part.task.request(one, part.readout)) for one in samples]
        requests = [replace(one, settled=None, draft="") for one in asked]
        uncut = CutPlan(num_layers=self.model.num_layers)
        known = self.part(name_of(part), ANSWERS, uncut, [one.id for one in requests])
        if not known.is_complete:
            done = {record["id"] for record in known.records}
            self._progress(part.label, len(done), len(requests))
            for _, batch in self.model.engine.ask(requests, [uncut], GREEDY, lambda _, name: name not in done):
                known.append([{"id": one.id, "tokens": list(one.tokens)} for one in batch])
                self._progress(part.label, len(known.records), len(requests))
        tokens = {record["id"]: tuple(record["tokens"]) for record in known.records}
        loaded = self.model.loaded
        stops = stop_tokens(loaded.tokenizer, loaded.model.generation_config)
        found = []
        for request in requests:
            row, answer = generation_row(loaded, request), tokens[request.id]
            # An answer that a text ended, and not a token, is written without that text again: to its length.
            limit = row.limit if answer and answer[-1] in stops else len(answer)
            if answer:
                found.append(WrittenAnswer(request.id, name_of(part), row.prompt, answer, limit))
        return found

    def of(self, plans: Sequence[CutPlan], answers: Sequence[WrittenAnswer]) -> list[list[Drafted]]:
        """For each plan, where it agrees with each answer. Raises InputError: an engine that does not say."""
        requests = [_request(one) for one in answers]
        ids = [request.id for request in requests]
        parts = {plan.key: self.part("plans", AGREEMENT, plan, ids) for plan in plans}
        left = {key: {*ids} - {one["id"] for one in part.records} for key, part in parts.items()}
        total, names = len(parts) * len(ids), {plan.key: plan for plan in plans}
        self._progress("answers read", total - sum(map(len, left.values())), total)
        if any(left.values()):
            wanted = [plan for key, plan in names.items() if left[key]]
            found = self.model.engine.ask(requests, wanted, GREEDY, lambda plan, id: id in left[plan.key])
            for plan, replies in found:
                parts[plan.key].append([_record(one) for one in replies])
                left[plan.key] -= {one.id for one in replies}
                self._progress("answers read", total - sum(map(len, left.values())), total)
        return [
            [
                Drafted(len(one.prompt), [bit == "1" for bit in record["agrees"]], one.limit)
                for one, record in zip(answers, parts[plan.key].records, strict=True)
            ]
            for plan in plans
        ]

    def overlaps(self, plan: CutPlan, answers: Sequence[WrittenAnswer]) -> list[list[float]]:
        """Of each answer, at each token, the share of the probability that plan and original model have in common."""
        requests = [_request(one, by_token=True) for one in answers]
        ids = [request.id for request in requests]
        part = self.part("plans", "overlap", plan, ids)
        if not part.is_complete:
            uncut = CutPlan(num_layers=self.model.num_layers)
            known = {record["id"] for record in part.records}
            compared = self.model.engine.compare(requests, [plan], uncut, lambda _, name: name not in known)
            for _, found in compared:
                part.append([{"id": one.id, "overlap": [round(two.overlap, 5) for two in one.tokens]} for one in found])
        return [record["overlap"] for record in part.records]

    def part(self, name: str, readout: Any, plan: CutPlan, ids: Sequence[str], settings: str = "") -> JournalPart:
        """Known answers of a plan, and the place for more."""
        question = JournalQuestion(
            task=name,
            readout=readout,
            model_hash=self.model.metadata.model_hash,
            version=_VERSION,
            settings_hash=settings,
            decoding=None,
        )
        return self._journal.part(question, plan, ids)


def name_of(part: ObjectiveTask) -> str:
    """Of a task under a readout, in the journal."""
    return f"{part.task.name}-{part.readout}"


def _request(answer: WrittenAnswer, *, by_token: bool = False) -> LikelihoodRequest:
    """An answer to be read; its name in the journal has its length, as its beginning may have been read alone."""
    name = f"{answer.task}.{answer.id}.{len(answer.tokens)}"
    return LikelihoodRequest(
        id=name, prompt="", continuations=("",), by_token=by_token, tokens=(answer.prompt, answer.tokens)
    )


def _record(one: Likelihoods) -> dict[str, Any]:
    if not one.hits or len(one.hits[0]) != one.num_tokens[0]:
        raise InputError("this engine does not say which tokens are the likeliest; use `engine` shared or plain.")
    return {"id": one.id, "agrees": "".join("01"[hit] for hit in one.hits[0])}
