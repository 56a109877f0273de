"""Skip decoder layers in memory, weights untouched, and have the whole model back afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from layercut.surgery.remove import ACTIVE, apply_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from layercut.surgery.plan import CutPlan


@contextmanager
def bypass(model: PreTrainedModel, plan: CutPlan | str | Sequence[int]) -> Iterator[PreTrainedModel]:
    """Run ``model`` without the plan's layers inside a ``with`` block; an empty plan runs it uncut.
    The plan may be given as layers, ``"24-26"`` or ``[24, 25, 26]``.

    Inside the block the model *is* the shorter model: forward passes, the KV cache, ``generate`` and
    ``save_pretrained`` work as they would after ``remove_layers``. Not a single weight is copied or changed; entering
    and leaving takes about a millisecond. On leaving, also by an exception, every object is back where it was.

    Inside the block, do not move the model to another device or switch it between training and evaluation: the layers
    that are out would not follow. A model holds one bypass at a time, for all threads.

    Raises:
        InputError: the plan does not fit the model, or a bypass is active on it already.
    """
    with apply_plan(model, plan):
        setattr(model, ACTIVE, plan)
        try:
            yield model
        finally:
            delattr(model, ACTIVE)
