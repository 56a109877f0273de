"""A patient for diagnostics: a FakeEngine that answers everything rightly uncut, and has one known defect when cut."""

import functools
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from layercut.diagnostics.arithmetic import make_expressions
from layercut.diagnostics.brackets import CLOSERS, make_functions, nested_brackets
from layercut.diagnostics.session import DiagnosticSession, SessionModel
from layercut.engine.base import Completion, Divergence, GenerationRequest, LikelihoodRequest, Likelihoods, TokenDamage
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from tests.support.fake_engine import FakeEngine

Defect = Literal["healthy", "no_times", "loops", "silent", "never_closes", "cannot_add"]
LIMIT = 24
UNCUT, CUT = CutPlan(num_layers=6), CutPlan(num_layers=6, removed=(3,))
_PIECE = re.compile(r"\s*(?:\d|[^\W\d]+|[^\w\s])|\s+")
_CHAIN = " Half of it is 2 * 9 = 18, and ( 18 - 4 ) is 14. The answer is {}."


@functools.cache
def right_answers() -> dict[str, str]:
    """By item: what a model without fault writes, without the mark that ends it."""
    known = {}
    for task in (*map(load_task, ("arithmetic", "brackets", "copy")), make_expressions(), nested_brackets()):
        for sample in task.samples("report", LIMIT):
            known[sample.id] = task.answer(sample.gold).rstrip("\n")  # type: ignore[attr-defined]
    for sample in load_task("gsm_symbolic").samples("report", LIMIT):
        known[sample.id] = _CHAIN.format(sample.gold)
    for one in make_functions(LIMIT, 0):
        known[one.id] = one.body
    return known


def item(request_id: str) -> str:
    """Of what a request asks: drawn answers and parts of an answer have ids of their own."""
    return re.split("[#@]", request_id)[0]


def prose(seed: str) -> str:
    """Sentences in which nothing comes twice."""
    words = [hashlib.sha256(f"{seed} {i}".encode()).hexdigest()[:6] for i in range(60)]
    return " ".join(word + "." * (i % 9 == 8) for i, word in enumerate(words)) + "."


def is_about_brackets(request_id: str) -> bool:
    return request_id.startswith(("brackets", "nested_brackets", "function"))


class PatientEngine(FakeEngine):
    """Counts characters as tokens, as a tokenizer of single digits would."""

    def __init__(self, defect: Defect, **fields: Any) -> None:
        super().__init__(texts=self._text, scores=self._score, damage=self._damage, **fields)
        self.defect = defect

    def _sick(self, plan: CutPlan, defect: Defect) -> bool:
        return bool(plan.removed) and self.defect == defect

    def _text(self, request: GenerationRequest, plan: CutPlan) -> str | Completion:
        name = item(request.id)
        if name.startswith("opening"):
            if self._sick(plan, "loops"):
                text = "It goes on" + " and on and over again" * 30
                return Completion(
                    id=request.id, text=text, finish_reason="length", num_prompt_tokens=9, num_new_tokens=160
                )
            return "" if self._sick(plan, "silent") else prose(name)
        right = right_answers()[name]
        assert isinstance(request.prompt, str)
        given = max(k for k in range(len(right) + 1) if request.prompt.endswith(right[:k]))
        rest = right[given:]
        if self._sick(plan, "no_times") and "*" in rest:
            rest = rest.partition("*")[0] + "? ? ?"
        if self._sick(plan, "never_closes") and is_about_brackets(name):
            rest = re.sub(r"[)\]}]", "", rest)
        if self._sick(plan, "cannot_add") and name.startswith("expressions"):
            rest = rest + "1"
        # An answer ends where the task says; a word for each token would cut it short.
        return Completion(id=request.id, text=rest, finish_reason="stop", num_prompt_tokens=9, num_new_tokens=9)

    def _score(self, request: LikelihoodRequest, plan: CutPlan) -> list[float]:
        name = item(request.id)
        right = right_answers()[name]
        if request.continuations[: len(CLOSERS)] == CLOSERS:
            place = int(request.id.partition("@")[2])
            wanted = " " + right.split()[place]
        else:
            wanted = right
        sick = self._sick(plan, "never_closes") and is_about_brackets(name)
        sick = sick or (self._sick(plan, "cannot_add") and name.startswith("expressions"))
        options = enumerate(request.continuations)
        scores = [-1.0 - (option.rstrip("\n") != wanted) * 5 - index / 100 for index, option in options]
        return [-7.5 - score for score in scores] if sick else scores

    def _likelihoods(self, request: LikelihoodRequest, plan: CutPlan) -> Likelihoods:
        found = super()._likelihoods(request, plan)
        return replace(found, num_tokens=tuple(map(len, request.continuations)))

    def _damage(self, request: LikelihoodRequest, plan: CutPlan, reference: CutPlan) -> Divergence:
        tokens = []
        for piece in _PIECE.findall(request.continuations[0]):
            broken = (self._sick(plan, "no_times") and piece == " *") or (
                self._sick(plan, "never_closes") and is_about_brackets(request.id) and piece.strip() in ")]}"
            )
            likeliest = " ?" if broken else piece
            nll, kl, rank = (12.0, 11.0, 4000) if broken else (0.1, 0.0, 1)
            tokens.append(TokenDamage(piece, nll, 0.1, kl, rank, 1, likeliest, piece))
        return Divergence(
            id=request.id,
            num_tokens=len(tokens),
            nll=sum(token.nll for token in tokens),
            reference_nll=0.1 * len(tokens),
            kl=sum(token.kl for token in tokens),
            tokens=tuple(tokens) if request.by_token else (),
        )


def models(engine: FakeEngine) -> list[SessionModel]:
    """The patient uncut and cut."""
    return [
        SessionModel(name=name, source="uncut", plan=plan, engine=lambda: engine)
        for name, plan in (("uncut", UNCUT), ("cut", CUT))
    ]


def session(engine: FakeEngine, folder: Path, *, limit: int = LIMIT, **fields: Any) -> DiagnosticSession:
    """A bench with journals in a folder."""

    def journal(name: str, arm: str) -> Journal:
        return Journal(folder / f"{name}.{arm}.jsonl")

    return DiagnosticSession(models(engine), journal, limit=limit, **fields)
