"""Settings of ``layercut draft``: the tasks, how many answers, the profile, and whose times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from layercut.base_settings import Names, Settings
from layercut.errors import InputError
from layercut.pruning.settings import LAPTOP, PROFILES, TRANSFORMERS, Profile, read_by
from layercut.selection.specs import Removed


class DraftSettings(Settings):
    """The use of a model that is to write faster."""

    use: str | None = Field(
        None, description="What the model writes: math, code, summarize, chat or copy; names tasks, as in prune."
    )
    tasks: Names = Field((), description="Tasks in place of a use: names, or a .jsonl or .csv.")
    remove: Removed | None = Field(
        None, description="A plan to forecast, in place of a search: 9-12, 'mlp:0.5', or a plan.json."
    )
    draft: str | None = Field(
        None, description="Another model with the same tokens as the draft, in place of a plan: a healed checkpoint."
    )
    serve: Annotated[str, read_by(Profile.parse)] = Field(
        LAPTOP, description=f"Timed as {', '.join(PROFILES)}, or batch=1,prompt=300,new=300."
    )
    items: int = Field(32, ge=1, description="Answers to report items of each task, on which plans are forecast.")
    window: int = Field(8, ge=1, le=32, description="Most tokens that a draft may propose at once.")
    measured: int = Field(
        8, ge=0, description="Of these answers, how many are also written with the draft, and timed; 0 for none."
    )
    times: Annotated[Path, BeforeValidator(lambda value: Path(value) if isinstance(value, str) else value)] | None = (
        Field(None, description="times.json of another machine, in place of this one's; nothing is measured then.")
    )
    times_only: bool = Field(False, description="Only measure the times of this machine, into times.json.")
    max_new_tokens: int | None = Field(None, ge=1, description="Longest answer, of tasks where it can be chosen.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.use is not None and self.tasks:
            raise InputError("`use` and `tasks` both name tasks; give one of the two.")
        if not self.times_only and self.use is None and not self.tasks:
            raise InputError("say what the model writes: `use` math, or `tasks` gsm8k,my.jsonl; neither was given.")
        if self.draft is not None and self.remove is not None:
            raise InputError("`draft` names a model and `remove` a plan; give one of the two.")
        if self.draft is not None and self.times is not None:
            raise InputError("`draft` is timed on this machine, and `times` are of another one; give one of the two.")
        if Profile.parse(self.serve).engine != TRANSFORMERS:
            raise InputError(f"`serve` {self.serve}: a draft is timed in transformers; give `times` of another engine.")
        if self.times_only and self.times is not None:
            raise InputError("`times_only` measures times and `times` reads them; give one of the two.")
        return self
