"""Steps of a draft whose thin MLPs are slices of the original's tensors, against one with copies of them, by turns.

    python benchmarks/draft_view.py --model bundled:smollm2-135m --dtype bfloat16 --share 0.5

Slices save memory; the last matrix of each MLP is then read with a stride. Prints the ratio of the seconds of a step
(slices / copies) for one and for several tokens, the geometric mean over rounds with a 95 % interval of Student's t of
its logarithm, and the bytes that each view holds beside the model.
"""

from __future__ import annotations

import argparse

import torch

from layercut.drafting.times import Stepper
from layercut.drafting.view import draft_view
from layercut.evidence.intervals import mean_ratio
from layercut.models.loading import load_model
from layercut.pruning.profile import Profile
from layercut.selection.channels import keep_most
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_in


def own_bytes(view: torch.nn.Module, model: torch.nn.Module) -> int:
    """Bytes of a view's tensors that the model does not hold."""
    held = {one.untyped_storage().data_ptr() for one in model.parameters()}
    return sum(one.nbytes for one in view.parameters() if one.untyped_storage().data_ptr() not in held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    loaded = load_model(asked.model, dtype=asked.dtype)
    mlp = mlp_width_in(loaded.model)
    every = {layer: tuple(range(0, mlp.width, 2)) + tuple(range(1, mlp.width, 2)) for layer in mlp.slots}
    plan = CutPlan(num_layers=loaded.num_layers, channels=keep_most(mlp, every, asked.share))
    copies = draft_view(loaded.model, plan)
    slices = draft_view(loaded.model, plan, reorder=True)
    print(f"{asked.model}, {asked.dtype}, {plan.channels.describe() if plan.channels else ''}")
    for name, view in (("copies", copies), ("slices", slices)):
        print(f"{name}: {own_bytes(view, loaded.model) / 1e6:,.0f} MB beside the model")
    steppers = [Stepper(view, Profile(), 0) for view in (copies, slices)]
    for tokens in (1, 4):
        seconds: list[list[float]] = [[], []]
        for number in range(asked.rounds + 1):
            for place in ((0, 1), (1, 0))[number % 2]:
                took = steppers[place].step(tokens)
                seconds[place] += [took] if number else []
        found = mean_ratio(*seconds)
        print(f"{tokens} tokens: slices / copies {found.value:.2f} [{found.low:.2f}, {found.high:.2f}], n {found.n}")


if __name__ == "__main__":
    main()
