"""Which kind of token a plan loses: rise of -ln p on the original model's right answers, by kind, plan beside plan.

    python benchmarks/token_kinds.py bundled:smollm2-135m arithmetic 3,7 'runs/thin/plan.json'
    python benchmarks/token_kinds.py bundled:qwen2.5-coder-1.5b gsm8k 6,9,10 thin.json --data data/gsm8k

The original model answers selection items. Its right answers are read under each plan; nothing is written. `result` is
the number after an equals sign. Means over tokens with 95 % intervals (bootstrap over the answers, seed 0).
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks
from benchmarks.right_answers import model_of, parser_of, right_answers
from layercut.report.table import Column, Table, terminal
from layercut.selection.specs import plan_of
from layercut.selection.text_objective import TextObjective
from layercut.selection.token_kinds import KINDS, TokenKind, mean_rises
from layercut.text.numbers import two_decimals


def of_kind(kind: TokenKind, n: int) -> Column:
    return Column(f"{kind} (n {n:,})", lambda row: two_decimals(row[2][kind]), numeric=True)


def main() -> None:
    parser = parser_of(__doc__, 64)
    parser.add_argument("plans", nargs="+", help="as --remove takes them")
    asked = parser.parse_args()
    handle = model_of(asked, batch_size=64, cache_gib=8)
    plans = {text: plan_of(handle, text, 0) for text in asked.plans}
    requests = right_answers(handle, asked)
    text = TextObjective(handle.engine, requests, name="traces", measure="kl", by_kind=True)
    records = dict(zip(plans, text.records(list(plans.values())), strict=True))
    rows = [(name, text.means(plan), mean_rises(one["kinds"] for one in records[name])) for name, plan in plans.items()]
    counts = {kind: rows[0][2][kind].n for kind in KINDS if kind in rows[0][2]}
    table = Table(
        name="kinds",
        caption="Rise of -ln p, nats a token",
        columns=[
            Column("plan", lambda row: row[0]),
            Column("KL", lambda row: f"{row[1]['kl']:.3f}", numeric=True),
            Column("top-1 changed", lambda row: f"{100 * row[1]['top1']:.1f} %", numeric=True),
            *(of_kind(kind, n) for kind, n in counts.items()),
        ],
        rows=rows,
    )
    tokens = sum(one["num_tokens"] for one in next(iter(records.values())))
    print(f"{asked.model}, {asked.task}: {len(requests)} right answers, {tokens:,} tokens")
    Console(width=140).print(terminal(table))


if __name__ == "__main__":
    main()
