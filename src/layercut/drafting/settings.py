"""Settings of ``layercut draft``: the tasks, the plan, how many answers, and the profile."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from layercut.errors import InputError
from layercut.pruning.settings import LAPTOP, PROFILES, TRANSFORMERS, GoalSettings, Profile, Serve
from layercut.selection.specs import Removed


class DraftSettings(GoalSettings):
    """The use of a model that is to write faster."""

    use: str | None = Field(
        None, description="What the model writes: math, code, summarize, chat or copy; names tasks, as in prune."
    )
    remove: Removed | None = Field(
        None, description="A plan to forecast, in place of a search: 9-12, 'mlp:0.5', or a plan.json."
    )
    serve: Serve = Field(LAPTOP, description=f"Timed as {', '.join(PROFILES)}, or batch=1,prompt=300,new=300.")
    items: int = Field(32, ge=1, description="Answers to report items of each task, on which plans are forecast.")
    window: int = Field(8, ge=1, le=32, description="Most tokens that a draft may propose at once.")
    measured: int = Field(
        8, ge=0, description="Of these answers, how many are also written with the draft, and timed; 0 for none."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.use is None) == (not self.tasks):
            raise InputError(
                "`use` and `tasks` both name tasks; give one of the two."
                if self.use
                else "say what the model writes: `use` math, or `tasks` gsm8k,my.jsonl; neither was given."
            )
        if Profile.parse(self.serve).engine != TRANSFORMERS:
            raise InputError(f"`serve` {self.serve}: a draft is timed in transformers; leave out `engine=`.")
        return self
