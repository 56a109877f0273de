"""Repairs of a cut that train nothing, by the loss on texts that nothing was fitted on.

    python benchmarks/seams.py --texts c4.jsonl --model bundled:smollm2-135m --remove 20-22

The file has a JSON object with a ``text`` on each line; texts of fewer tokens are left out. The first texts are fitted
on, the next choose the ridge, and the loss of the last ones is printed: the mean over texts with a 95 % interval, and
that of the difference from the pruned model, text by text. ``whole stream`` is the map of Ghosted Layers
(arXiv:2605.15491), which no plain checkpoint can hold: a matrix D x D at the cut, here in a hook, with our ridges.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from layercut.evidence.intervals import mean_interval
from layercut.healing.examples import Data, TrainingExample
from layercut.healing.fold import outputs_of
from layercut.healing.seam import PROJECTION, RIDGES, Sums, repair_seams, seams_of, solve
from layercut.models.loading import load_model
from layercut.surgery.plan import as_plan
from layercut.surgery.remove import decoder_layers, remove_layers

BATCH = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="JSON lines with a text each")
    parser.add_argument("--model", default="bundled:smollm2-135m", help="the original model")
    parser.add_argument("--remove", default="20-22", help="layers that are removed, in one block")
    parser.add_argument("--tokens", type=int, default=128, help="first tokens of each text")
    parser.add_argument("--fitted", type=int, default=150, help="texts that are fitted on")
    parser.add_argument("--judged", type=int, default=20, help="texts that choose the ridge")
    parser.add_argument("--kinds", default="linear,projection", help="repairs, as in heal --seam")
    asked = parser.parse_args()

    uncut = load_model(asked.model, dtype="float32", device="cpu")
    texts = [json.loads(line)["text"] for line in asked.texts.read_text(encoding="utf-8").splitlines()]
    encoded = [uncut.tokenizer(text)["input_ids"][: asked.tokens] for text in texts]
    examples = [TrainingExample(str(n), (), tuple(ids)) for n, ids in enumerate(encoded) if len(ids) == asked.tokens]
    last = asked.fitted + asked.judged
    data, unseen = Data(examples[: asked.fitted], examples[asked.fitted : last]), examples[last:]
    plan = as_plan(asked.remove, uncut.num_layers)

    def cut_model() -> Any:
        return remove_layers(load_model(asked.model, dtype="float32", device="cpu").model, plan)

    row("original", losses(uncut.model, unseen))
    cut = cut_model()
    before = losses(cut, unseen)
    row("not repaired", before)
    map_DD = whole_stream(cut, uncut.model, plan, data)
    hook = decoder_layers(cut)[seams_of(plan)[0].below].register_forward_hook(lambda _, __, output: output @ map_DD)
    row("whole stream", losses(cut, unseen), before)
    hook.remove()
    for kind in asked.kinds.split(","):
        repaired = cut_model()
        for fit in repair_seams(repaired, uncut.model, plan, data, kind):
            print("  ", fit.describe())
        row(kind, losses(repaired, unseen), before)


def row(name: str, found: list[float], before: list[float] | None = None) -> None:
    one = mean_interval(found)
    text = f"{name:14} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}] nats a token, n = {len(found)} texts"
    if before is not None:
        less = mean_interval([new - old for new, old in zip(found, before, strict=True)])
        text += f"; {less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]"
    print(text, flush=True)


def batches(examples: list[TrainingExample]) -> Iterator[torch.Tensor]:
    for start in range(0, len(examples), BATCH):
        yield torch.tensor([one.input_ids for one in examples[start : start + BATCH]])


@torch.no_grad()
def losses(model: Any, examples: list[TrainingExample]) -> list[float]:
    """Mean loss of each text, in nats a token."""
    found: list[float] = []
    for ids_BT in batches(examples):
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1]
        found += cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none").mean(1).tolist()
    return found


@torch.no_grad()
def whole_stream(cut: Any, uncut: Any, plan: Any, data: Data) -> torch.Tensor:
    """The map (D, D) of the stream at the cut, every token weighted by its gap as in ``repair_seams``."""
    (seam,) = seams_of(plan)
    layers, size = decoder_layers(uncut), cut.config.get_text_config().hidden_size
    fitted, judged = (Sums(size, cut.device, size) for _ in range(2))
    for sums, examples in ((fitted, data.train), (judged, data.held_out)):
        for ids_BT in batches(examples):
            with outputs_of(layers, (seam.first - 1, seam.last)) as seen:
                uncut.base_model(input_ids=ids_BT, use_cache=False)
            ours_ND, theirs_ND = (seen[index].flatten(0, 1).double() for index in (seam.first - 1, seam.last))
            gap_N1 = (theirs_ND - ours_ND).norm(dim=-1, keepdim=True)
            sums.add(ours_ND / gap_N1, (theirs_ND - ours_ND) / gap_N1)
    changes = [solve(fitted, PROJECTION, ridge) for ridge in RIDGES]
    return (torch.eye(size, dtype=torch.float64) + min(changes, key=judged.error)).float()


if __name__ == "__main__":
    main()
