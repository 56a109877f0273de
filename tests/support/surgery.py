"""What the surgery tests share: plans, a left-padded batch, and generation with and without the cache."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layercut.surgery.plan import CutPlan
from tests.support.tiny import NUM_LAYERS

PLANS = {
    "first": (0,),
    "last": (NUM_LAYERS - 1,),
    "middle": (2,),
    "first three": (0, 1, 2),
    "contiguous": (2, 3),
    "scattered": (4, 1, 2),
    "no full attention": (1, 2, 5),  # of the mixed stacks in tests/support/tiny.py
    "no sliding attention": (0, 3, 4),
    "all but one": (0, 1, 2, 4, 5),
}
PAD = 256


def plan_of(removed: tuple[int, ...]) -> CutPlan:
    return CutPlan(num_layers=NUM_LAYERS, removed=removed)


def left_padded_batch() -> dict[str, Tensor]:
    """Three texts of 5, 12 and 20 tokens: padding, and texts longer than the tiny models' window of 8."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 256, (length,), generator=generator) for length in (5, 12, 20)]
    ids = torch.full((3, 20), PAD)
    for row, text in zip(ids, texts, strict=True):
        row[-len(text) :] = text
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> Tensor:
    """Logits at the real tokens of the padded batch, (tokens, vocabulary)."""
    batch = left_padded_batch()
    return model(**batch, use_cache=False).logits[batch["attention_mask"].bool()]


@torch.no_grad()
def generate(model: PreTrainedModel, *, use_cache: bool, num_tokens: int = 8) -> list[list[int]]:
    """Greedy new tokens of every text."""
    batch = left_padded_batch()
    ids = model.generate(
        **batch, max_new_tokens=num_tokens, do_sample=False, use_cache=use_cache, eos_token_id=None, pad_token_id=PAD
    )
    return ids[:, batch["input_ids"].shape[1] :].tolist()


class Loaded(NamedTuple):
    """As much of a LoadedModel as surgery uses."""

    model: PreTrainedModel
