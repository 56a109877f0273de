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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, NamedTuple

from layercut.diagnostics.session import Answers, DiagnosticSession, Record, values_of
from layercut.diagnostics.traces import KINDS, TOKEN_KINDS, Trace, kept_pieces, right_traces, token_kinds
from layercut.engine.base import GenerationRequest, Message, Prompt
from layercut.evidence.diagnosis import Diagnosis, MeasureRow

NAME = "propagation"
OWN = ("copy", "gsm_symbolic")
"""Tasks whose traces count as damage. Arithmetic and brackets have diagnostics of their own, so their traces only
explain: damage must not count twice.
"""
CLAMPED = (0.0, 0.25, 0.5, 0.75, 1.0)


class TokenMeasure(NamedTuple):
    """A measure of one token of a given answer; a row has its mean per trace."""

    value: Callable[[Record], float]  # of a token as TokenDamage has it
    unit: Literal["share", "nats", "score"] = "share"


FIRST, EXTRA_LOSS, KL = "first choice", "extra loss", "KL"
MEASURES = {
    FIRST: TokenMeasure(lambda token: token["rank"] == 1),
    "in the top 10": TokenMeasure(lambda token: token["rank"] <= 10),
    "1 / rank": TokenMeasure(lambda token: 1 / token["rank"], "score"),
    EXTRA_LOSS: TokenMeasure(lambda token: token["nll"] - token["reference_nll"], "nats"),
    KL: TokenMeasure(lambda token: token["kl"], "nats"),
}


def propagation(session: DiagnosticSession) -> Diagnosis:
    """Go along the original model's right answers with every pruned model.

    Measures, each a mean per trace, by kind of token: ``first choice``, the trace's token is the likeliest (the
    headline counts only traces that no other diagnostic asks for); ``in the top 10`` and ``1 / rank`` of the trace's
    token; ``extra loss``, -ln q(token) + ln p(token) in nats, and ``KL``. ``teacher-forced`` and ``free-running`` are
    the share of tokens that are right with everything before them given, and in the model's own answer at the same
    place. ``clamped`` is the share of answers that come out right after the given part. The original model has 1 in the
    last two by construction: they are its own answers. Traces of one template count as one context.
    """
    traces, forced, note = _scored_traces(session)
    notes = [f"{note} Kinds of tokens that occur in none of them have no row."]
    if not traces:
        return {"rows": [], "data": {}, "examples": [], "notes": notes}
    written = {share: _written_after(session, traces, share) for share in CLAMPED}
    free = written[0.0]
    kept = {
        model: {trace.id: kept_pieces(trace.pieces, texts[trace.id]["text"]) for trace in traces}
        for model, texts in free.items()
    }
    clusters = [trace.cluster for trace in traces]
    ones = {session.uncut.name: [1.0] * len(traces)}
    running = {model: [_mean(of_model[trace.id]) for trace in traces] for model, of_model in kept.items()}
    right = {
        share: ones | values_of(answers, traces, lambda trace, record: trace.is_right(record["text"]))
        for share, answers in written.items()
    }
    own = {session.uncut.name: {trace.id: {"text": trace.text} for trace in traces}}
    items = [(trace.id, trace.question, trace.gold) for trace in traces]
    pieces = {trace.id: trace.pieces for trace in traces}
    return {
        "rows": [
            *_headlines(session, traces, forced),
            *_token_rows(session, traces, forced, ("", *KINDS), MEASURES),
            *session.rows(NAME, "free-running", ones | running, clusters=clusters),
            *(
                row
                for share, values in right.items()
                for row in session.rows(NAME, "clamped", values, group=f"{share:.0%} given", clusters=clusters)
            ),
        ],
        "data": {
            "first_wrong": {model: _first_wrong(traces, of_model, forced[model]) for model, of_model in kept.items()},
        },
        "examples": session.examples(NAME, items, {**own, **free}, right[0.0], pieces),
        "notes": notes,
    }


def teacher_forced(session: DiagnosticSession) -> Diagnosis:
    """The forced part of ``propagation``, which writes nothing: for many models.

    Measures: ``first choice`` by kind of token; and of all tokens ``teacher-forced``, ``in the top 10``, ``1 / rank``,
    ``extra loss`` and ``KL``. ``extra loss`` also by ``token_kinds``: a mean over all tokens hardly shows a layer that
    only few of them need.
    """
    traces, forced, note = _scored_traces(session)
    rows: list[MeasureRow] = []
    if traces:
        finer = [replace(trace, kinds=token_kinds(trace.pieces)) for trace in traces]
        rows += _headlines(session, traces, forced)
        rows += _token_rows(session, traces, forced, ("",), MEASURES)
        rows += _token_rows(session, finer, forced, TOKEN_KINDS, (EXTRA_LOSS,))
    return {"rows": rows, "data": {}, "examples": [], "notes": [note]}


def _scored_traces(session: DiagnosticSession) -> tuple[list[Trace], Answers, str]:
    """The right answers with their tokens, none where there is no pruned model; the damage at every token; and a note
    on how many there are.
    """
    traces, counts = right_traces(session)
    note = f"Right answers of the original model that were scored: {', '.join(counts)}."
    if not (traces and session.cuts):
        return [], {}, note
    forced = session.damages("propagation.forced", [trace.forced for trace in traces])
    uncut = forced[session.uncut.name]
    return [trace.of_pieces([token["text"] for token in uncut[trace.id]["tokens"]]) for trace in traces], forced, note


def _written_after(session: DiagnosticSession, traces: Sequence[Trace], share: float) -> Answers:
    """Whole answers of the pruned models; the first tokens were given, at least this share of them."""
    starts = {trace.id: "".join(trace.pieces[: math.ceil(share * len(trace.pieces))]) for trace in traces}
    requests = [_begun(trace.request, starts[trace.id]) for trace in traces]
    written = session.ask(f"propagation.clamped_{round(100 * share)}", requests, session.cuts)
    return {
        model: {id: {"text": starts[id] + record["text"]} for id, record in records.items()}
        for model, records in written.items()
    }


def _begun(request: GenerationRequest, start: str) -> GenerationRequest:
    if not start:
        return request
    prompt = request.prompt
    begun: Prompt = prompt + start if isinstance(prompt, str) else (*prompt, Message("assistant", start))
    return replace(request, prompt=begun, begins="")


def _headlines(session: DiagnosticSession, traces: Sequence[Trace], forced: Answers) -> list[MeasureRow]:
    """First choices by kind of token, in traces that no other diagnostic asks for."""
    own = [trace for trace in traces if trace.task in OWN]
    name = f"{FIRST} ({', '.join(OWN)})"
    return [replace(row, metric=name, headline=True) for row in _token_rows(session, own, forced, KINDS, (FIRST,))]


def _token_rows(
    session: DiagnosticSession, traces: Sequence[Trace], forced: Answers, groups: Sequence[str], names: Iterable[str]
) -> list[MeasureRow]:
    """Rows of measures by kind of token; the empty group has all tokens."""
    rows: list[MeasureRow] = []
    for group, name in product(groups, names):
        value, unit = MEASURES[name]
        chosen = {trace.id: [i for i, kind in enumerate(trace.kinds) if group in ("", kind)] for trace in traces}
        having = [trace for trace in traces if chosen[trace.id]]
        values = {}
        for model, records in forced.items():
            tokens = [[records[trace.id]["tokens"][i] for i in chosen[trace.id]] for trace in having]
            if name != KL or all(token["kl"] is not None for of_trace in tokens for token in of_trace):
                values[model] = [_mean([value(token) for token in of_trace]) for of_trace in tokens]
        rows += session.rows(
            NAME,
            "teacher-forced" if name == FIRST and not group else name,
            values,
            group=group,
            better="lower" if unit == "nats" else "higher",
            unit=unit,
            clusters=[trace.cluster for trace in having],
        )
    return rows


def _first_wrong(
    traces: Sequence[Trace], kept: Mapping[str, Sequence[bool]], forced: Mapping[str, Record]
) -> dict[str, Any]:
    """Where answers first differ from the trace: kind and place of that token, and counts of traces."""
    kinds = {trace.id: trace.kinds for trace in traces}
    wrong = {id: of_trace.index(False) for id, of_trace in kept.items() if False in of_trace}
    return {
        "kinds": dict(Counter(kinds[id][index] for id, index in wrong.items())),
        "of_kinds": dict(Counter(kind for of_trace in kinds.values() for kind in of_trace)),
        "traces": len(kept),
        "parted": len(wrong),
        "at_first_token": sum(index == 0 for index in wrong.values()),
        # Everything before this token is right, so it is wrong with the right prefix given too.
        "wrong_when_forced": sum(forced[id]["tokens"][index]["rank"] > 1 for id, index in wrong.items()),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(map(float, values)) / len(values)
