"""The strength of a seam repair: as much of it as breaks no guard task.

Folded weights are linear in the map M. So I + a (M - I) gives W0 + a (W - W0), with W0 the pruned model's weights and W
those with M folded in; the same holds for changes of a last matrix and for factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from layercut.healing.guard import GuardTask, Row, broken, rows_of, summary
from layercut.models.loading import LoadedModel
from layercut.runs.healing import GUARD
from layercut.tasks.evaluate import Records

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STRENGTHS = (1.0, 0.5, 0.25)
"""Strengths a that are tried, in this order."""


@torch.no_grad()
def weaken(repaired: PreTrainedModel, pruned: PreTrainedModel, share: float) -> None:
    """Keep this share of what the repair changed, in place: W becomes W0 + share (W - W0)."""
    for weight, before in zip(repaired.parameters(), pruned.parameters(), strict=True):
        weight.lerp_(before, 1 - share)


def strongest_kept(
    repaired: LoadedModel,
    pruned: LoadedModel,
    tasks: Sequence[GuardTask],
    journal: Callable[[GuardTask, float], Records],
) -> dict[str, Any]:
    """Weaken a repair, in place, until no guard is broken; the entry of a healing, with ``strength`` and all rows.

    Args:
        repaired: the pruned model with its maps folded in; afterwards with the largest of ``STRENGTHS`` that breaks no
            guard, or, at strength 0, with the pruned model's weights.
        pruned: the same model without maps.
        tasks: what is asked.
        journal: where the answers at a strength are kept; 0 is the pruned model.
    """
    before = rows_of(tasks, pruned.model, pruned, None, [journal(guard, 0.0) for guard in tasks])
    rows: list[Row] = []
    now = 1.0
    for strength in (*STRENGTHS, 0.0):
        weaken(repaired.model, pruned.model, strength / now)
        now = strength
        if not strength:
            break
        held = [journal(guard, strength) for guard in tasks]
        found = rows_of(tasks, repaired.model, repaired, before, held)
        rows += [{"strength": strength, **summary(row)} for row in found]
        if not broken(found):
            break
    return {GUARD: {"strength": now, "rows": rows}}
