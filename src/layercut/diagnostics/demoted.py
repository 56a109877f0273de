"""Demoted or erased: is the right answer still likely, but no longer the first choice?

A greedy answer shows the mode alone. ShortOPD (arXiv:2607.13124) finds that pass@1 of a pruned model collapses while
pass@k rebounds, and arXiv:2606.17609 that answers return with one more example. Here the same items are answered
greedily, sampled many times, ranked, scored token by token, and asked with one more worked example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from layercut.diagnostics.arithmetic import constant_share, expressions, is_right
from layercut.diagnostics.measures import rows_of
from layercut.diagnostics.session import DiagnosticSession
from layercut.engine.base import Decoding, GenerationRequest, LikelihoodRequest
from layercut.evidence.diagnosis import Diagnosis
from layercut.evidence.intervals import pass_at_k
from layercut.text.counting import counted

NAME = "demoted"
K = (1, 4, 16, 64)
TEMPERATURE = 0.8
LIKELIER = 4
"""How many times likelier than by guessing the right number of a demoted item is, at least. A model that knows nothing
of the result gives it the probability of a guess on average, so it passes on one item in four at most (Markov)."""


def demoted(session: DiagnosticSession) -> Diagnosis:
    """Ask the expressions of the arithmetic probe in every way that could bring a right answer back.

    Measures: ``greedy`` accuracy; ``pass@k`` from ``num_samples`` drawn answers at temperature 0.8, unbiased; ``above
    guessing``, the log-probability of the right number minus that of guessing its digits, in nats; ``gold rank``, the
    worst rank of any token of the right answer, given those before; ``one more example``, greedy with four examples
    instead of three. An item is lost if the original model's greedy answer is right and the pruned model's wrong. A
    lost item is *demoted* if the right number is at least ``LIKELIER`` times as likely as by guessing its digits, else
    *erased*.
    """
    task, longer = expressions(seed=session.seed), expressions(seed=session.seed, num_examples=4)
    samples = task.samples("report", session.limit)
    session.came(task.name, samples)
    requests = {s.id: cast("GenerationRequest", task.request(s, "short")) for s in samples}
    draws = [replace(r, id=f"{id}#{n}") for id, r in requests.items() for n in range(session.num_samples)]
    greedy = session.completions("demoted.greedy", list(requests.values()))
    drawn = session.completions("demoted.drawn", draws, decoding=Decoding(temperature=TEMPERATURE, seed=session.seed))
    helped = session.completions("demoted.helped", [longer.request(s, "short") for s in samples])  # type: ignore[misc]
    forced = session.damages(
        "demoted.forced",
        [LikelihoodRequest(id=s.id, prompt=requests[s.id].prompt, continuations=(f" {s.gold}\n",)) for s in samples],
    )
    names = [arm.name for arm in session.arms]
    first = {name: [float(is_right(task, s, greedy[name][s.id])) for s in samples] for name in names}
    more = {name: [float(is_right(task, s, helped[name][s.id])) for s in samples] for name in names}
    hits = {
        name: [sum(is_right(task, s, drawn[name][f"{s.id}#{n}"]) for n in range(session.num_samples)) for s in samples]
        for name in names
    }
    worst = {name: [max(t["rank"] for t in forced[name][s.id]["tokens"]) for s in samples] for name in names}
    chance = constant_share([s.gold for s in task.samples("report", None)])
    rows = [*rows_of(session, NAME, "greedy", first, chance=chance)]
    for k in K:
        if k <= session.num_samples:
            values = {name: [pass_at_k(session.num_samples, c, k) for c in hits[name]] for name in names}
            rows += rows_of(session, NAME, f"pass@{k}", values)
    rows += rows_of(session, NAME, "one more example", more, chance=chance)
    above = {name: [above_guessing(forced[name][s.id]["tokens"]) for s in samples] for name in names}
    rows += rows_of(session, NAME, "above guessing", above, unit="nats")
    rows += rows_of(
        session, NAME, "gold rank", {n: [float(r) for r in worst[n]] for n in names}, better="lower", unit="score"
    )
    verdicts = {}
    for arm in session.cuts:
        lost = [i for i in range(len(samples)) if first[session.uncut.name][i] > first[arm.name][i]]
        kept = [i for i in lost if above[arm.name][i] >= math.log(LIKELIER)]
        verdicts[arm.name] = {
            "lost": len(lost),
            "demoted": len(kept),
            "erased": len(lost) - len(kept),
            "times": math.exp(math.fsum(above[arm.name][i] for i in lost) / len(lost)) if lost else None,
            "drawn": sum(hits[arm.name][i] > 0 for i in lost),
            "guessed": math.fsum(_guessed(samples[i].gold, session.num_samples) for i in lost),
            "helped": sum(more[arm.name][i] > 0 for i in lost),
        }
    notes = [
        f"{counted(session.num_samples, 'answer')} sampled for each item at temperature {TEMPERATURE}, "
        f"seed {session.seed}."
    ]
    return {"rows": rows, "data": {"verdicts": verdicts}, "examples": [], "notes": notes}


def above_guessing(tokens: Sequence[Mapping[str, Any]]) -> float:
    """ln p of the digits of an answer, each token given those before, minus D ln(1/10) for its D digits.

    >>> round(above_guessing([{"text": " ", "nll": 0.1}, {"text": "7", "nll": 0.0}]), 2)
    2.3
    """
    numbers = [token for token in tokens if _num_digits(token["text"])]
    return sum(_num_digits(token["text"]) for token in numbers) * math.log(10) - math.fsum(
        token["nll"] for token in numbers
    )


def _guessed(gold: str, num_samples: int) -> float:
    """Probability that at least one of the samples is right, if each guesses the digits of the right answer."""
    return 1 - (1 - 10.0 ** -_num_digits(gold)) ** num_samples


def _num_digits(text: str) -> int:
    return sum(character.isdigit() for character in text)
