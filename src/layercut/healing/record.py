"""The record of one healing: an entry of ``healing`` in plan.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class HealingRecord:
    """One healing; what is None does not apply and is left out of plan.json."""

    method: str
    objective: str
    removed: Sequence[int]
    channels: str | None = None
    vocabulary: str | None = None
    tied: bool | None = None
    responses: str
    teacher: str
    teacher_hash: str
    cut_hash: str
    cut_from: Mapping[str, Any] | None = None  # where the teacher is another model than the one that was cut
    data_hash: str
    num_examples: int
    num_held_out: int
    loss_tokens: int | None = None
    answers: int | None = None
    dropped: Mapping[str, int] | None = None
    contaminated: int
    too_long_with_prompt: int
    selection_items: Mapping[str, Any]
    # What the repair or the training adds:
    seams: Sequence[str] | None = None
    seam_map: str | None = None
    settings: Mapping[str, Any] | None = None
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    stopped_early: bool | None = None
    held_out_loss: Mapping[str, float] | None = None
    answer_tokens: int | None = None
    # What writing the checkpoint adds:
    checked: Sequence[str] = ()
    written: Mapping[str, Any] | None = None
    loss_curve: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For plan.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}
