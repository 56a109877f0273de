"""Answers that the original model writes to the items of tasks, token by token, kept in a journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from layercut.engine.base import GREEDY, GenerationRequest, Request, distinct_plans
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import generation_row
from layercut.engine.stopping import stop_tokens
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.progress.bars import RunProgress
from layercut.selection.answers import ObjectiveTask
from layercut.selection.search_journal import JournalPart, JournalQuestion, SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Split, is_generated


class WrittenAnswer(NamedTuple):
    """A greedy answer of the original model, and where a draft agrees with it."""

    id: str  # with its task
    task: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]  # with its stop token
    limit: int  # tokens that it may have at most
    agrees: Sequence[bool] = ()  # for each token: the draft's likeliest one is the same


def part_name(part: ObjectiveTask) -> str:
    """Name of a task under a readout, in the journal."""
    return f"{part.task.name}-{part.readout}"


class AnswerWriter:
    """A model that writes answers; what a journal holds is not computed again."""

    def __init__(self, model: ModelHandle, journal: SearchJournal, progress: RunProgress) -> None:
        self.model, self._journal, self.progress = model, journal, progress

    def write(self, part: ObjectiveTask, split: Split, limit: int) -> list[WrittenAnswer]:
        """Answers of the model to the first items of a task; those without a token are left out."""
        if not is_generated(part.readout):
            raise InputError(
                f"{part.label} is not written: its answers are ranked; name a task that is, such as gsm8k."
            )
        requests = [
            replace(cast("GenerationRequest", part.task.request(sample, part.readout)), settled=None, draft="")
            for sample in part.task.samples(split, limit)
        ]
        uncut, name, reader = CutPlan(num_layers=self.model.num_layers), part_name(part), self.model.reader
        (records,) = self._ask(
            part.label, (name, "answers"), requests, [uncut], lambda reply: {"tokens": list(reply.tokens)}
        )
        config = reader.model.generation_config if isinstance(reader, LoadedModel) else reader.generation_config
        stops = stop_tokens(reader.tokenizer, config)
        answers = []
        for request, record in zip(requests, records, strict=True):
            if tokens := tuple(record["tokens"]):
                row = generation_row(reader, request)
                # An answer that a text ended, and not a token, is written without that text again: to its length.
                limit = row.limit if tokens[-1] in stops else len(tokens)
                answers.append(WrittenAnswer(f"{name}.{request.id}", name, row.prompt, tokens, limit))
        if not answers:
            raise InputError(
                f"{part.label} has no {split} items that the model answers with a token; name a task that has."
            )
        return answers

    def part(self, name: str, readout: str, plan: CutPlan, ids: Sequence[str], settings: str = "") -> JournalPart:
        """Known records of a plan, and the place for more."""
        question = JournalQuestion(
            task=name,
            readout=readout,
            model_hash=self.model.metadata.model_hash,
            version=1,
            settings_hash=settings,
            decoding=None,
        )
        return self._journal.part(question, plan, ids)

    def _ask(
        self,
        what: str,
        file: tuple[str, str],
        requests: Sequence[Request],
        plans: Sequence[CutPlan],
        describe: Callable[[Any], dict[str, Any]],
    ) -> list[list[dict[str, Any]]]:
        """For each plan a record of each request, from the journal or the engine."""
        ids = [request.id for request in requests]
        parts = {plan.key: self.part(*file, plan, ids) for plan in plans}
        left = {key: {*ids} - {record["id"] for record in part.records} for key, part in parts.items()}
        total = len(parts) * len(ids)
        self.progress(what, total - sum(map(len, left.values())), total)
        if unread := [plan for plan in distinct_plans(plans) if left[plan.key]]:
            for plan, replies in self.model.engine.ask(
                requests, unread, GREEDY, lambda plan, item: item in left[plan.key]
            ):
                parts[plan.key].append([{"id": reply.id, **describe(reply)} for reply in replies])
                left[plan.key] -= {reply.id for reply in replies}
                self.progress(what, total - sum(map(len, left.values())), total)
        return [parts[plan.key].records for plan in plans]
