"""Brackets and syntax: does the model still close brackets, in sequences of growing depth and in programs?

Experiments E4 and E9 of arXiv:2602.01997 for programs. The nested sequences are words of the Dyck language of three
kinds of brackets, as in Suzgun et al., "LSTM Networks Can Perform Dynamic Counting", arXiv:1906.03648, and BIG-bench's
``dyck_languages``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

from layercut.diagnostics.arithmetic import constant_share, is_right, place_of
from layercut.diagnostics.measures import by_group, examples_of, rows_of
from layercut.diagnostics.session import DiagnosticSession
from layercut.diagnostics.written_programs import written_programs
from layercut.engine.base import LikelihoodRequest
from layercut.evidence.diagnosis import Diagnosis
from layercut.tasks.builtin.lines import closing, find_brackets
from layercut.tasks.few_shot import FewShotTask, Problem

NAME = "brackets"
VERSION = 1
DEEPEST = 8
CLOSERS = (" )", " ]", " }")
_EXAMPLES = ("( [ { }", "{ ( ) [ (", "[ {", "( { [ ] { [", "( [ { ( [ ( {", "{ (")


def brackets(session: DiagnosticSession) -> Diagnosis:
    """Close nested brackets, and write small functions, with every model.

    Measures: ``closed``, the whole closing sequence as written; ``next bracket``, whether the right one of the three
    closing brackets is the likeliest after each part of the right sequence, averaged per item; ``log-probability`` of
    the whole sequence in nats; and those of ``written_programs``.
    """
    task = nested(seed=session.seed)
    samples = task.samples("report", session.limit)
    session.came(task.name, samples)
    written = session.completions("brackets.closed", [task.request(s, "short") for s in samples])  # type: ignore[misc]
    steps = [(s, place) for s in samples for place in range(len(s.gold.split()))]
    asked = [_step(task, sample.id, sample.question, sample.gold, place) for sample, place in steps]
    likely = session.likelihoods("brackets.next", asked)
    names = [arm.name for arm in session.arms]
    depths = [f"depth {sample.data['depth']}" for sample in samples]

    right: dict[str, list[float]] = {}
    following: dict[str, list[float]] = {}
    gold: dict[str, list[float]] = {}
    for name in names:
        answers, scores = written[name], likely[name]
        right[name] = [float(is_right(task, s, answers[s.id])) for s in samples]
        hits: dict[str, list[bool]] = {s.id: [] for s in samples}
        for sample, place in steps:
            found = scores[f"{sample.id}@{place}"]["log_likelihoods"][: len(CLOSERS)]
            hits[sample.id].append(place_of(CLOSERS.index(f" {sample.gold.split()[place]}"), found) == 1)
        following[name] = [sum(hits[s.id]) / len(hits[s.id]) for s in samples]
        gold[name] = [scores[f"{s.id}@0"]["log_likelihoods"][-1] for s in samples]
    chance = constant_share([s.gold for s in task.samples("report", None)])
    rows = [
        *rows_of(session, NAME, "closed", right, chance=chance, headline=True),
        *rows_of(session, NAME, "next bracket", following, chance=1 / 3, headline=True),
        *rows_of(session, NAME, "log-probability", gold, unit="nats"),
    ]
    uncut = session.uncut.name
    examples = examples_of(
        session,
        NAME,
        [(s.id, f"{s.question} ->", s.gold) for s in samples],
        written,
        lambda arm, place: right[uncut][place] > right[arm][place],
    )
    programs = written_programs(session, NAME)
    rows += programs["rows"]
    rows += by_group(session, NAME, "closed", right, depths)
    rows += by_group(session, NAME, "next bracket", following, depths)
    return {**programs, "rows": rows, "examples": [*examples, *programs["examples"]]}


def nested(*, seed: int = 0) -> FewShotTask:
    """Sequences with one to eight open brackets at the end, in equal numbers, and closed pairs between them.

    A sample problem: ``( [ [ ( ) ->`` is answered by `` ] ] )`` and a line break. Graded as the task ``brackets``.
    """
    return FewShotTask(
        name="nested_brackets",
        version=VERSION,
        readouts=("short",),
        seed=seed,
        problems=_problems,
        num_samples=1000,
        examples="".join(f"{question} -> {closing(question)}\n" for question in _EXAMPLES),
        example_questions=frozenset(_EXAMPLES),
        prompt=lambda question: f"{question} ->",
        answer=lambda option: f" {option}\n",
        find=find_brackets,
        is_right=str.__eq__,
        max_new_tokens=24,
        stop=("\n",),
    )


def _problems(seed: int) -> Iterator[Problem]:
    for index in count():
        rng = Random(f"nested_brackets {VERSION} {seed} {index}")
        depth = index % DEEPEST + 1
        parts = []
        for _ in range(depth):
            parts.append(rng.choice("([{"))
            if rng.random() < 0.3:
                parts.append(rng.choice(("( )", "[ ]", "{ }")))
        question = " ".join(parts)
        yield Problem(question, closing(question), (), {"depth": depth})


def _step(task: FewShotTask, id: str, question: str, gold: str, place: int) -> LikelihoodRequest:
    """The three closing brackets after ``place`` of the right sequence; at 0, the whole sequence as well."""
    before = "".join(f" {bracket}" for bracket in gold.split()[:place])
    options = (*CLOSERS, f" {gold}\n") if place == 0 else CLOSERS
    return LikelihoodRequest(id=f"{id}@{place}", prompt=f"{task.examples}{question} ->{before}", continuations=options)
