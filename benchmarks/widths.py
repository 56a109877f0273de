"""Whose MLPs layercut can thin: a tiny random model of every type, half of its MLP channels removed.

    python benchmarks/widths.py            # all types of the installed transformers, about a minute
    python benchmarks/widths.py phi3 gpt2  # these alone

The logits of the thinner model must be those of the whole model with zeros in the columns of the removed channels (the
reference, in which nothing is sliced), and of the whole model again afterwards. Others are refused, with a reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.support
from benchmarks.families import (
    MOST_PARAMETERS,
    NUM_LAYERS,
    at_most,
    auto_class,
    blueprint_model,
    hf_quiet,
    tiny_config,
    types,
)
from layercut.errors import InputError, one_line
from layercut.selection.channels import keep_needed_channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers, masked_channels
from layercut.surgery.width import mlp_width_in

SECONDS = 60


def compare(model_type: str) -> tuple[str, str]:
    """Whether the type's MLPs are thinned right, and why not."""
    config = tiny_config(model_type)
    if sum(one.numel() for one in blueprint_model(config).parameters()) > MOST_PARAMETERS:
        return "not built", "its tiny model is too large"
    torch.manual_seed(0)
    model = auto_class(config).from_config(config, attn_implementation="eager").eval().float()
    try:
        mlp = mlp_width_in(model)
    except InputError as error:
        return "refused", one_line(error)
    drawn = torch.Generator().manual_seed(1)
    order = {layer: torch.randperm(mlp.mlps(layer) * mlp.width, generator=drawn).tolist() for layer in mlp.slots}
    plan = CutPlan(num_layers=len(decoder_layers(model)), channels=keep_needed_channels(mlp, order, 0.5))
    ids = torch.randint(5, 200, (2, 9), generator=drawn)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with bypass(model, plan):
            thin = model(input_ids=ids).logits
        with masked_channels(model, plan):
            zeros = model(input_ids=ids).logits
        after = model(input_ids=ids).logits
    scale = max(1.0, float(before.abs().max()))
    if not torch.equal(before, after):
        return "not built", "two runs of the whole model differ"
    if not float((thin - zeros).abs().max()) < 1e-5 * scale:
        return "differs", f"by {float((thin - zeros).abs().max()):.2g}"
    if torch.equal(thin, before):
        return "differs", "nothing changed"
    most = max(map(mlp.mlps, mlp.slots))
    return "equal", f"{mlp.field}, {len(mlp.slots)} of {NUM_LAYERS} layers{f', {most} experts' if most > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*")
    parser.add_argument("--json", action="store_true", help="one line of JSON a type")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    for name in asked.types or types():
        try:
            with at_most(SECONDS), hf_quiet():
                state, reason = compare(name)
        except Exception as error:  # of a tiny model that cannot be built, or that asks for pictures
            state, reason = "not built", f"{type(error).__name__}: {one_line(error)}"
        counts[state] += 1
        row = {"type": name, "state": state, "reason": reason}
        print(json.dumps(row) if asked.json else f"{name:28} {state:10} {reason[:150]}", flush=True)
    print(", ".join(f"{count} {state}" for state, count in counts.most_common()))


if __name__ == "__main__":
    main()
