"""The input and the result of a criterion: Context and Selection.

A criterion is one function ``(Context) -> Selection``. Most rank layers once by an importance score
(``by_importance``); the others judge whole plans by an Objective and search (``greedy.py``, ``refine.py``). Scores
share one sense: higher means keep, higher means better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from layercut.errors import InputError, unknown
from layercut.progress import Progress, silent
from layercut.seed import check_seed

if TYPE_CHECKING:
    from layercut.engine.base import Engine
    from layercut.models.loading import LoadedModel
    from layercut.runs.directory import RunFolder
    from layercut.selection.calibration import Calibration
    from layercut.selection.racing import Standings
    from layercut.surgery.plan import CutPlan

Racing = Literal["off", "exact", "confident"]
"""How candidates of a round are compared; see ``layercut.selection.racing``."""
Normalise = Literal["raw", "chance"]
"""``raw``: cut / uncut. ``chance``: (cut - chance) / (uncut - chance)."""
RACE_ERROR = 0.05


def check_race(normalise: str, race: str, race_error: float) -> None:
    """Refuse settings of a search by task scores that do not exist.

    Raises:
        InputError: an unknown ``normalise`` or ``race``, or an error rate that is none.
    """
    if normalise not in get_args(Normalise):
        raise unknown("normalise", normalise, get_args(Normalise))
    if race not in get_args(Racing):
        raise unknown("race", race, get_args(Racing))
    if not 0 < race_error < 1:
        raise InputError(f"race_error {race_error} is not a probability; use one between 0 and 1, such as 0.05.")


@dataclass(frozen=True, kw_only=True)
class Context:
    """The model, the wish and the material of one selection."""

    num_layers: int
    """Decoder layers of the original model."""
    num_remove: int
    """How many of them go."""
    seed: int = 0
    protect: frozenset[int] | None = None
    """Layers that must stay; empty: none. None: nothing was said, and the criterion's own default holds."""
    loaded: LoadedModel | None = None
    """The model itself, for criteria that read weights or gradients."""
    engine: Engine | None = None
    """For criteria that run the model."""
    calibration: Calibration | None = None
    """Text for criteria that are measured on text."""
    objective: Objective | None = None
    """For criteria that search by task scores."""
    folder: RunFolder | None = None
    """Where a search keeps its journal; without it nothing is kept."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's own settings, such as ``token`` or ``norm``."""
    progress: Progress = silent

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
        """Layers that must stay, as far as it was said."""
        return self.protect or frozenset()

    @property
    def candidates(self) -> tuple[int, ...]:
        """Layers that may go, ascending."""
        return tuple(layer for layer in range(self.num_layers) if layer not in self.protected)


class Selection(NamedTuple):
    """The outcome of a criterion."""

    removed: tuple[int, ...]
    """Removed layers, in order of removal."""
    importance: Mapping[int, float] = {}
    """Score per candidate layer, higher means keep; empty for criteria that have none."""
    details: Mapping[str, Any] = {}
    """What else was measured (rounds, baselines, candidates), JSON-able; goes into the plan's ``scores``."""


Criterion = Callable[[Context], Selection]


class Objective(Protocol):
    """How good plans are. Higher is better; the original model's value is the yardstick."""

    def describe(self) -> Mapping[str, Any]:
        """What decides the values: tasks, versions, items' hash, decoding, calibration hash. JSON-able."""
        ...

    def values(self, plans: Sequence[CutPlan]) -> list[float]:
        """One value per plan. Whatever was measured before is taken from the journal, never measured again."""
        ...


@runtime_checkable
class RacingObjective(Objective, Protocol):
    """An objective that can find the best of many plans without the values of all."""

    def round(self, plans: Sequence[CutPlan]) -> Standings:
        """The best plan's value, and of the others a value or a bound; of equals the later plan wins."""
        ...

    @property
    def racing(self) -> Mapping[str, Any]:
        """How it is done, JSON-able."""
        ...


def engine_and_text(context: Context, criterion: str) -> tuple[Engine, Calibration]:
    """What a criterion runs, and on what.

    Raises:
        InputError: the context lacks one of them.
    """
    if context.engine is None or context.calibration is None or not context.calibration.texts:
        raise InputError(
            f"{criterion} runs the model on calibration text, and there is no "
            f"{'engine' if context.engine is None else 'text'} here; use layercut select with --calibration, or give "
            "the Context an engine and a calibration."
        )
    return context.engine, context.calibration


def wanted_objective(context: Context, criterion: str) -> Objective:
    """The context's objective.

    Raises:
        InputError: it has none.
    """
    if context.objective is None:
        raise no_objective(criterion)
    return context.objective


def no_objective(criterion: str) -> InputError:
    """The error for a criterion that judges by task scores and was given no tasks."""
    return InputError(f"{criterion} chooses layers by task scores; name the tasks: --objective arithmetic,copy.")


def by_importance(
    context: Context, importance: Mapping[int, float], details: Mapping[str, Any] | None = None
) -> Selection:
    """Remove the least important candidates, least important first; of equals the later layer goes first.

    >>> by_importance(Context(num_layers=3, num_remove=2), {0: 0.5, 1: 0.1, 2: 0.1}).removed
    (2, 1)
    """
    order = sorted(context.candidates, key=lambda layer: (importance[layer], -layer))
    return Selection(tuple(order[: context.num_remove]), dict(importance), details or {})
