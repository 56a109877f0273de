"""Numbers of docs/experiments/qwen.md that no command prints, counted in its raw samples; no model is loaded.

python benchmarks/qwen_samples.py
python benchmarks/qwen_samples.py --samples docs/experiments/qwen/samples.tar.xz --seed 0
"""

from __future__ import annotations

import argparse
import json
import random
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from layercut.evidence.paired import compare_paired
from layercut.evidence.sweep import rank_correlation
from layercut.text import p_value, two_decimals, with_interval

SAMPLES = Path(__file__).parents[1] / "docs" / "experiments" / "qwen" / "samples.tar.xz"
BRACKETS = {"mismatched", "never_closed", "unmatched"}
Record = dict[str, Any]
Records = dict[str, list[Record]]
"""By the file's place in the archive, without its first folder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, default=SAMPLES)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = read(asked.samples)
    programs(found)
    skipped_layers(found)
    single_layers(found, asked.seed)
    few_traces(found, asked.draws, asked.seed)
    race(found)


def read(samples: Path) -> Records:
    with tarfile.open(samples) as archive:
        return {
            member.name.partition("/")[2]: [json.loads(line) for line in opened]
            for member in archive
            if member.isfile() and (opened := archive.extractfile(member))
        }


def programs(found: Records) -> None:
    """Failures of HumanEval+ and MBPP+ by class."""
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    for record in found["sweep/humaneval_plus.chain.jsonl"]:
        classes[f"sweep, layer {','.join(map(str, record['key']['removed'])) or 'none'}"][record["program"]] += 1
    for name in sorted(found):
        if name.startswith(("code/", "mbpp/")):
            classes[name.removesuffix(".chain.jsonl")].update(record["program"] for record in found[name])
    title("Programs", "model", "n", "passed", "no code", "bracket error", "wrong answer")
    for name, count in classes.items():
        brackets = sum(count[one] for one in BRACKETS)
        row(name, count.total(), count["passed"], count["no_code"], brackets, count["wrong_answer"])


def skipped_layers(found: Records) -> None:
    """Rank correlations of what the tasks of the sweep keep without each layer."""
    metric = {"gsm8k.chain": "boxed", "humaneval_plus.chain": "pass", "arc_easy.rank": "acc"}
    scores = {name: by_layer(found[f"sweep/{name}.jsonl"], metric[name]) for name in metric}
    title("Rank correlation over the skipped layers", "task", "with", "layers", "Spearman's rho")
    for first, second in (("gsm8k.chain", "arc_easy.rank"), ("gsm8k.chain", "humaneval_plus.chain")):
        layers = sorted(scores[first].keys() & scores[second].keys())
        rho = rank_correlation([scores[first][one] for one in layers], [scores[second][one] for one in layers])
        assert rho.estimate is not None, rho.refused
        row(first, second, len(layers), two_decimals(rho.estimate))


def by_layer(records: list[Record], metric: str) -> dict[int, float]:
    scores: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if len(record["key"]["removed"]) == 1:
            scores[record["key"]["removed"][0]].append(record["metrics"][metric])
    return {layer: sum(values) / len(values) for layer, values in scores.items()}


def single_layers(found: Records, seed: int) -> None:
    """GSM8K without one layer or two, item by item."""
    answers = {
        "15": "prune/depth-1",
        "10": "without-10/gsm8k",
        "5": "without-5/gsm8k",
        "5 and 8": "without-5-8/gsm8k",
    }
    scored = {}
    for name, file in answers.items():
        (place,) = [one for one in found if one.startswith(file)]
        scored[name] = {record["id"]: record["metrics"]["boxed"] for record in found[place]}
    title("GSM8K, two models on the same items", "without", "and without", "n", "points", "lost", "gained", "p")
    for first, second in (("15", "5"), ("10", "5"), ("5", "5 and 8")):
        ids = [one for one in scored[first] if one in scored[second]]
        pair = compare_paired(
            [scored[first][one] for one in ids], [scored[second][one] for one in ids], chance=None, seed=seed
        )
        row(
            first,
            second,
            len(ids),
            with_interval(pair.difference, sign=True),
            pair.lost,
            pair.gained,
            p_value(pair.p_value),
        )


def traces(records: list[Record], num_removed: int) -> tuple[list[list[float]], list[int]]:
    """KL of each plan that removes this many layers and was read on all answers, and the answers' tokens."""
    kl: dict[tuple[int, ...], dict[str, float]] = defaultdict(dict)
    tokens = {}
    for record in records:
        kl[tuple(sorted(record["key"]["removed"]))][record["id"]] = record["kl"]
        tokens[record["id"]] = record["num_tokens"]
    ids = list(tokens)
    plans = [plan for plan, of in kl.items() if len(plan) == num_removed and len(of) == len(ids)]
    return [[kl[plan][one] for one in ids] for plan in plans], [tokens[one] for one in ids]


def few_traces(found: Records, draws: int, seed: int) -> None:
    """How often the plan with the least trace damage on all answers is proposed by a few of them."""
    title(
        f"Trace damage by a few answers, {draws} draws",
        "samples",
        "plans",
        "answers",
        "read",
        "best is first",
        "in 4",
        "of 4",
    )
    for name in ("sweep", "select-7"):
        kl, tokens = traces(found[f"{name}/traces.divergence.jsonl"], 1)
        everything = order(kl, tokens, range(len(tokens)))
        drawn = random.Random(seed)
        for count in (1, 2, 4, 8):
            if count < len(tokens):
                orders = [order(kl, tokens, drawn.sample(range(len(tokens)), count)) for _ in range(draws)]
                first = sum(one[0] == everything[0] for one in orders) / draws
                in_4 = sum(everything[0] in one[:4] for one in orders) / draws
                shared = sum(len({*one[:4]} & {*everything[:4]}) for one in orders) / draws
                row(name, len(kl), len(tokens), count, f"{first:.0%}", f"{in_4:.0%}", f"{shared:.1f}")


def order(kl: list[list[float]], tokens: list[int], texts: Any) -> list[int]:
    num_tokens = sum(tokens[text] for text in texts)
    return sorted(range(len(kl)), key=lambda plan: sum(kl[plan][text] for text in texts) / num_tokens)


def race(found: Records) -> None:
    """Share of the tokens that an exact race would read: answer by answer, the plan with the least sum first."""
    title("An exact race on trace damage", "samples", "layers removed", "plans", "for the best", "for the best 4")
    for name in ("sweep", "select-7"):
        records = found[f"{name}/traces.divergence.jsonl"]
        for num_removed in range(1, 8):
            kl, tokens = traces(records, num_removed)
            if len(kl) > 4:
                row(name, num_removed, len(kl), *(f"{raced(kl, tokens, keep):.0%}" for keep in (1, 4)))


def raced(kl: list[list[float]], tokens: list[int], keep: int) -> float:
    done, sums = [1] * len(kl), [plan[0] for plan in kl]
    while True:
        whole = sorted(sums[plan] for plan in range(len(kl)) if done[plan] == len(tokens))
        limit = whole[keep - 1] if len(whole) >= keep else float("inf")
        running = [plan for plan in range(len(kl)) if done[plan] < len(tokens) and sums[plan] <= limit]
        if not running:
            return sum(sum(tokens[:count]) for count in done) / (len(kl) * sum(tokens))
        least = min(running, key=sums.__getitem__)
        sums[least] += kl[least][done[least]]
        done[least] += 1


def title(text: str, *head: str) -> None:
    print(f"\n## {text}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
