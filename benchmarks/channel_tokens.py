"""Which tokens must count when MLP channels are ranked: divergence of thinner models on right answers, by what counted.

    python benchmarks/channel_tokens.py                                                # SmolLM2, copy: a minute
    python benchmarks/channel_tokens.py bundled:qwen2.5-coder-1.5b gsm8k --data data/gsm8k --dtype bfloat16 --limit 32

The original model answers selection items. Half of its right answers rank the channels, the other half measure the KL
divergence from the original model, nats a token. Counted are all tokens; all but the first; the answer's alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks
from benchmarks.right_answers import model_of, parser_of, right_answers
from layercut.engine.base import LikelihoodRequest
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import compared_scorings
from layercut.selection import channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_in

_whole = channels._activations


class Counted(tuple[int, ...]):
    """Tokens of which some count: those from ``start`` on."""

    start = 0


def _counted(loaded: Any, modules: Any, text: Any) -> Iterator[tuple[int, Any]]:
    for layer, states_TC in _whole(loaded, modules, tuple(text)):
        yield layer, states_TC[text.start :]


def main() -> None:
    parser = parser_of(__doc__, 60)
    parser.add_argument("--shares", default="0.1,0.2,0.3")
    parser.add_argument("--criteria", default="rms")
    parser.add_argument("--answers", default="", help="rank by the first so many answers alone: 4,8,16")
    parser.add_argument("--layers", default="", help="also measured without one of these layers: 6,9")
    asked = parser.parse_args()
    handle = model_of(asked, batch_size=16)
    requests = right_answers(handle, asked)
    half = len(requests) // 2
    ranking, judging = requests[:half], requests[half:]
    print(f"{asked.model}, {asked.task}: {half} right answers rank, {len(judging)} judge (seed 0)")
    uncut = CutPlan(num_layers=handle.num_layers)

    def show(name: str, plan: CutPlan) -> None:
        found = [one for _, batch in handle.engine.compare(judging, [plan], uncut) for one in batch]
        tokens = sum(one.num_tokens for one in found)
        kl, same = sum(one.kl for one in found) / tokens, 1 - sum(one.top1_disagreements for one in found) / tokens
        print(f"{name:44} KL {kl:.4f}, likeliest token the same {same:.3f} (n {tokens:,} tokens)", flush=True)

    for layer in filter(None, asked.layers.split(",")):
        show(f"without layer {layer}", CutPlan(num_layers=handle.num_layers, removed=(int(layer),)))
    numbers = [int(number) for number in asked.answers.split(",") if number]
    read = tokens_of(handle, ranking)
    chosen = {name: texts for name, texts in read.items() if not numbers or name == "all"}
    few = {f"{name}, {number} answers": texts[:number] for name, texts in chosen.items() for number in numbers}
    for name, texts in (few or chosen).items():
        for criterion in asked.criteria.split(","):
            started = time.perf_counter()
            ranked = channels.rank_channels(handle.loaded, (), {name: texts}, criterion=criterion)
            seconds = time.perf_counter() - started
            for share in map(float, asked.shares.split(",")):
                thin = channels.keep_most(mlp_width_in(handle.loaded.model), ranked, share)
                label = f"{name}, {criterion}, {thin.share:.1%} removed ({seconds:.0f} s)"
                show(label, CutPlan(num_layers=handle.num_layers, channels=thin))


def tokens_of(handle: ModelHandle, requests: list[LikelihoodRequest]) -> dict[str, list[Any]]:
    """By what counts, the prompts with their answers."""
    channels._activations = _counted
    rows = [item.rows[0] for item in compared_scorings(handle.loaded, requests)]
    starts = {
        "all": lambda row: 0,
        "all but first": lambda row: 1,
        "answers": lambda row: len(row.tokens) - row.num_scored,
    }
    found: dict[str, list[Any]] = {}
    for name, start in starts.items():
        for row in rows:
            text = Counted(row.tokens)
            text.start = start(row)
            found.setdefault(name, []).append(text)
    return found


if __name__ == "__main__":
    main()
