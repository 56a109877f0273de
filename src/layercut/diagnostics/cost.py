"""Cost: savings in parameters, bytes and KV cache, and the speedup of prefill and decoding.

Experiment E12 of arXiv:2602.01997, which recorded the time per decoded token. Speeds of one machine drift. So every
round runs all models one after the other, in an order that changes from round to round. Only the ratios to the original
model in the same round are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from layercut.diagnostics.session import DiagnosticSession, Record, SessionModel
from layercut.engine.timing import NUM_NEW_TOKENS, CheckpointTimer
from layercut.evidence.diagnosis import Diagnosis, MeasureRow, comparison_of
from layercut.evidence.intervals import Estimate

NAME = "cost"
BATCH_SIZES = (1, 4, 16)
NUM_PROMPT_TOKENS = 64
NUM_ROUNDS = 7
"""Timed rounds; one more before them warms caches up and is not counted."""


def cost(session: DiagnosticSession) -> Diagnosis:
    """Time all models one after the other, at several batch sizes.

    Measures, each the geometric mean over rounds of the ratio cut / uncut with a 95 % t-interval of its logarithm:
    ``prefill`` and ``decode`` tokens a second, ``time to first token``. Parameters, bytes of the weights and bytes of
    the KV cache per token are counted, not estimated.
    """
    timed = [arm for arm in session.arms if arm.model is not None]
    ids = [f"{size}.{number}" for size in BATCH_SIZES for number in range(NUM_ROUNDS + 1)]
    rounds = session.computed("cost.rounds", ids, lambda id: _round(timed, id, session.seed))
    rows: list[MeasureRow] = []
    for arm in session.cuts:
        for measure, better in (("decode", "higher"), ("prefill", "higher"), ("first_token", "lower")):
            for size in BATCH_SIZES:
                kept = [rounds[f"{size}.{number}"] for number in range(1, NUM_ROUNDS + 1)]
                if arm.name in kept[0]:
                    rows.append(_row(session, arm, measure, better, size, kept))
    first = rounds[f"{BATCH_SIZES[0]}.1"]
    counted = {
        arm.name: {
            "parameters": arm.num_parameters,
            "bytes": first[arm.name]["weight_bytes"],
            "cache_bytes_per_token": first[arm.name]["cache_bytes"] / (BATCH_SIZES[0] * NUM_PROMPT_TOKENS),
        }
        for arm in timed
    }
    notes = [
        f"{NUM_ROUNDS} rounds for each batch size, prompts of {NUM_PROMPT_TOKENS} random tokens, {NUM_NEW_TOKENS} new "
        f"tokens, transformers' own forward pass with its KV cache on {first['device']} in {first['dtype']} with "
        f"{first['threads']} threads. An engine with fused kernels gives different ratios."
    ]
    return {"rows": rows, "data": {"counted": counted}, "examples": [], "notes": notes}


def ratio(uncut: Sequence[float], cut: Sequence[float]) -> Estimate:
    """Geometric mean of cut / uncut over paired rounds, with a 95 % interval of Student's t of its logarithm.

    >>> [round(end, 2) for end in ratio([1.0, 2.0, 4.0], [2.0, 4.2, 7.8])[:3]]
    [2.02, 1.84, 2.21]
    """
    logs = np.log(np.asarray(cut) / np.asarray(uncut))
    n, mean = len(logs), float(logs.mean())
    if n < 2 or np.ptp(logs) == 0:
        return Estimate(math.exp(mean), None, None, n, "none")
    reach = float(student.ppf(0.975, n - 1) * logs.std(ddof=1) / math.sqrt(n))
    return Estimate(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), n, "t of logarithms")


def _round(timed: Sequence[SessionModel], id: str, seed: int) -> Record:
    size, number = map(int, id.split("."))
    turn = number % len(timed)
    record: Record = {}
    for arm in [*timed[turn:], *timed[:turn]]:
        assert arm.model is not None
        loaded = arm.model()
        timer = CheckpointTimer(loaded, arm.plan)
        found = timer(size, NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS, seed)
        record[arm.name] = {**found._asdict(), "weight_bytes": timer.weight_bytes}
    model = loaded.model
    metadata = {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
    return {**record, **metadata, "threads": torch.get_num_threads()}


def _row(
    session: DiagnosticSession, arm: SessionModel, measure: str, better: Any, size: int, rounds: Sequence[Record]
) -> MeasureRow:
    before, after = ([float(one[name][measure]) for one in rounds] for name in (session.uncut.name, arm.name))
    found = ratio(before, after)
    uncut, cut = (Estimate(float(np.median(values)), None, None, found.n, "none") for values in (before, after))
    return MeasureRow(
        diagnostic=NAME,
        metric={"first_token": "time to first token"}.get(measure, f"{measure} speed"),
        group=f"batch {size}",
        arm=arm.name,
        better=better,
        unit="ratio",
        chance=None,
        seed=session.seed,
        headline=False,
        values=comparison_of(uncut, cut, found),
    )
