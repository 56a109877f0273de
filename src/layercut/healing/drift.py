"""Reduce or drop the loss on the rest of an answer once it drifts away from what the teacher would write.

Prune-OPD (arXiv:2605.07804) measures how many of the two models' likeliest tokens are the same, lets weights only
fall along an answer, and cuts it off where the overlap is small. The rule here is our own variant.
"""

# Shapes: N tokens of answers, one answer behind the other, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOP_K = 16
"""Likeliest tokens of each model that are compared."""
WINDOW = 16
"""Tokens over which the overlap is averaged."""


@torch.no_grad()
def overlap(student_NV: Tensor, teacher_NV: Tensor, k: int = TOP_K) -> Tensor:
    """Share of the student's k likeliest tokens that are among the teacher's k likeliest.

    Args:
        student_NV: logits.
        teacher_NV: logits on the same vocabulary; k is at most its size.

    Returns:
        (N,) float32 from 0 to 1.
    """
    k = min(k, student_NV.shape[-1])
    ours_NK, theirs_NK = student_NV.topk(k).indices, teacher_NV.topk(k).indices
    return (ours_NK[:, :, None] == theirs_NK[:, None, :]).any(-1).float().mean(-1)


@torch.no_grad()
def drift_weights(overlap_N: Tensor, lengths: Sequence[int], least: float, window: int = WINDOW) -> Tensor:
    """How much each token counts: 1 while the two models agree, falling with the overlap, and never rising again.

    With c the mean overlap over the last ``window`` tokens (what would lie before the answer counts as agreement), a
    token's weight is the smallest so far of min(1, c / least). Where that falls below one half, the rest of the answer
    is cut off: its weight is 0.

    Args:
        overlap_N: from ``overlap``.
        lengths: tokens of each answer; together N.
        least: the overlap below which an answer has begun to drift; 0 lets all count.
        window: see above.

    Returns:
        (N,) float32 from 0 to 1.
    """
    if least <= 0:
        return torch.ones_like(overlap_N)
    weights = []
    for part in torch.split(overlap_N, list(lengths)):
        padded = torch.cat([part.new_ones(window - 1), part])
        agreement = padded.unfold(0, window, 1).mean(-1) if len(part) else part
        falling = (agreement / least).clamp(max=1).cummin(0).values if len(part) else part
        weights.append(torch.where(falling < 0.5, 0.0, falling))
    return torch.cat(weights)
