"""DiagnosticSession: asks the original and the pruned models the same questions, and saves each answer at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from layercut.engine.base import Decoding, Engine, GenerationRequest, LikelihoodRequest
from layercut.errors import InputError, RunMismatch
from layercut.runs.records import Journal
from layercut.seed import check_seed
from layercut.surgery.plan import CutPlan

GREEDY = Decoding()
Needs = Literal["text", "tokens"]
"""Requirement of a diagnostic on two models: nothing but the questions, or the tokens as well."""
Record = dict[str, Any]
Answers = dict[str, dict[str, Record]]  # by name of the arm, then by id of the request
_ALL = "all"
Found = Iterator[tuple[CutPlan, Sequence[Any]]]
Missing = Callable[[CutPlan, str], bool]


@dataclass(frozen=True, kw_only=True)
class SessionModel:
    """One model of the session: uncut, under a plan, or a checkpoint of its own."""

    name: str  # short, and fit for a file name
    source: str  # which weights are in memory: arms of one source differ only in their plan, and are asked together
    plan: CutPlan
    layers: tuple[int, ...]  # the layers of the original model that it has, ascending; empty where they are not known
    engine: Callable[[], Engine]  # called only if something has to be computed
    shares: frozenset[Needs] = frozenset(get_args(Needs))  # common parts with the original model


Request = TypeVar("Request", GenerationRequest, LikelihoodRequest)


class DiagnosticSession:
    """Models, items and files of a diagnosis. The first arm is the original model, the reference of all others."""

    def __init__(
        self,
        arms: Sequence[SessionModel],
        journal: Callable[[str, str], Journal],
        *,
        limit: int = 32,
        seed: int = 0,
        num_samples: int = 16,
        on_progress: Callable[[int, int, int], None] = lambda stage, done, total: None,
    ) -> None:
        """Args:
        arms: the original model first.
        journal: from the name of a question and of an arm, where its answers are kept.
        limit, num_samples: see ``DiagnoseSettings``.
        on_progress: called with (questions so far, items done, items in all) of the question that is being asked.
        """
        names = [arm.name for arm in arms]
        for name in names:
            if names.count(name) > 1 or name == _ALL:
                raise InputError(f"two models are called {name!r}; give each cut once.")
        self.arms = tuple(arms)
        self.limit, self.seed, self.num_samples = limit, check_seed(seed), num_samples
        self._journal, self._on_progress, self._stage = journal, on_progress, 0
        self.shortfalls: list[str] = []  # where fewer items came than the limit asks for, in words, since ``begin``

    @property
    def uncut(self) -> SessionModel:
        return self.arms[0]

    @property
    def cuts(self) -> tuple[SessionModel, ...]:
        return self.arms[1:]

    def begin(self) -> None:
        """Start a diagnostic: count questions from zero, and forget shortfalls."""
        self._stage, self.shortfalls = 0, []

    def came(self, what: str, items: Collection[object]) -> None:
        """Note where there are fewer items than the limit asks for."""
        if len(items) < self.limit:
            line = f"{what}: only {len(items)} of the {self.limit} requested items; there are no more"
            self.shortfalls += [] if line in self.shortfalls else [line]

    def completions(
        self,
        name: str,
        requests: Sequence[GenerationRequest],
        arms: Sequence[SessionModel] | None = None,
        decoding: Decoding = GREEDY,
    ) -> Answers:
        """The answers of every arm: records with ``text``, ``finish_reason`` and ``num_new_tokens``."""
        fields = ("text", "finish_reason", "num_new_tokens")
        return self._ask(
            name,
            requests,
            arms,
            lambda group, missing: group[0].engine().ask(requests, _plans(group), decoding, missing),
            lambda answer: {field: getattr(answer, field) for field in fields},
        )

    def likelihoods(
        self, name: str, requests: Sequence[LikelihoodRequest], arms: Sequence[SessionModel] | None = None
    ) -> Answers:
        """The likelihoods of the continuations under every arm: records with ``log_likelihoods`` and ``num_tokens``."""
        fields = ("log_likelihoods", "num_tokens")
        return self._ask(
            name,
            requests,
            arms,
            lambda group, missing: group[0].engine().ask(requests, _plans(group), wanted=missing),
            lambda answer: {field: list(getattr(answer, field)) for field in fields},
        )

    def damages(self, name: str, requests: Sequence[LikelihoodRequest]) -> Answers:
        """Damage of every model at each token of a given text: records with ``tokens``, as TokenDamage has them.

        The reference is the uncut arm. A checkpoint, whose distributions are in another engine, has ``kl`` None; its
        tokens must be the original model's.

        Raises:
            InputError: a checkpoint that cuts text into other tokens than the original model.
        """
        requests = [replace(request, by_token=True) for request in requests]

        found = self._ask(
            name,
            requests,
            None,
            lambda group, missing: (
                group[0]
                .engine()
                .compare(requests, _plans(group), CutPlan(num_layers=group[0].plan.num_layers), missing)
            ),
            lambda answer: {"tokens": [token._asdict() for token in answer.tokens]},
        )
        for arm in self.cuts:
            if arm.source != self.uncut.source:
                found[arm.name] = {
                    id: _against(found[self.uncut.name][id], record, arm.name) for id, record in found[arm.name].items()
                }
        return found

    def computed(self, name: str, ids: Sequence[str], compute: Callable[[str], Record]) -> dict[str, Record]:
        """``compute`` of each id, kept like answers; for measurements of all arms together."""
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
        arms: Sequence[SessionModel] | None,
        call: Callable[[Sequence[SessionModel], Missing], Found],
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
                for plan, found in call(group, missing):
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


def _plans(arms: Sequence[SessionModel]) -> list[CutPlan]:
    return [arm.plan for arm in arms]


def _by_source(arms: Iterable[SessionModel]) -> list[list[SessionModel]]:
    groups: dict[str, list[SessionModel]] = {}
    for arm in arms:
        groups.setdefault(arm.source, []).append(arm)
    return list(groups.values())


def _held(journal: Journal, asked: dict[str, str]) -> dict[str, Record]:
    """The answers that the journal holds already."""
    held = {record["id"]: record for record in journal.records if record["id"] in asked}
    for id, record in held.items():
        if record["asked"] != asked[id]:
            raise RunMismatch(
                f"{journal.path} holds an answer to another question under the id {id}; it was written by another "
                "version of layercut. Use another `out`."
            )
    return held


def _hash(request: GenerationRequest | LikelihoodRequest) -> str:
    rest: tuple[Any, ...]
    if isinstance(request, LikelihoodRequest):
        rest = request.continuations
    else:
        rest = (request.max_new_tokens, request.stop, *([request.begins] if request.begins else []))
    return hashlib.sha256(repr((request.prompt, rest)).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _against(uncut: Record, record: Record, arm: str) -> Record:
    """A checkpoint's own tokens, with the original model's as reference."""
    before, after = uncut["tokens"], record["tokens"]
    if [token["text"] for token in before] != [token["text"] for token in after]:
        raise InputError(
            f"{arm} tokenises text differently from the original model, so the two cannot be compared token by token. "
            "Give a checkpoint with the original model's tokenizer."
        )
    tokens = [
        {**new, **{f"reference_{name}": old[name] for name in ("nll", "rank", "likeliest")}, "kl": None}
        for old, new in zip(before, after, strict=True)
    ]
    return {**record, "tokens": tokens}
