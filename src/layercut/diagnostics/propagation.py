"""Propagation: does damage occur at single tokens, or does it grow along the answer?

The original model's own right answers are scored by the pruned model in three ways. Teacher forcing gives each token
everything before it. Free running reads the same positions in the answer that the pruned model writes by itself. Prefix
clamping gives the first 0, 25, 50, 75 and 100 % of the right answer. Damage under teacher forcing is local; damage
under free running alone is accumulated error. After the confounds listed against arXiv:2602.01997, RAC
(arXiv:2509.12464) and RTP-Gate-RTD.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from layercut.diagnostics.measures import rows_of
from layercut.diagnostics.session import Answers, DiagnosticSession
from layercut.diagnostics.traces import (
    KINDS,
    TOKEN_KINDS,
    Kind,
    Trace,
    first_wrong,
    kept_pieces,
    kinds_of,
    right_traces,
    token_kinds,
)
from layercut.engine.base import GenerationRequest, Message, Prompt
from layercut.evidence.diagnosis import Diagnosis, DiagnosisExample, MeasureRow

NAME = "propagation"
OWN = ("copy", "gsm_symbolic")
"""Tasks whose traces count as damage. Arithmetic and brackets have diagnostics of their own, so their traces only
explain: damage must not count twice.
"""
CLAMPED = (0.0, 0.25, 0.5, 0.75, 1.0)
FIRST, RANK = "first choice", "1 / rank"
TOP = 10
EXTRA_LOSS = "extra loss"
_MEASURES = (FIRST, f"in the top {TOP}", RANK, EXTRA_LOSS, "KL")
NUM_PLACES = 5


def propagation(session: DiagnosticSession) -> Diagnosis:
    """Go along the original model's right answers with every pruned model.

    Measures, each a mean per trace, by kind of token: ``first choice``, the trace's token is the likeliest (the
    headline counts only traces that no other diagnostic asks for); ``in the top 10`` and ``1 / rank`` of the trace's
    token; ``extra loss``, -ln q(token) + ln p(token) in nats, and ``KL``. ``teacher-forced`` and ``free-running`` are
    the share of tokens that are right with everything before them given, and in the model's own answer at the same
    place. ``clamped`` is the share of answers that come out right after the given part. The original model has 1 in the
    last two by construction: they are its own answers. Traces of one template count as one context.
    """
    traces, notes = _traces(session)
    notes[0] += " Kinds of tokens that occur in none of them have no row."
    if not traces:
        return {"rows": [], "data": {}, "examples": [], "notes": notes}
    forced, pieces, kinds = _forced(session, traces)
    free = _written_after(session, traces, pieces, 0.0)
    clamped = {share: _written_after(session, traces, pieces, share) if share else free for share in CLAMPED}
    kept = {
        arm.name: {trace.id: kept_pieces(pieces[trace.id], free[arm.name][trace.id]) for trace in traces}
        for arm in session.cuts
    }
    own = [trace for trace in traces if trace.task in OWN]
    rows = _forced_rows(session, own, forced, kinds, headline=True) + _forced_rows(session, traces, forced, kinds)
    clusters = [trace.cluster for trace in traces]
    ones = {session.uncut.name: [1.0] * len(traces)}
    running = ones | {arm.name: [_mean(kept[arm.name][trace.id]) for trace in traces] for arm in session.cuts}
    rows += rows_of(session, NAME, "free-running", running, clusters=clusters)
    for share, texts in clamped.items():
        right = ones | {
            arm.name: [float(trace.is_right(texts[arm.name][trace.id])) for trace in traces] for arm in session.cuts
        }
        rows += rows_of(session, NAME, "clamped", right, group=f"{share:.0%} given", clusters=clusters)
    return {
        "rows": rows,
        "data": {
            "places": {arm.name: _places(traces, forced[arm.name], kept[arm.name]) for arm in session.cuts},
            "first_wrong": {
                arm.name: _first_wrong(traces, pieces, kinds, free[arm.name], forced[arm.name]) for arm in session.cuts
            },
        },
        "examples": _examples(session, traces, pieces, free),
        "notes": notes,
    }


def teacher_forced(session: DiagnosticSession) -> Diagnosis:
    """The forced part of ``propagation``, which writes nothing: for many models, such as one without each layer.

    Measures: ``first choice`` by kind of token; and of all tokens ``teacher-forced``, ``in the top 10``, ``1 / rank``,
    ``extra loss`` and ``KL``. ``extra loss`` also by ``token_kinds``: a mean over all tokens hardly shows a layer that
    only few of them need.
    """
    traces, notes = _traces(session)
    rows: list[MeasureRow] = []
    if traces:
        forced, pieces, kinds = _forced(session, traces)
        own = [trace for trace in traces if trace.task in OWN]
        rows += _forced_rows(session, own, forced, kinds, headline=True)
        rows += _forced_rows(session, traces, forced, kinds, ("",))
        finer = {trace.id: token_kinds(pieces[trace.id]) for trace in traces}
        rows += _forced_rows(session, traces, forced, finer, TOKEN_KINDS, (EXTRA_LOSS,))
    return {"rows": rows, "data": {}, "examples": [], "notes": notes}


class _Forced(NamedTuple):
    answers: Answers
    pieces: dict[str, list[str]]  # the texts of the tokens, by trace
    kinds: dict[str, list[Kind]]


def _traces(session: DiagnosticSession) -> tuple[list[Trace], list[str]]:
    """The right answers to score, none where there is no pruned model; and the note on how many there are."""
    traces, asked = right_traces(session)
    return traces if session.cuts else [], [
        f"Right answers of the original model that were scored: {', '.join(asked)}."
    ]


def _forced(session: DiagnosticSession, traces: Sequence[Trace]) -> _Forced:
    answers = session.damages("propagation.forced", [trace.forced for trace in traces])
    uncut = answers[session.uncut.name]
    pieces = {trace.id: [token["text"] for token in uncut[trace.id]["tokens"]] for trace in traces}
    kinds = {trace.id: kinds_of(pieces[trace.id], answer=trace.answer, code=trace.is_code) for trace in traces}
    return _Forced(answers, pieces, kinds)


def damage(tokens: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Means over some tokens of one trace, each as TokenDamage has it.

    >>> damage([{"nll": 2.0, "reference_nll": 0.5, "kl": None, "rank": 4}])
    {'first choice': 0.0, 'in the top 10': 1.0, '1 / rank': 0.25, 'extra loss': 1.5, 'KL': None}
    """
    return {
        FIRST: _mean([token["rank"] == 1 for token in tokens]),
        f"in the top {TOP}": _mean([token["rank"] <= TOP for token in tokens]),
        RANK: _mean([1 / token["rank"] for token in tokens]),
        EXTRA_LOSS: _mean([token["nll"] - token["reference_nll"] for token in tokens]),
        "KL": None if any(token["kl"] is None for token in tokens) else _mean([token["kl"] for token in tokens]),
    }


def given(pieces: Sequence[str], share: float) -> str:
    """The first tokens of a trace, at least this share of them.

    >>> given([" 1", "2", "\\n"], 0.25), given([" 1", "2", "\\n"], 1.0)
    (' 1', ' 12\\n')
    """
    return "".join(pieces[: math.ceil(share * len(pieces))])


def _written_after(
    session: DiagnosticSession, traces: Sequence[Trace], pieces: dict[str, list[str]], share: float
) -> dict[str, dict[str, str]]:
    """Whole answers of the pruned models, by arm and item, whose first part was given."""
    starts = {trace.id: given(pieces[trace.id], share) for trace in traces}
    requests = [_begun(trace.request, starts[trace.id]) for trace in traces]
    written: Answers = session.completions(f"propagation.clamped_{round(100 * share)}", requests, session.cuts)
    return {
        arm.name: {trace.id: starts[trace.id] + written[arm.name][trace.id]["text"] for trace in traces}
        for arm in session.cuts
    }


def _begun(request: GenerationRequest, start: str) -> GenerationRequest:
    if not start:
        return request
    prompt = request.prompt
    begun: Prompt = prompt + start if isinstance(prompt, str) else (*prompt, Message("assistant", start))
    return replace(request, prompt=begun, begins="")


def _forced_rows(
    session: DiagnosticSession,
    traces: Sequence[Trace],
    forced: Answers,
    kinds: Mapping[str, Sequence[str]],
    groups: Sequence[str] = ("", *KINDS),
    measures: Sequence[str] = _MEASURES,
    *,
    headline: bool = False,
) -> list[MeasureRow]:
    """Rows by kind of token: the first choice alone for the headline, else the given measures."""
    rows: list[MeasureRow] = []
    for kind in KINDS if headline else groups:
        chosen = {trace.id: [i for i, found in enumerate(kinds[trace.id]) if kind in ("", found)] for trace in traces}
        having = [trace for trace in traces if chosen[trace.id]]
        means = {
            arm.name: [damage([forced[arm.name][t.id]["tokens"][i] for i in chosen[t.id]]) for t in having]
            for arm in session.arms
        }
        for measure in (FIRST,) if headline else measures:
            # A checkpoint has no KL.
            values = {
                name: [float(found[measure] or 0.0) for found in of_arm]
                for name, of_arm in means.items()
                if name == session.uncut.name or all(found[measure] is not None for found in of_arm)
            }
            loss = measure in (EXTRA_LOSS, "KL")
            name = measure if kind or measure != FIRST else "teacher-forced"
            rows += rows_of(
                session,
                NAME,
                f"{name} ({', '.join(OWN)})" if headline else name,
                values,
                group=kind,
                better="lower" if loss else "higher",
                unit="nats" if loss else "score" if measure == RANK else "share",
                clusters=[trace.cluster for trace in having],
                headline=headline,
            )
    return rows


def _places(
    traces: Sequence[Trace], forced: dict[str, Any], kept: dict[str, list[bool]]
) -> dict[str, list[float | None]]:
    """Share of right tokens in each part of the traces, the first to the last fifth."""
    right: list[list[float]] = [[] for _ in range(NUM_PLACES)]
    free: list[list[float]] = [[] for _ in range(NUM_PLACES)]
    for trace in traces:
        tokens = forced[trace.id]["tokens"]
        for index, token in enumerate(tokens):
            place = index * NUM_PLACES // len(tokens)
            right[place].append(float(token["rank"] == 1))
            free[place].append(float(kept[trace.id][index]))
    return {
        "teacher_forced": [_mean(found) if found else None for found in right],
        "free_running": [_mean(found) if found else None for found in free],
    }


def _first_wrong(
    traces: Sequence[Trace],
    pieces: dict[str, list[str]],
    kinds: dict[str, list[Kind]],
    written: dict[str, str],
    forced: dict[str, Any],
) -> dict[str, Any]:
    """Where answers first differ from the trace: kind and place of that token, and counts of traces."""
    wrong = {trace.id: first_wrong(pieces[trace.id], written[trace.id]) for trace in traces}
    parted = {id: index for id, index in wrong.items() if index is not None}
    return {
        "kinds": dict(Counter(kinds[id][index] for id, index in parted.items())),
        "of_kinds": dict(Counter(kind for trace in traces for kind in kinds[trace.id])),
        "traces": len(traces),
        "parted": len(parted),
        "at_first_token": sum(index == 0 for index in parted.values()),
        # Everything before this token is right, so it is wrong with the right prefix given too.
        "wrong_when_forced": sum(forced[id]["tokens"][index]["rank"] > 1 for id, index in parted.items()),
    }


def _examples(
    session: DiagnosticSession, traces: Sequence[Trace], pieces: dict[str, list[str]], free: dict[str, dict[str, str]]
) -> list[DiagnosisExample]:
    return [
        {
            "diagnostic": NAME,
            "arm": arm.name,
            "id": trace.id,
            "question": trace.question,
            "gold": trace.gold,
            "uncut": trace.text,
            "cut": free[arm.name][trace.id],
            "tokens": pieces[trace.id],
        }
        for arm in session.cuts
        for trace in traces
        if not trace.is_right(free[arm.name][trace.id])
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(map(float, values)) / len(values)
