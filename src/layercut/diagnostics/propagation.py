"""Propagation: does damage occur at single tokens (teacher-forced), or grow along the answer (free-running alone)?

Scored are the original model's own right answers. Accumulated error: RAC, arXiv:2509.12464.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product

from layercut.diagnostics.session import Answers, DiagnosticSession, Record
from layercut.diagnostics.traces import KINDS, NAME, TOKEN_KINDS, Trace, kept_pieces, right_traces, token_kinds
from layercut.evidence.diagnosis import Diagnosis, MeasureRow

OWN = ("copy", "gsm_symbolic")
"""Tasks whose traces count as damage. Arithmetic and brackets have diagnostics of their own, so their traces only
explain: damage must not count twice.
"""
FIRST, EXTRA_LOSS, KL = "first choice", "extra loss", "KL"
MEASURES: dict[str, Callable[[Record], float]] = {
    FIRST: lambda token: token["rank"] == 1,
    EXTRA_LOSS: lambda token: token["nll"] - token["reference_nll"],
    KL: lambda token: token["kl"],
}
"""Measures of one token of a given answer, as TokenDamage has it; a row has their mean per trace. Losses in nats."""


def propagation(session: DiagnosticSession) -> Diagnosis:
    """Go along the original model's right answers with every pruned model; each measure is a mean per trace.

    Headlines count only traces that no other diagnostic asks for. Traces of one template count as one context.
    """
    traces, counts = right_traces(session)
    notes = [
        f"Right answers of the original model that were scored: {', '.join(counts)}. Kinds of tokens that occur in "
        "none of them have no row."
    ]
    if not (traces and session.cuts):
        return {"rows": [], "data": {}, "notes": notes}
    forced = session.damages("propagation.forced", [trace.forced for trace in traces])
    uncut = session.uncut.name
    pieces = {id: [token["text"] for token in record["tokens"]] for id, record in forced[uncut].items()}
    traces = [trace.of_pieces(pieces[trace.id]) for trace in traces]
    own = [trace for trace in traces if trace.task in OWN]
    finer = [replace(trace, kinds=token_kinds(trace.pieces)) for trace in traces]
    kept = {
        model.name: [kept_pieces(trace.pieces, trace.written[model.name]) for trace in traces]
        for model in session.models
    }
    clusters = [trace.cluster for trace in traces]
    running = {model: [_mean(of_trace) for of_trace in of_model] for model, of_model in kept.items()}
    return {
        "rows": [
            *(
                replace(row, metric=f"{FIRST} ({', '.join(OWN)})", headline=True)
                for row in _token_rows(session, own, forced, KINDS, (FIRST,))
            ),
            *_token_rows(session, traces, forced, ("", *KINDS), MEASURES),
            *(
                replace(row, metric=f"{EXTRA_LOSS} ({row.group})", group="")
                for row in _token_rows(session, finer, forced, TOKEN_KINDS, (EXTRA_LOSS,))
            ),
            *session.rows(NAME, "free-running", running, clusters=clusters),
        ],
        "data": {},
        "notes": notes,
    }


def _token_rows(
    session: DiagnosticSession, traces: Sequence[Trace], forced: Answers, groups: Sequence[str], names: Iterable[str]
) -> list[MeasureRow]:
    """Rows of measures by kind of token; the empty group has all tokens."""
    rows: list[MeasureRow] = []
    for group, name in product(groups, names):
        chosen = {trace.id: [i for i, kind in enumerate(trace.kinds) if group in ("", kind)] for trace in traces}
        having = [trace for trace in traces if chosen[trace.id]]
        values = {}
        for model, records in forced.items():
            tokens = [[records[trace.id]["tokens"][i] for i in chosen[trace.id]] for trace in having]
            if name != KL or all(token["kl"] is not None for of_trace in tokens for token in of_trace):
                values[model] = [_mean(map(MEASURES[name], of_trace)) for of_trace in tokens]
        rows += session.rows(
            NAME,
            "teacher-forced" if name == FIRST and not group else name,
            values,
            group=group,
            better="higher" if name == FIRST else "lower",
            unit="share" if name == FIRST else "nats",
            clusters=[trace.cluster for trace in having],
        )
    return rows


def _mean(values: Iterable[float]) -> float:
    numbers = list(map(float, values))
    return sum(numbers) / len(numbers)
