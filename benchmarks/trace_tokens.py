"""Which damage to the original model's right answers tells what a model still solves without a layer?

    layercut sweep MODEL --objective gsm8k --data gsm8k=data/gsm8k --limit 32 --out runs/layers
    python benchmarks/trace_tokens.py runs/layers --task gsm8k --data data/gsm8k --out runs/tokens.jsonl

The right answers of the original model in the sweep are read without each layer, and what is found at each token is
kept in --out; the same command goes on where it was stopped. Printed: for some summaries of the damage, Spearman's rho
with the share that the sweep's items keep without each layer (Fisher's z, 95 %), and the values by layer. A token is
sure where the original model gives it a probability of at least 0.9. Then, by layer and kind of token, how far -ln p
rises: digits behind an equals sign (results), other digits, closing brackets, and the rest; means over tokens, with
95 % intervals of a bootstrap over answers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from layercut.engine.base import Divergence, LikelihoodRequest
from layercut.engine.divergence import SURE
from layercut.engine.handle import ModelHandle
from layercut.evidence.correlation import rank_correlation
from layercut.progress.bars import watched
from layercut.runs.records import Journal, read_records
from layercut.runs.settings import read_json
from layercut.selection.token_kinds import mean_rises, rises
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan, parse_layers
from layercut.tasks import load_task
from layercut.text.numbers import two_decimals

Trace = Sequence[Sequence[float]]
"""Of each token: -ln p without the layer, -ln p of the original model, KL, and its rank without the layer."""


def _mean(value: Callable[[Sequence[float]], float]) -> Callable[[Sequence[Trace]], float]:
    """A mean over all tokens of all traces."""
    return lambda traces: sum(value(token) for trace in traces for token in trace) / sum(map(len, traces))


def _sure(token: Sequence[float]) -> bool:
    return token[1] <= -math.log(SURE)


SUMMARIES: Mapping[str, Callable[[Sequence[Trace]], float]] = {
    "KL, mean of tokens": _mean(lambda token: token[2]),
    "rise of -ln p, mean of tokens": _mean(lambda token: token[0] - token[1]),
    "share of tokens no longer likeliest": _mean(lambda token: token[3] > 1),
    "share of tokens sure before, no longer likeliest": _mean(lambda token: _sure(token) and token[3] > 1),
    "rise of -ln p of sure tokens, mean of tokens": _mean(lambda token: (token[0] - token[1]) if _sure(token) else 0),
    "largest rise of -ln p, mean of answers": lambda traces: (
        sum(max(token[0] - token[1] for token in trace) for trace in traces) / len(traces)
    ),
    "share of answers with a changed token": lambda traces: (
        sum(any(token[3] > 1 for token in trace) for trace in traces) / len(traces)
    ),
    "share of answers with a changed sure token": lambda traces: (
        sum(any(_sure(token) and token[3] > 1 for token in trace) for trace in traces) / len(traces)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the folder of a finished sweep")
    parser.add_argument("--task", required=True)
    parser.add_argument("--readout", default="chain")
    parser.add_argument("--data", help="local data of the task")
    parser.add_argument("--traces", type=int, default=1000, help="most right answers that are read")
    parser.add_argument("--layers", type=parse_layers, help="0-9,20: those that are skipped; all if left out")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    swept: dict[str, Any] = read_json(options.sweep / "sweep.json", "no sweep can be read")
    found = _read(options, swept)
    kept = {layer: share for layer, share in _kept(swept, options.task, options.readout).items() if layer in found}
    print("| summary of the damage | Spearman's rho with what the sweep keeps |")
    print("|---|---:|")
    values = {name: [-summary(list(found[layer].values())) for layer in kept] for name, summary in SUMMARIES.items()}
    for name, by_layer in values.items():
        rho = rank_correlation(by_layer, list(kept.values())).estimate
        print(f"| {name} | {'n/a' if rho is None else two_decimals(rho)} |")
    print(f"\n{len(kept)} layers, {len(next(iter(found.values())))} answers, {_count(found)} tokens\n")
    print("| layer | kept | " + " | ".join(SUMMARIES) + " |")
    print("|---:" * (len(SUMMARIES) + 2) + "|")
    for place, (layer, share) in enumerate(kept.items()):
        print(f"| {layer} | {share:.2f} | " + " | ".join(f"{-values[name][place]:.4f}" for name in SUMMARIES) + " |")
    _print_kinds(options.out, kept)


def _print_kinds(out: Path, kept: Mapping[int, float]) -> None:
    """The rise of -ln p of each kind of token, by layer."""
    found: dict[int, list[Any]] = {}
    for record in read_records(out):
        of_tokens = [nll - before for nll, before, *_ in record["tokens"]]
        found.setdefault(record["layer"], []).append(rises(record["text"], of_tokens))
    rows = {layer: mean_rises(found[layer]) for layer in kept}
    counts = [f"{kind} (n {rise.n})" for kind, rise in next(iter(rows.values())).items()]
    print(f"\n| layer | kept | {' | '.join(counts)} |\n" + "|---:" * (len(counts) + 2) + "|")
    for layer, by_kind in rows.items():
        cells = [two_decimals(rise) for rise in by_kind.values()]
        print(f"| {layer} | {kept[layer]:.2f} | {' | '.join(cells)} |")


def _count(found: Mapping[int, Mapping[str, Trace]]) -> int:
    return sum(map(len, next(iter(found.values())).values()))


def _kept(swept: Mapping[str, Any], task: str, readout: str) -> dict[int, float]:
    """The score without each layer."""
    rows = [row for row in swept["rows"] if (row["task"], row["readout"]) == (task, readout)]
    return {row["layer"]: row["cut"]["value"] for row in sorted(rows, key=lambda row: row["layer"])}


def _read(options: argparse.Namespace, swept: Mapping[str, Any]) -> dict[int, dict[str, Trace]]:
    """What is found at each token, by layer and item; measured where the file does not hold it."""
    records = read_records(options.sweep / "samples" / f"{options.task}.{options.readout}.jsonl")
    right = [one for one in records if not one["key"]["removed"] and one["outcome"] == "right"][: options.traces]
    task = load_task(options.task, data=options.data)
    samples = {sample.id: sample for sample in task.samples("selection", None)}
    requests = [
        LikelihoodRequest(
            id=one["id"],
            prompt=task.request(samples[one["id"]], options.readout).prompt,
            continuations=(one["completion"],),
            by_token=True,
        )
        for one in right
    ]
    with Journal(options.out) as journal:
        done = {(one["layer"], one["item"]) for one in journal.records}
        settings = ModelSettings(model=swept["model"], dtype=options.dtype, batch_size=options.batch_size)
        handle = ModelHandle(settings)
        num_layers = handle.num_layers
        layers = options.layers or range(num_layers)
        plans = [CutPlan(num_layers=num_layers, removed=(layer,)) for layer in layers]
        total = len(plans) * len(requests)
        with watched("Reading", total, Console(stderr=True), "answers") as on_progress:
            known = sum(layer in layers for layer, _ in done)
            on_progress(known, total)
            asked: Iterable[tuple[CutPlan, Sequence[Divergence]]] = ()
            if known < total:
                asked = handle.engine.divergences_under(
                    requests,
                    plans,
                    CutPlan(num_layers=num_layers),
                    lambda plan, item: (plan.removed[0], item) not in done,
                )
            for plan, batch in asked:
                layer = plan.removed[0]
                fresh = [
                    {
                        "id": f"{layer} {one.id}",
                        "layer": layer,
                        "item": one.id,
                        "text": [token.text for token in one.tokens],
                        "tokens": [[token.nll, token.reference_nll, token.kl, token.rank] for token in one.tokens],
                    }
                    for one in batch
                    if (layer, one.id) not in done
                ]
                journal.append(fresh)
                known += len(fresh)
                on_progress(known, total)
        found: dict[int, dict[str, Trace]] = {}
        for record in journal.records:
            if record["layer"] in layers:
                found.setdefault(record["layer"], {})[record["item"]] = record["tokens"]
    return found


if __name__ == "__main__":
    main()
