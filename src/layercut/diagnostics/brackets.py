"""Brackets and syntax: does the model still close brackets, in words of the Dyck language (arXiv:1906.03648), and in
programs (E4 and E9 of arXiv:2602.01997)?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from random import Random
from typing import Any

from layercut.diagnostics.arithmetic import guessing_score, place_of
from layercut.diagnostics.programs import NAME, classed_programs
from layercut.diagnostics.session import DiagnosticSession
from layercut.engine.base import LikelihoodRequest
from layercut.evidence.diagnosis import Diagnosis
from layercut.evidence.program_classes import measure_programs
from layercut.tasks.base import Sample
from layercut.tasks.builtin.lines import closing_brackets, find_brackets
from layercut.tasks.few_shot import FewShotTask, Problem

VERSION = 1
DEEPEST = 8
CLOSERS = (" )", " ]", " }")
_EXAMPLES = ("( [ { }", "{ ( ) [ (", "[ {", "( { [ ] { [", "( [ { ( [ ( {", "{ (")


def brackets(session: DiagnosticSession) -> Diagnosis:
    """Close nested brackets, and write small functions, with every model.

    ``next bracket``: the right one of the three is the likeliest after each part of the right sequence, mean per item.
    """
    task = nested_brackets(seed=session.seed)
    written = session.grade("brackets.closed", task)
    samples = written.samples
    likely = session.ask(
        "brackets.next",
        [_step(task, sample, place) for sample in samples for place in range(len(sample.gold.split()))],
    )

    def share_right(sample: Sample, scores: Mapping[str, Any]) -> float:
        hits = []
        for place, closer in enumerate(sample.gold.split()):
            of_closers = scores[f"{sample.id}@{place}"]["log_likelihoods"][: len(CLOSERS)]
            hits.append(place_of(CLOSERS.index(f" {closer}"), of_closers) == 1)
        return sum(hits) / len(hits)

    following = {model: [share_right(sample, scores) for sample in samples] for model, scores in likely.items()}
    gold = {
        model: [scores[f"{sample.id}@0"]["log_likelihoods"][-1] for sample in samples]
        for model, scores in likely.items()
    }
    depths = [f"depth {sample.data['depth']}" for sample in samples]
    programs = classed_programs(session)
    measured = measure_programs(NAME, programs.classes, seed=session.seed, were_run=programs.were_run)
    return {
        "rows": [
            *session.rows(NAME, "closed", written.right, chance=guessing_score(task), headline=True),
            *session.rows(NAME, "next bracket", following, chance=1 / 3, headline=True),
            *session.rows(NAME, "log-probability", gold, unit="nats"),
            *measured["rows"],
            *session.rows_by_group(NAME, "closed", written.right, depths),
            *session.rows_by_group(NAME, "next bracket", following, depths),
        ],
        "data": measured["data"],
        "notes": [programs.note],
    }


def nested_brackets(*, seed: int = 0) -> FewShotTask:
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
        examples="".join(f"{question} -> {closing_brackets(question)}\n" for question in _EXAMPLES),
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
        yield Problem(question, closing_brackets(question), (), {"depth": depth})


def _step(task: FewShotTask, sample: Sample, place: int) -> LikelihoodRequest:
    """The three closing brackets after ``place`` of the right sequence; at 0, the whole sequence as well."""
    before = "".join(f" {bracket}" for bracket in sample.gold.split()[:place])
    options = (*CLOSERS, f" {sample.gold}\n") if place == 0 else CLOSERS
    prompt = f"{task.examples}{sample.question} ->{before}"
    return LikelihoodRequest(id=f"{sample.id}@{place}", prompt=prompt, continuations=options)
