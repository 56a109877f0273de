"""Settings of ``layercut prune``: the goal, how deep, how healed, how served, and on how many items.

>>> Profile.parse("batch=4,new=100")
Profile(batch=4, prompt=300, new=100, engine='transformers')
>>> Profile.parse("server,engine=llama.cpp")
Profile(batch=16, prompt=1000, new=300, engine='llama.cpp')
>>> Units.parse("width"), Units.parse("vocab,both"), Units.parse("vocab:44000,layer")
(Units(kind='width', tokens=None), Units(kind='both', tokens='ascii'), Units(kind='layer', tokens='44000'))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from layercut.base_settings import Names, Number, Settings, Share, one_of
from layercut.errors import InputError
from layercut.evidence.uses import named_use, tasks_for_use
from layercut.models.make_gguf import gguf_type
from layercut.selection.answers import ObjectiveTask
from layercut.selection.select import objective_parts
from layercut.settings import TaskSettings
from layercut.tasks import TASKS, takes_option
from layercut.tasks.suites import asked_tasks, with_local_data

AUTO, NONE = "auto", "none"
LAYER, WIDTH, BOTH = "layer", "width", "both"
UNITS = (LAYER, WIDTH, BOTH)
VOCAB, ASCII = "vocab", "ascii"
SEAM = "seam"
SMALLEST = ("Q8_0", "Q4_K_M", "Q3_K_M")  # formats that `smallest` makes
HEALINGS = (AUTO, NONE, SEAM)
TRANSFORMERS, LLAMA_CPP = "transformers", "llama.cpp"
_PART = re.compile(r"(batch|prompt|new)=([1-9]\d*)|engine=(transformers|llama\.cpp)")


class Profile(NamedTuple):
    """How a model is to be served."""

    batch: int = 1  # requests at once
    prompt: int = 300  # tokens that each reads
    new: int = 300  # tokens that each writes
    engine: str = TRANSFORMERS  # what runs it

    @classmethod
    def parse(cls, text: str) -> Self:
        """A profile by its name, numbers or both; what is left out is the laptop's.

        Raises:
            InputError: neither.
        """
        first, *rest = (part.strip() for part in text.split(","))
        changes: dict[str, Any] = {}
        for part in rest if first in PROFILES else (first, *rest):
            if (match := _PART.fullmatch(part)) is None:
                raise InputError(
                    f"`serve` {text!r:.60} is no profile; write {', '.join(PROFILES)}, or batch=1,prompt=300,new=300; "
                    f"with engine={LLAMA_CPP}, a GGUF file is timed there."
                )
            changes |= {"engine": match[3]} if match[3] else {match[1]: int(match[2])}
        return cls(*PROFILES.get(first, ()))._replace(**changes)

    @property
    def tokens(self) -> int:
        """Of one request, read and written."""
        return self.prompt + self.new

    @property
    def middle(self) -> int:
        """Tokens in front of the one that is half way through the answer."""
        return self.prompt + self.new // 2

    @property
    def words(self) -> str:
        """For people."""
        where = "" if self.engine == TRANSFORMERS else f", {self.engine}"
        return f"batch {self.batch}, {self.prompt:,} tokens read and {self.new:,} written{where}"


LAPTOP = "laptop"
PROFILES: dict[str, Profile] = {
    LAPTOP: Profile(1, 300, 300),
    "server": Profile(16, 1000, 300),
    "batch": Profile(64, 300, 300),
}


Serve = Annotated[str, AfterValidator(lambda serve: Profile.parse(serve) and serve)]
"""A serving profile as people write it."""


def fitted_profile(serve: str, length: int | None, is_given: bool) -> Profile:
    """A profile in a context of ``length`` tokens; one that nobody asked for is made to fit.

    Raises:
        InputError: one that was asked for and does not fit.
    """
    profile = Profile.parse(serve)
    if length is None or profile.tokens <= length:
        return profile
    if not is_given:
        return profile._replace(prompt=length // 2, new=length // 2)
    raise InputError(f"`serve` {serve} is {profile.tokens:,} tokens, and the model takes {length:,}; ask for less.")


class Units(NamedTuple):
    """What is removed."""

    kind: str  # of UNITS
    tokens: str | None  # the tokens that stay, as after ``vocab:``; None for all

    @classmethod
    def parse(cls, text: str) -> Units:
        """``both``, or with tokens: ``vocab,both`` (ASCII stays), ``vocab:44000,width``. Raises InputError: neither."""
        parts = [part.strip() for part in text.split(",")]
        tokens = [part for part in parts if part.partition(":")[0] == VOCAB]
        kinds = [part for part in parts if part not in tokens]
        if len(tokens) > 1 or len(kinds) != 1 or kinds[0] not in UNITS:
            raise InputError(
                f"`units` {text!r:.60} is not known; write layer, width or both, and for tokens as well vocab,both or "
                "vocab:44000,both."
            )
        return cls(kinds[0], (tokens[0].partition(":")[2] or ASCII) if tokens else None)


class GoalSettings(Settings):
    """The tasks that a verb works for."""

    use: str | None = Field(None, description="math, code, summarize, classify, chat, copy or all.")
    tasks: Names = Field((), description="Tasks in place of a use: names, or a .jsonl or .csv.")
    max_new_tokens: int | None = Field(None, ge=1, description="Longest answer, of tasks where it can be chosen.")

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        if (self.use is None) == (not self.tasks):
            raise InputError(
                "say what the model is for: `use` math, or `tasks` gsm8k,my.jsonl; "
                + ("one of the two." if self.use else "neither was given.")
            )
        return self


class PruneSettings(GoalSettings):
    """The use of a pruned model, and how it is found."""

    keep: Share = Field(
        0.9, gt=0, le=1, description="Share of the score above chance that every task must keep: 0.9 or 90%."
    )
    units: Annotated[str, AfterValidator(lambda units: Units.parse(units) and units)] = Field(
        BOTH,
        description="What is removed: layer, one after the other; width, the channels of all MLPs; or both, whichever "
        "does less damage at each size. vocab,both removes tokens outside of ASCII first, vocab:44000,both more.",
    )
    smaller: Share | None = Field(None, gt=0, lt=1, description="Most bytes to remove; 30% if left out.")
    one_size: bool = Field(False, description="Test that size alone, not those on the way.")
    faster: Number | None = Field(None, gt=1, description="Times as fast a request should be, by forecast.")
    serve: Serve = Field(
        LAPTOP, description=f"{', '.join(PROFILES)}, or batch=1,prompt=300,new=300; of a GGUF also engine=llama.cpp."
    )
    heal: Annotated[str, one_of(HEALINGS)] = Field(
        AUTO, description="auto (in closed form, where that may pay), none, seam (in closed form, every plan)."
    )
    items: int | None = Field(None, ge=8, description="Report items of each task, which decide.")
    smallest: bool = Field(False, description="Weigh GGUF files too: the smallest that passes is kept.")
    formats: Names = Field((), description="Types of these files: q8_0,q4_k_m,q3_k_m if left out.")
    versus: Names = Field((), description="Models to weigh: ids, folders, .gguf, MODEL@int8.")
    goal_alone: bool = Field(False, description="Learn from the goal's tasks, not general requests too.")
    no_side_effects: bool = Field(False, description="Skip the checks of endings, language and form.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.one_size and self.smaller is None and self.faster is None:
            raise InputError("`one_size` needs a size: give `smaller` 15% or `faster` 1.2.")
        _ = self.gguf_types
        return self

    @property
    def removed_units(self) -> Units:
        """``units`` as they were read."""
        return Units.parse(self.units)

    @property
    def gguf_types(self) -> tuple[str, ...]:
        """Types of the GGUF files that are made. Raises InputError: an unknown one."""
        return tuple(dict.fromkeys(map(gguf_type, self.formats))) or (SMALLEST if self.smallest else ())

    def num_plans(self, num_sizes: int) -> int:
        """Plans that are tried at most, by halving."""
        return 1 if self.one_size or num_sizes == 1 else num_sizes.bit_length() + 1


class GoalTasks(NamedTuple):
    """The tasks, and what people should know of them."""

    tasks: tuple[TaskSettings, ...]
    note: str  # says that the use is judged by a proxy; empty where it is not

    def parts(self, seed: int) -> list[ObjectiveTask]:
        """The tasks, under each readout that they are asked for."""
        return [part for task in self.tasks for part in objective_parts(task, seed)]


def goal_tasks(settings: GoalSettings, data: Mapping[str, str] | None = None, folder: Path | None = None) -> GoalTasks:
    """The tasks that decide. Nothing is loaded.

    Args:
        data: local files of tasks; a use is judged by its benchmarks where their data is given.
        folder: holds a folder with local data for each task.

    Raises:
        InputError: an unknown use, data for a task that is not asked for, or no such folder.
    """
    files, longest = dict(data or {}), settings.max_new_tokens
    if settings.use is None:
        named = asked_tasks(",".join(settings.tasks), files=files, folder=folder)
        return GoalTasks(tuple(task.replace(max_new_tokens=longest) for task in named), "")
    local = [name for name in TASKS if folder is not None and (folder / name).is_dir()]
    of_use = tasks_for_use(settings.use, data=(*files, *local))
    tasks = tuple(
        TaskSettings(
            task=task, readouts=(readout,), max_new_tokens=longest if takes_option(task, "max_new_tokens") else None
        )
        for task, readout in of_use
    )
    note = named_use(settings.use).note([task for task, _ in of_use])
    return GoalTasks(with_local_data(tasks, files, folder), note)
