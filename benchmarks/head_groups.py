"""Attention heads or MLP channels: what does the same number of bytes cost? Divergence on right answers.

    python benchmarks/head_groups.py                                                    # SmolLM2, copy
    python benchmarks/head_groups.py bundled:qwen2.5-coder-1.5b gsm8k --data data/gsm8k --dtype bfloat16 --limit 32

Heads go in whole groups that share a key and a value, one group in every layer: the one whose outputs, times their
columns of the output projection, are smallest on the first half of the original model's right answers. Channels of as
many bytes are chosen by the same criterion on the same answers. The other half gives the KL divergence from the
original model, nats a token, with a 95 % interval (bootstrap over answers, seed 0).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks
from benchmarks.right_answers import model_of, parser_of, right_answers
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import compared_scorings
from layercut.evidence.paired import sums_ratio
from layercut.healing.distill import divergence
from layercut.selection import channels
from layercut.selection.channels import answers_as_texts, keep_most, rank_channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers
from layercut.surgery.width import mlp_width_in


def outputs(model: Any) -> list[Any]:
    """The output projection of the attention of each layer; its inputs are the heads, one after the other."""
    return [layer.self_attn.o_proj for layer in decoder_layers(model)]


@torch.no_grad()
def least_needed(loaded: Any, texts: Sequence[Sequence[int]], groups: int) -> list[list[int]]:
    """By layer, its groups of heads, the least needed first."""
    projections = dict(enumerate(outputs(loaded.model)))
    seen = {layer: channels._Moments(one.weight.shape[1], full=False) for layer, one in projections.items()}
    for text in texts:
        for layer, states_TC in channels._activations(loaded, projections, tuple(text)):
            seen[layer].add(states_TC, 1.0)
    scores = [seen[layer].scores(one.weight.float().T, "rms") for layer, one in projections.items()]
    return [torch.argsort(one.square().view(groups, -1).sum(dim=1)).tolist() for one in scores]


@contextmanager
def without_heads(model: Any, gone: Sequence[Sequence[int]], groups: int) -> Iterator[None]:
    """Groups of heads give nothing."""
    with ExitStack() as hooks:
        for projection, some in zip(outputs(model), gone, strict=True):
            keep = torch.ones(groups, dtype=projection.weight.dtype)
            keep[list(some)] = 0
            mask = keep.repeat_interleave(projection.weight.shape[1] // groups)
            hook = projection.register_forward_pre_hook(lambda _, given, mask=mask: (given[0] * mask, *given[1:]))
            hooks.callback(hook.remove)
        yield


@torch.no_grad()
def shown(handle: ModelHandle, scorings: Sequence[Any], way: Callable[[], AbstractContextManager[Any]]) -> str:
    """KL from the original model over the tokens of the answers."""
    model, kl, tokens = handle.loaded.model, [], []
    for scoring in scorings:
        row = scoring.rows[0]
        ids, count = torch.tensor([row.tokens]), row.num_scored
        before = model(input_ids=ids, logits_to_keep=count + 1).logits[0, :-1]
        with way():
            after = model(input_ids=ids, logits_to_keep=count + 1).logits[0, :-1]
        kl.append(float(divergence(after, before, "forward-kl").sum()))
        tokens.append(count)
    found = sums_ratio(np.array(kl), np.array(tokens, dtype=np.float64), 0)
    ends = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"KL {found.value:.3f}{ends} (n {len(kl)} answers, {sum(tokens):,} tokens)"


def main() -> None:
    asked = parser_of(__doc__, 100).parse_args()
    handle = model_of(asked, batch_size=32, cache_gib=4)
    requests = right_answers(handle, asked)
    half = len(requests) // 2
    texts = answers_as_texts(handle.loaded, requests[:half])
    judged = compared_scorings(handle.loaded, requests[half:])
    model, num_layers = handle.loaded.model, handle.num_layers
    config = model.config.get_text_config()
    groups, total = config.num_key_value_heads, sum(one.numel() for one in model.parameters())
    attention = decoder_layers(model)[0].self_attn
    of_group = sum(one.numel() for one in attention.parameters()) // groups * num_layers
    mlp = mlp_width_in(model)
    of_mlps = sum(one.numel() for layer in decoder_layers(model) for one in layer.mlp.parameters())
    print(
        f"{asked.model}, {asked.task}: {half} right answers rank, {len(judged)} judge; {groups} groups of heads a layer"
    )
    order = least_needed(handle.loaded, texts, groups)
    ranked = rank_channels(handle.loaded, (), {asked.task: texts})

    def show(name: str, count: int, way: Any) -> None:
        print(f"{name:44} -{100 * count / total:.1f} % of the weights  {shown(handle, judged, way)}", flush=True)

    for gone in range(1, groups):
        some = [one[:gone] for one in order]
        count = gone * of_group
        show(f"{gone} of {groups} groups of heads", count, partial(without_heads, model, some, groups))
        plan = CutPlan(num_layers=num_layers, channels=keep_most(mlp, ranked, count / of_mlps))
        assert plan.channels is not None
        share = plan.channels.share
        show(f"{100 * share:.1f} % of the channels", round(share * of_mlps), partial(bypass, model, plan))


if __name__ == "__main__":
    main()
