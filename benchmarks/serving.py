"""Seconds of requests under plans, by turns with the original model: where does pruning win, and in which engine?

    python benchmarks/serving.py                                # SmolLM2: four layers, and 29 % of the channels
    python benchmarks/serving.py bundled:qwen2.5-coder-1.5b --remove 6,9,10 --remove plan.json --dtype bfloat16 \
        --serve laptop --serve prompt=2000,new=32 --serve batch=16,prompt=100,new=100 --serve laptop,engine=llama.cpp

Prints for each profile a line for each plan: bytes; seconds of a request and of its first token, as shares of the
original model's; tokens a second in decoding, the same; with 95 % intervals over rounds in which all models run. A plan
names layers, MLP channels (``mlp:0.5`` keeps the first ones: which ones go does not change the time) or a file. Pruned
GGUF files have their last matrices quantised again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from layercut.engine.handle import ModelHandle
from layercut.progress import silent
from layercut.pruning.settings import Profile
from layercut.pruning.speed import speeds, timed_rounds, timer_of
from layercut.runs.prune import Estimated
from layercut.selection.specs import LayerSpec
from layercut.settings import UNCUT, ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_in


def plan_of(model: ModelHandle, text: str) -> CutPlan:
    """The plan that a text names; of a share of the channels, the first ones stay."""
    wanted = LayerSpec.parse(text)
    if wanted.mlp is None:
        return wanted.bind(num_layers=model.num_layers)
    mlp = mlp_width_in(model.loaded.model)
    channels = mlp.first_channels(mlp.num_kept(wanted.mlp))
    return CutPlan(num_layers=model.num_layers, removed=wanted.layers or (), channels=channels)


def shown(found: Estimated) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="bundled:smollm2-135m")
    parser.add_argument("--remove", action="append")
    parser.add_argument("--serve", action="append")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    model = ModelHandle(ModelSettings(model=asked.model, dtype=asked.dtype))
    plans = {text: plan_of(model, text) for text in asked.remove or ("10,12,25,26", "mlp:0.292")}
    head = "| served | removed | bytes | request, s | first token, s | decoding, tokens/s |"
    print(f"{head}\n|---|---|---:|---|---|---|", flush=True)
    for serve in asked.serve or ("laptop,new=100", "laptop,new=100,engine=llama.cpp"):
        profile = Profile.parse(serve)
        whole = timer_of(model, profile=profile)
        timers = {text: timer_of(model, plan, profile) for text, plan in plans.items()}
        timed = timed_rounds({UNCUT: whole, **timers}, profile, asked.seed, silent)
        for text, timer in timers.items():
            found = {one.name: one.ratio for one in speeds(timed, text, profile)}
            less = timer.weight_bytes / whole.weight_bytes - 1
            cells = (shown(found[name]) for name in ("request", "first token", "decode"))
            print(f"| {profile.words} | {plans[text].label} | {less:+.1%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
