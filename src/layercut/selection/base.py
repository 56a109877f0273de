"""The input and the result of a criterion: Context and Selection.

A criterion is one function ``(Context) -> Selection``. Most rank layers once by an importance score
(``by_importance``); the others score whole plans by an Objective and search (``greedy.py``). Scores
share one sense: higher means keep, higher means better.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from pydantic import Field

from layercut.base_settings import Settings, one_of
from layercut.errors import InputError, unknown_name
from layercut.progress import Progress, show_nothing
from layercut.seed import check_seed
from layercut.selection.racing import Standings

if TYPE_CHECKING:
    from layercut.engine.base import Engine
    from layercut.models.loading import LoadedModel
    from layercut.runs.directory import RunFolder
    from layercut.selection.calibration import Calibration
    from layercut.surgery.plan import CutPlan


class SearchSettings(Settings):
    """Settings of the comparison of plans by task scores."""

    normalise: Annotated[str, one_of(("raw", "chance"))] = Field(
        "raw", description="raw (cut / uncut, as the paper) or chance (above chance)."
    )
    race: Annotated[str, one_of(("off", "exact"))] = Field(
        "exact",
        description="When a candidate stops: exact (it cannot win any more; the same choice from fewer answers), "
        "off (never).",
    )


@dataclass(frozen=True, kw_only=True)
class Context:
    """The model, the wanted number of layers and the data of one selection."""

    num_layers: int  # decoder layers of the original model
    num_remove: int
    seed: int = 0
    protect: frozenset[int] | None = None  # layers that must stay; empty: none; None: the criterion's own default
    loaded: LoadedModel | None = None
    engine: Engine | None = None
    calibration: Calibration | None = None
    objective: Objective | None = None
    folder: RunFolder | None = None  # folder of a search's journal; without it, in memory
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's own settings, such as ``token`` or ``norm``."""
    progress: Progress = show_nothing

    def __post_init__(self) -> None:
        check_seed(self.seed)
        outside = [layer for layer in sorted(self.protected) if not 0 <= layer < self.num_layers]
        if outside:
            raise InputError(
                f"protected layer {outside[0]} is not in the model, whose decoder layers are 0-{self.num_layers - 1}."
            )
        if not 0 < self.num_remove <= min(len(self.candidates), self.num_layers - 1):
            raise InputError(
                f"cannot remove {self.num_remove} layers: {len(self.candidates)} of {self.num_layers} can be removed "
                f"({len(self.protected)} are protected); choose 1 to {min(len(self.candidates), self.num_layers - 1)}."
            )

    @property
    def protected(self) -> frozenset[int]:
        return self.protect or frozenset()

    def with_first_protected(self) -> Context:
        """The context with layer 0 protected, unless it says what is. Raises InputError: too few layers are left."""
        return replace(self, protect=frozenset({0})) if self.protect is None else self

    @property
    def candidates(self) -> tuple[int, ...]:
        return tuple(layer for layer in range(self.num_layers) if layer not in self.protected)


class Selection(NamedTuple):
    """The result of a criterion."""

    removed: tuple[int, ...]
    importance: Mapping[int, float] = {}
    """Score per candidate layer, higher means keep; empty for criteria that have none."""
    details: Mapping[str, Any] = {}
    """Other measurements (rounds, baselines, candidates), JSON-able; they go into the plan's ``scores``."""


Criterion = Callable[[Context], Selection]


class Objective(Protocol):
    """The value of plans. Higher is better; the original model's value is the reference."""

    def describe(self) -> Mapping[str, Any]:
        """All settings that decide the values: tasks, versions, items' hash, decoding, calibration hash. JSON-able."""

    def values(self, plans: Sequence[CutPlan]) -> list[float]:
        """One value per plan. Measurements in the journal are reused."""
        ...

    def round(self, plans: Sequence[CutPlan]) -> Standings:
        """The best plan's value, and a value or a bound of the others; of equals the later plan wins."""
        return Standings.of(self.values(plans))


def engine_and_text(context: Context, criterion: str) -> tuple[Engine, Calibration]:
    """The engine and the calibration text of a context; InputError without one of them."""
    if context.engine is None or context.calibration is None or not context.calibration.texts:
        missing = "engine" if context.engine is None else "text"
        raise InputError(
            f"{criterion} runs the model on calibration text, and there is no {missing} here; use layercut select with "
            "--calibration."
        )
    return context.engine, context.calibration


def wanted_objective(context: Context, criterion: str) -> Objective:
    """The context's objective; InputError without one."""
    if context.objective is None:
        raise no_objective(criterion)
    return context.objective


def no_objective(criterion: str) -> InputError:
    """The error for a criterion that uses task scores and was given no tasks."""
    return InputError(f"{criterion} chooses layers by task scores; name the tasks: `objective` arithmetic,copy.")


def check_names(criterion: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a setting that a criterion does not have. Raises InputError."""
    if settings and not known:
        raise InputError(f"{criterion} has no settings, but {next(iter(settings))!r} was given; leave it out.")
    for name in settings:
        if name not in known:
            raise unknown_name(f"setting of {criterion}", name, known)


def chosen_settings(criterion: str, settings: Mapping[str, Any], **choices: tuple[str, ...]) -> dict[str, str]:
    """Every setting of a criterion, as given or by default: the first of its ``choices``.

    >>> chosen_settings("perplexity", {}, search=("greedy", "one_shot"))
    {'search': 'greedy'}
    """
    check_names(criterion, settings, choices)
    chosen = {name: str(settings.get(name, values[0])) for name, values in choices.items()}
    for name, value in chosen.items():
        if value not in choices[name]:
            raise unknown_name(f"{name} of {criterion}", value, choices[name])
    return chosen


def whole_numbers(criterion: str, settings: Mapping[str, Any], **defaults: int) -> dict[str, int]:
    """Settings of a criterion that count something, as given or by default.

    >>> whole_numbers("task_accuracy", {"shortlist": "5"}, shortlist=1, traces=8)
    {'shortlist': 5, 'traces': 8}
    """
    for name in defaults:
        if name in settings and not (str(settings[name]).isdecimal() and int(settings[name])):
            raise InputError(f"{name} of {criterion} is {settings[name]!r}; write a whole number from 1.")
    return {name: int(settings.get(name, value)) for name, value in defaults.items()}


def by_importance(
    context: Context, importance: Mapping[int, float], details: Mapping[str, Any] | None = None
) -> Selection:
    """Remove the least important candidates, least important first; of equals the later layer first.

    >>> by_importance(Context(num_layers=3, num_remove=2), {0: 0.5, 1: 0.1, 2: 0.1}).removed
    (2, 1)
    """
    order = sorted(context.candidates, key=lambda layer: (importance[layer], -layer))
    return Selection(tuple(order[: context.num_remove]), dict(importance), details or {})


def last_layers(context: Context) -> Selection:
    """The last layers, the very last one first. "Reverse order", arXiv:2602.01997. No settings; the seed has no effect.

    >>> last_layers(Context(num_layers=30, num_remove=3)).removed
    (29, 28, 27)
    """
    chosen_settings("reverse", context.settings)
    return Selection(context.candidates[::-1][: context.num_remove])


def random_layers(context: Context) -> Selection:
    """Random layers, the same for the same seed on every machine and Python. No settings.

    Layers are ordered by a hash of (seed, layer), so a deeper cut with the same seed contains the shallower one.
    """
    chosen_settings("random", context.settings)
    order = sorted(context.candidates, key=lambda layer: hashlib.sha256(f"{context.seed}:{layer}".encode()).digest())
    return Selection(tuple(order[: context.num_remove]))
