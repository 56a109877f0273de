"""Find and measure a pruned model that drafts for its original; and the settings of ``layercut draft``."""

from __future__ import annotations

from pydantic import Field

from layercut.selection.goal import GoalSettings
from layercut.selection.specs import Removed


class DraftSettings(GoalSettings):
    """The use of a model that is to write faster."""

    use: str | None = Field(
        None, description="What the model writes: math, code, summarize, chat or copy; names tasks, as in prune."
    )
    remove: Removed | None = Field(None, description="A plan to measure, in place of a search: 9-12, or a plan.json.")
    items: int = Field(
        16, ge=1, description="Report items of each task that are answered with and without the draft, and timed."
    )
    window: int = Field(8, ge=1, le=32, description="Most tokens that a draft may propose at once.")
