"""Bench: the uncut and the cut models side by side, asked the same questions, each answer kept as it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from layercut.engine.base import Completion, Decoding, Divergence, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import InputError, RunMismatch

if TYPE_CHECKING:
    from pathlib import Path

    from layercut.engine.base import Engine
    from layercut.models.loading import LoadedModel
    from layercut.runs.records import Journal
    from layercut.surgery.plan import CutPlan

GREEDY = Decoding()
Record = dict[str, Any]
Answers = dict[str, dict[str, Record]]
"""By name of the arm, then by id of the request."""
_ALL = "all"
Request = TypeVar("Request", GenerationRequest, LikelihoodRequest)
Found = Iterator[tuple["CutPlan", Sequence[Any]]]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model on the bench: uncut, under a plan, or a checkpoint of its own."""

    name: str
    """Short, and fit for a file name."""
    source: str
    """Which weights are in memory: arms of one source differ in their plan alone, and are asked together."""
    plan: CutPlan
    layers: tuple[int, ...]
    """The layers of the uncut model that it has, ascending."""
    engine: Callable[[], Engine]
    """Called only if something has to be computed."""
    model: Callable[[], LoadedModel] | None = None
    """For what is timed without an engine."""
    num_parameters: int | None = None


class Bench:
    """What a diagnostic works with. The first arm is the uncut model, with which all others are compared."""

    def __init__(
        self,
        arms: Sequence[Arm],
        journal: Callable[[str, str], Journal],
        *,
        limit: int = 32,
        seed: int = 0,
        num_samples: int = 16,
        arithmetic_data: Path | None = None,
        on_progress: Callable[[int, int, int], None] = lambda stage, done, total: None,
    ) -> None:
        """Put models side by side.

        Args:
            arms: the uncut model first.
            journal: from the name of a question and of an arm, where its answers are kept.
            limit: items of each kind of question.
            seed: root of all chance.
            num_samples: answers that are drawn for each item where answers are drawn.
            arithmetic_data: files of arithmetic problems in place of generated ones.
            on_progress: called with (questions so far, items done, items in all) of the question that is being asked.
        """
        names = [arm.name for arm in arms]
        for name in names:
            if names.count(name) > 1 or name == _ALL:
                raise InputError(f"two models are called {name!r}; give each cut once.")
        self.arms = tuple(arms)
        self.limit, self.seed, self.num_samples = limit, seed, num_samples
        self.arithmetic_data = arithmetic_data
        self._journal, self._on_progress, self._stage = journal, on_progress, 0

    @property
    def uncut(self) -> Arm:
        """What all others are compared with."""
        return self.arms[0]

    @property
    def cuts(self) -> tuple[Arm, ...]:
        """All others."""
        return self.arms[1:]

    def begin(self) -> None:
        """Count questions from zero again: a diagnostic starts."""
        self._stage = 0

    def completions(
        self,
        name: str,
        requests: Sequence[GenerationRequest],
        arms: Sequence[Arm] | None = None,
        decoding: Decoding = GREEDY,
    ) -> Answers:
        """What every arm writes: records with ``text``, ``finish_reason`` and ``num_new_tokens``."""

        def call(engine: Engine, plans: Sequence[CutPlan], missing: Callable[[CutPlan, str], bool]) -> Found:
            return engine.completions_under(requests, plans, decoding, missing)

        def record(answer: Completion) -> Record:
            return {
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "num_new_tokens": answer.num_new_tokens,
            }

        return self._ask(name, requests, arms, call, record)

    def likelihoods(
        self, name: str, requests: Sequence[LikelihoodRequest], arms: Sequence[Arm] | None = None
    ) -> Answers:
        """How likely every arm finds the continuations: records with ``log_likelihoods`` and ``num_tokens``."""

        def call(engine: Engine, plans: Sequence[CutPlan], missing: Callable[[CutPlan, str], bool]) -> Found:
            return engine.log_likelihoods_under(requests, plans, missing)

        def record(answer: Likelihoods) -> Record:
            return {"log_likelihoods": list(answer.log_likelihoods), "num_tokens": list(answer.num_tokens)}

        return self._ask(name, requests, arms, call, record)

    def damages(self, name: str, requests: Sequence[LikelihoodRequest]) -> Answers:
        """What every arm makes of each token of a given text: records with ``tokens``, as TokenDamage has them.

        The reference is the uncut arm. Of a checkpoint of its own, whose distributions are in another engine, ``kl`` is
        None; its tokens must be the uncut model's.

        Raises:
            InputError: a checkpoint that cuts text into other tokens than the uncut model.
        """
        requests = [_by_token(request) for request in requests]

        def call(engine: Engine, plans: Sequence[CutPlan], missing: Callable[[CutPlan, str], bool]) -> Found:
            reference = type(plans[0])(num_layers=plans[0].num_layers)
            return engine.divergences_under(requests, plans, reference, missing)

        def record(answer: Divergence) -> Record:
            return {"tokens": [token._asdict() for token in answer.tokens]}

        found = self._ask(name, requests, None, call, record)
        for arm in self.cuts:
            if arm.source != self.uncut.source:
                found[arm.name] = {
                    id: _against(found[self.uncut.name][id], record, arm.name) for id, record in found[arm.name].items()
                }
        return found

    def computed(self, name: str, ids: Sequence[str], compute: Callable[[str], Record]) -> dict[str, Record]:
        """What ``compute`` gives for each id, kept like answers; for what is measured on all arms together."""
        with self._journal(name, _ALL) as journal:
            known = {record["id"]: record for record in journal.records}
            for done, id in enumerate(ids):
                self._on_progress(self._stage, done, len(ids))
                if id not in known:
                    journal.append([{"id": id, **compute(id)}])
                    known[id] = journal.records[-1]
            self._on_progress(self._stage, len(ids), max(1, len(ids)))
        self._stage += 1
        return {id: known[id] for id in ids}

    def _ask(
        self,
        name: str,
        requests: Sequence[Request],
        arms: Sequence[Arm] | None,
        call: Callable[[Engine, Sequence[CutPlan], Callable[[CutPlan, str], bool]], Found],
        to_record: Callable[[Any], Record],
    ) -> Answers:
        asked = {request.id: _hash(request) for request in requests}
        assert len(asked) == len(requests), f"{name}: two requests with one id"
        chosen = self.arms if arms is None else tuple(arms)
        answers: Answers = {arm.name: {} for arm in chosen}
        total = max(1, len(asked) * len(chosen))

        def tell() -> None:
            self._on_progress(self._stage, sum(map(len, answers.values())), total)

        for group in _by_source(chosen):
            journals = {arm.name: self._journal(name, arm.name) for arm in group}
            try:
                for arm in group:
                    answers[arm.name].update(_held(journals[arm.name], asked))
                tell()
                names: dict[str, str] = {arm.plan.key: arm.name for arm in group}
                assert len(names) == len(group), "two arms that remove the same layers"

                def missing(plan: CutPlan, id: str, names: dict[str, str] = names) -> bool:
                    return id not in answers[names[plan.key]]

                if all(len(answers[arm.name]) == len(asked) for arm in group):
                    continue
                for plan, found in call(group[0].engine(), [arm.plan for arm in group], missing):
                    known = answers[names[plan.key]]
                    fresh = [
                        {"id": one.id, "asked": asked[one.id], **to_record(one)} for one in found if one.id not in known
                    ]
                    journals[names[plan.key]].append(fresh)
                    known.update((record["id"], record) for record in fresh)
                    tell()
            finally:
                for journal in journals.values():
                    journal.close()
        self._stage += 1
        for arm in chosen:
            assert len(answers[arm.name]) == len(asked), f"{name}: questions to {arm.name} were left unanswered"
        return answers


def _by_source(arms: Iterable[Arm]) -> list[list[Arm]]:
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.source, []).append(arm)
    return list(groups.values())


def _held(journal: Journal, asked: dict[str, str]) -> dict[str, Record]:
    """What the journal knows already."""
    held = {record["id"]: record for record in journal.records if record["id"] in asked}
    for id, record in held.items():
        if record["asked"] != asked[id]:
            raise RunMismatch(
                f"{journal.path} holds an answer to another question under the id {id}; it was written by another "
                "version of layercut. Use another --out."
            )
    return held


def _hash(request: GenerationRequest | LikelihoodRequest) -> str:
    rest = request.continuations if isinstance(request, LikelihoodRequest) else (request.max_new_tokens, request.stop)
    return hashlib.sha256(repr((request.prompt, rest)).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _by_token(request: LikelihoodRequest) -> LikelihoodRequest:
    return LikelihoodRequest(id=request.id, prompt=request.prompt, continuations=request.continuations, by_token=True)


def _against(uncut: Record, record: Record, arm: str) -> Record:
    """A checkpoint's own tokens beside those of the uncut model."""
    before, after = uncut["tokens"], record["tokens"]
    if [token["text"] for token in before] != [token["text"] for token in after]:
        raise InputError(
            f"{arm} cuts text into other tokens than the uncut model, so the two cannot be compared token by token. "
            "Give a checkpoint with the uncut model's tokenizer."
        )
    pairs = zip(before, after, strict=True)
    tokens = [
        {
            **new,
            "reference_nll": old["nll"],
            "reference_rank": old["rank"],
            "reference_likeliest": old["likeliest"],
            "kl": None,
        }
        for old, new in pairs
    ]
    return {**record, "tokens": tokens}
