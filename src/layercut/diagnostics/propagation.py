"""Propagation: does damage occur at single tokens (teacher-forced), or grow along the answer (free-running alone)?

Scored are the original model's own right answers, its traces, token by token and by kind of token. Accumulated error:
RAC, arXiv:2509.12464.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from layercut.diagnostics.brackets import classed_programs
from layercut.diagnostics.session import Answers, DiagnosticSession, Record
from layercut.engine.base import LikelihoodRequest, Prompt
from layercut.errors import InputError
from layercut.evidence.diagnosis import Diagnosis, MeasureRow
from layercut.evidence.program_classes import FINE
from layercut.tasks import load_task
from layercut.tasks.base import Readout

NAME = "propagation"  # of the diagnostic
TASKS: tuple[tuple[str, Readout], ...] = (
    ("arithmetic", "short"), ("brackets", "short"), ("copy", "short"), ("gsm_symbolic", "chain"),
)  # fmt: skip
PROGRAMS = "programs"
KINDS = ("answer", "digit", "operator", "bracket", "keyword", "other")
TOKEN_KINDS = ("result", "other digit", "closing bracket", "all else")
"""Kinds whose damage tells what a layer is needed for."""
_RESULT = re.compile(r"=\s*(?:\\?\$)?\s*(\d[\d,.]*)")
_SIGNS = {**dict.fromkeys("+-*/=<>%^×÷−", "operator"), **dict.fromkeys("()[]{}", "bracket")}
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


# Traces, and the kinds of their tokens


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One right answer of the original model, and what all models write in its place."""

    task: str
    id: str
    gold: str  # empty where more than one answer is right
    cluster: str  # the context that it shares with other items, or itself
    prompt: Prompt
    text: str  # the original model's answer
    written: Mapping[str, str]  # by model
    is_chain: bool = False
    is_code: bool = False
    pieces: list[str] = field(default_factory=list)  # the texts of its tokens
    kinds: Sequence[str] = ()  # of its tokens

    @property
    def forced(self) -> LikelihoodRequest:
        """The prompt with the answer given."""
        return LikelihoodRequest(id=self.id, prompt=self.prompt, continuations=(self.text,))

    def of_pieces(self, pieces: list[str]) -> Trace:
        """The same with its tokens. In a short answer, the tokens of the final answer keep their own kinds."""
        start = self.text.rfind(self.gold) if self.is_chain else -1
        answer = None if start < 0 else (start, start + len(self.gold))
        return replace(self, pieces=pieces, kinds=kinds_of(pieces, answer=answer, code=self.is_code))


def right_traces(session: DiagnosticSession) -> tuple[list[Trace], list[str]]:
    """The original model's right answers, and for each task how many it has right; one that it cannot be asked is
    skipped and named.
    """
    uncut = session.uncut.name
    traces: list[Trace] = []
    counts: list[str] = []
    for name, readout in TASKS:
        task, question = load_task(name, seed=session.seed), f"{NAME}.{name}"
        try:
            asked = session.grade(question, task, readout, [session.uncut])
        except InputError as error:
            counts.append(f"{name} left out ({str(error).rstrip('.')})")
            continue
        right = [sample for sample, is_hit in zip(asked.samples, asked.right[uncut], strict=True) if is_hit]
        graded = session.grade(question, task, readout, samples=right)
        traces += [
            Trace(
                task=name,
                id=sample.id,
                gold=sample.gold,
                cluster=str(sample.data.get("cluster", sample.id)),
                prompt=graded.requests[place].prompt,
                text=graded.texts[uncut][place],
                written={model: texts[place] for model, texts in graded.texts.items()},
                is_chain=readout == "chain",
            )
            for place, sample in enumerate(right)
        ]
        counts.append(f"{name} {len(right)} of {len(asked.samples)}")
    # The question of the bracket diagnostic, so that its answers are used again.
    programs = classed_programs(session)
    of_code = [
        Trace(
            task=PROGRAMS,
            id=function.id,
            gold="",
            cluster=function.name.rpartition("_")[0],
            prompt=function.request.prompt,
            text=programs.texts[uncut][place],
            written={model: texts[place] for model, texts in programs.texts.items()},
            is_code=True,
        )
        for place, function in enumerate(programs.functions)
        if programs.classes[uncut][place] in FINE
    ]
    return [*traces, *of_code], [*counts, f"{PROGRAMS} {len(of_code)} of {len(programs.functions)}"]


def kinds_of(pieces: Sequence[str], *, answer: tuple[int, int] | None = None, code: bool = False) -> list[str]:
    """The kind of every token of a text, whose final answer has these characters; keywords are in ``code`` only.

    >>> kinds_of([" 3", " *", " (", "6", ")", " is", " 18"], answer=(12, 15))
    ['digit', 'operator', 'bracket', 'digit', 'bracket', 'other', 'answer']
    """
    kinds = []
    for bare, begin, end in _bare_pieces(pieces):
        if answer is not None and bare and begin < answer[1] and end > answer[0]:
            kinds.append("answer")
        elif bare[:1].isdigit():
            kinds.append("digit")
        elif bare[:1] in _SIGNS:
            kinds.append(_SIGNS[bare[:1]])
        else:
            kinds.append("keyword" if code and keyword.iskeyword(bare) else "other")
    return kinds


def token_kinds(pieces: Sequence[str]) -> list[str]:
    r"""What a layer may be needed for, of each token; a result is the number behind an equals sign.

    >>> token_kinds(["15", " +", " 2", " =", " ", "1", "7", "}"])
    ['other digit', 'all else', 'other digit', 'all else', 'all else', 'result', 'result', 'closing bracket']
    """
    results = [match.span(1) for match in _RESULT.finditer("".join(pieces))]
    kinds = []
    for bare, begin, end in _bare_pieces(pieces):
        if bare[:1].isdigit():
            is_result = any(begin < last and end > first for first, last in results)
            kinds.append("result" if is_result else "other digit")
        else:
            kinds.append("closing bracket" if set(bare) & set(")]}") else "all else")
    return kinds


def _bare_pieces(pieces: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Each token without white space around it, and where it begins and ends in the text."""
    start = 0
    for piece in pieces:
        begin = start + len(piece) - len(piece.lstrip())
        yield piece.strip(), begin, begin + len(piece.strip())
        start += len(piece)


def kept_pieces(pieces: Sequence[str], text: str) -> list[bool]:
    """For every piece of one text, whether another text has the same characters at the same place.

    >>> kept_pieces([" 1", "2", "\\n"], " 17\\n")
    [True, False, True]
    """
    kept, start = [], 0
    for piece in pieces:
        kept.append(text[start : start + len(piece)] == piece)
        start += len(piece)
    return kept
