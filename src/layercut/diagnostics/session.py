"""DiagnosticSession: asks the original and the pruned models the same questions, and saves each answer at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from layercut.engine.base import (
    GREEDY,
    Completion,
    Decoding,
    Divergence,
    Engine,
    GenerationRequest,
    LikelihoodRequest,
    Likelihoods,
    Request,
    Under,
    Wanted,
)
from layercut.errors import RunMismatch
from layercut.evidence.diagnosis import MeasureRow, Values, measure_rows, without_kept
from layercut.progress import Progress, show_nothing
from layercut.runs.records import Journal
from layercut.seed import check_seed
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Readout, Sample, Task

Record = dict[str, Any]
Answers = Mapping[str, Mapping[str, Record]]  # by name of the model, then by id of the request
_FIELDS = {
    Completion: ("text", "finish_reason", "num_new_tokens"),
    Likelihoods: ("log_likelihoods", "num_tokens"),
}


@dataclass(frozen=True, kw_only=True)
class SessionModel:
    """One model of the session: uncut, under a plan, or a checkpoint of its own."""

    name: str  # short, and fit for a file name
    source: str  # which weights are in memory: models of one source differ only in their plan, and are asked together
    plan: CutPlan
    engine: Callable[[], Engine]  # called only if something has to be computed
    description: str = ""  # what it lacks, in a line


class GradedAnswers(NamedTuple):
    """Answers of the models to the items of a task."""

    samples: list[Sample]
    requests: list[GenerationRequest]
    texts: dict[str, list[str]]  # by model, its answers
    right: dict[str, list[float]]  # by model, 1 for each item that it answers rightly, else 0


class DiagnosticSession:
    """Models, items and files of a diagnosis. The first model is the original one, the reference of all others."""

    def __init__(
        self,
        models: Sequence[SessionModel],
        journal: Callable[[str, str], Journal],
        *,
        limit: int = 32,
        seed: int = 0,
        progress: Progress = show_nothing,
    ) -> None:
        """The original model is the first; ``journal`` gives, by question and model, where answers are kept."""
        self.models = tuple(models)
        self.uncut, *self.cuts = self.models
        self.limit, self.seed = limit, check_seed(seed)
        self._journal, self._progress = journal, progress
        self.notes: list[str] = []  # fewer items than the limit asks for, and models that were left out, in words

    def came(self, what: str, items: Collection[object]) -> None:
        """Note where there are fewer items than the limit asks for."""
        line = f"{what}: only {len(items)} of the {self.limit} requested items; there are no more"
        if len(items) < self.limit and line not in self.notes:
            self.notes.append(line)

    def grade(
        self,
        name: str,
        task: Task,
        readout: Readout = "short",
        models: Sequence[SessionModel] | None = None,
        samples: list[Sample] | None = None,
    ) -> GradedAnswers:
        """Answers of every model to the samples; if left out, to as many report items as the limit asks for."""
        if samples is None:
            samples = task.samples("report", self.limit)
            self.came(task.name, samples)
        requests = [cast("GenerationRequest", task.request(sample, readout)) for sample in samples]
        answers = self.ask(name, requests, models)

        def is_right(sample: Sample, record: Record) -> bool:
            fields = {name: record[name] for name in _FIELDS[Completion]}
            return (
                task.grade(sample, readout, Completion(id=sample.id, num_prompt_tokens=0, **fields)).outcome == "right"
            )

        right = values_of(answers, samples, is_right)
        return GradedAnswers(samples, requests, texts_of(answers, samples), right)

    def damages(self, name: str, requests: Sequence[LikelihoodRequest]) -> Answers:
        """Damage of every model at each token of a given text: records with ``tokens``, as TokenDamage has them.

        The reference is the original model. Another model, whose distributions are in another engine, has ``kl`` None.
        It is left out, and a note says so, where it cuts the text into other tokens than the original model.
        """
        answers = dict(self.ask(name, [replace(request, by_token=True) for request in requests]))
        reference = answers[self.uncut.name]
        for other in (model.name for model in self.cuts if model.source != self.uncut.source):
            records = answers.pop(other)
            if all(_texts(record) == _texts(reference[id]) for id, record in records.items()):
                answers[other] = {id: _against(reference[id], record) for id, record in records.items()}
            else:
                self.notes.append(f"{other} cuts text into other tokens, so nothing is said of it token by token.")
        return answers

    def computed(self, name: str, ids: Iterable[str], compute: Callable[[str], Record]) -> dict[str, Record]:
        """``compute`` of each id, kept like answers; for measurements of all models together."""
        ids = list(ids)
        with self._journal(name, "all") as journal:
            known = {record["id"]: record for record in journal.records}
            for done, id in enumerate(ids):
                self._progress(name, done, len(ids))
                if id not in known:
                    journal.append([{"id": id, **compute(id)}])
                    known[id] = journal.records[-1]
        self._progress(name, len(ids), len(ids))
        return {id: known[id] for id in ids}

    def ask(
        self,
        name: str,
        requests: Sequence[Request],
        models: Sequence[SessionModel] | None = None,
        decoding: Decoding = GREEDY,
    ) -> Answers:
        """Records of every model's answers; those that are not stored are asked of all models of a source together."""
        models = self.models if models is None else models
        hashes = {request.id: _hash(request) for request in requests}
        assert len(hashes) == len(requests), f"{name}: two requests with one id"
        answers: dict[str, dict[str, Record]] = {model.name: {} for model in models}

        def show() -> None:
            self._progress(name, sum(map(len, answers.values())), len(hashes) * len(models))

        def is_missing(plan: CutPlan, id: str) -> bool:
            return id not in answers[names[plan.key]]

        for source in dict.fromkeys(model.source for model in models):
            group = [model for model in models if model.source == source]
            names = {model.plan.key: model.name for model in group}
            assert len(names) == len(group), "two models that remove the same layers"
            with ExitStack() as open_files:
                journals = {m.name: open_files.enter_context(self._journal(name, m.name)) for m in group}
                for model, journal in journals.items():
                    answers[model].update(_held(journal, hashes))
                show()
                if all(len(answers[model]) == len(hashes) for model in journals):
                    continue
                for plan, batch in _replies(group, requests, decoding, is_missing):
                    known, journal = answers[names[plan.key]], journals[names[plan.key]]
                    fresh = [reply for reply in batch if reply.id not in known]
                    journal.append([{"id": r.id, "asked": hashes[r.id], **_record(r)} for r in fresh])
                    known.update((record["id"], record) for record in journal.records[-len(fresh) :] if fresh)
                    show()
        for model, records in answers.items():
            assert len(records) == len(hashes), f"{name}: questions to {model} were left unanswered"
        return answers

    def rows(self, diagnostic: str, measure: str, values: Values, **how: Any) -> list[MeasureRow]:
        """A row for every pruned model that has values; ``how`` as ``measure_rows`` takes it."""
        own = {model.name: values[model.name] for model in self.models if model.name in values}
        return measure_rows(diagnostic, measure, own, seed=self.seed, **how) if len(own) > 1 else []

    def rows_by_group(self, diagnostic: str, measure: str, values: Values, groups: Sequence[str]) -> list[MeasureRow]:
        """Rows for the items of each group, by name, without the retention: ratios over a few items vary too much."""
        rows: list[MeasureRow] = []
        for group in sorted(set(groups)):
            places = [place for place, name in enumerate(groups) if name == group]
            part = {model: [of_model[place] for place in places] for model, of_model in values.items()}
            rows += self.rows(diagnostic, measure, part, group=group)
        return [replace(row, values=without_kept(row.values)) for row in rows]


def values_of(answers: Answers, items: Sequence[Any], value: Callable[[Any, Record], float]) -> dict[str, list[float]]:
    """By model, the value of each item, which has an ``id``, and its answer."""
    return {model: [float(value(item, records[item.id])) for item in items] for model, records in answers.items()}


def texts_of(answers: Answers, items: Sequence[Any]) -> dict[str, list[str]]:
    """By model, the written answers to the items, which have an ``id``."""
    return {model: [records[item.id]["text"] for item in items] for model, records in answers.items()}


def _replies(
    models: Sequence[SessionModel], requests: Sequence[Request], decoding: Decoding, wanted: Wanted
) -> Under[Any]:
    """Replies of models of one source, as they come."""
    engine, plans = models[0].engine(), [model.plan for model in models]
    scored = [request for request in requests if isinstance(request, LikelihoodRequest) and request.by_token]
    if scored:
        return engine.compare(scored, plans, CutPlan(num_layers=plans[0].num_layers), wanted)
    return engine.ask(requests, plans, decoding, wanted)


def _record(reply: Completion | Likelihoods | Divergence) -> Record:
    if isinstance(reply, Divergence):
        return {"tokens": [token._asdict() for token in reply.tokens]}
    return {name: getattr(reply, name) for name in _FIELDS[type(reply)]}


def _held(journal: Journal, hashes: Mapping[str, str]) -> dict[str, Record]:
    held = {record["id"]: record for record in journal.records if record["id"] in hashes}
    for id, record in held.items():
        if record["asked"] != hashes[id]:
            raise RunMismatch(
                f"{journal.path} holds an answer to another question under the id {id}; it was written by another "
                "version of layercut. Use another `out`."
            )
    return held


def _hash(request: Request) -> str:
    return hashlib.sha256(repr(replace(request, id="")).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _texts(record: Record) -> list[str]:
    return [token["text"] for token in record["tokens"]]


def _against(uncut: Record, record: Record) -> Record:
    """Another model's own tokens, with the original model's as reference."""
    tokens = [
        {**new, **{f"reference_{name}": old[name] for name in ("nll", "rank", "likeliest")}, "kl": None}
        for old, new in zip(uncut["tokens"], record["tokens"], strict=True)
    ]
    return {**record, "tokens": tokens}
