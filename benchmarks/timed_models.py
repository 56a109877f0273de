"""Seconds of a request of several models, timed by turns, as ratios to the first one's.

    python benchmarks/timed_models.py bundled:qwen2.5-coder-1.5b qwen-44000 --dtype bfloat16
    python benchmarks/timed_models.py qwen.Q4_K_M.gguf qwen-44000.Q4_K_M.gguf --serve batch=1,prompt=300,new=100

GGUF files run in llama.cpp, all else in transformers. Each of five rounds runs all models, in an order that changes.
"""

from __future__ import annotations

import argparse

from layercut.engine.handle import ModelHandle
from layercut.pruning.settings import Profile
from layercut.pruning.speed import other_model, timed_rounds, timed_speeds, timer_of
from layercut.settings import UNCUT, ModelSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--serve", default="laptop")
    options = parser.parse_args()
    first, *others = options.models
    profile = Profile.parse(options.serve)
    settings = ModelSettings(model=first, dtype=options.dtype)
    handles: dict[str, ModelHandle] = {UNCUT: other_model(settings, first)}
    handles |= {name: other_model(settings, name) for name in others}
    timers = {name: timer_of(handle) for name, handle in handles.items()}
    timed = timed_rounds(timers, profile, 0, lambda *_: None)
    for name in others:
        for speed in timed_speeds(timed, name, profile):
            ratio = speed.ratio
            ends = f"[{ratio.low:.3f}, {ratio.high:.3f}]" if ratio.low is not None and ratio.high is not None else ""
            print(
                f"{name}: {speed.name} {speed.uncut.value:.4g} to {speed.cut.value:.4g} {speed.unit}, "
                f"x {ratio.value:.3f} {ends} (n = {ratio.n} rounds, {profile.words})"
            )


if __name__ == "__main__":
    main()
