"""What every test here shares: problems of generated tasks, a tiny model, a file of choices, and a run of prune."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.pruning.job import Pruned, prune_model
from layercut.pruning.settings import PruneSettings
from layercut.settings import ModelSettings
from tests.support.items import problems_are_made_once  # noqa: F401
from tests.support.pruning import choice_file, spare_model

DEPTHS = {1: 0.15, 2: 0.29, 3: 0.43}
"""Shares of the bytes with which so many layers of the tiny model go."""


def run(
    model: Path,
    file: Path,
    out: Path,
    *,
    anyway: bool = False,
    say: Callable[[str], None] = lambda text: None,
    detail: Callable[[str], None] = lambda text: None,
    console: Console | None = None,
    **settings: Any,
) -> Pruned:
    """Run prune with small settings; None leaves one out."""
    given = {"tasks": (str(file),), "keep": 0.8, "units": "layer", "smaller": DEPTHS[3], "items": 40}
    given |= {"no_side_effects": True, **settings}
    given = {name: value for name, value in given.items() if value is not None}
    places: dict[str, Any] = {"out": out, "console": console or Console(quiet=True), "say": say, "detail": detail}
    settings_of_model = ModelSettings(model=str(model), device="cpu")
    return prune_model(settings_of_model, PruneSettings(**given), anyway=anyway, **places)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return spare_model(tmp_path_factory.mktemp("models") / "spare")


@pytest.fixture(scope="session")
def choices(model: Path, tmp_path_factory) -> Path:
    return choice_file(tmp_path_factory.mktemp("data") / "mine.jsonl", model)


@pytest.fixture(scope="session")
def screen() -> StringIO:
    """What the whole run shows."""
    return StringIO()


@pytest.fixture(scope="session")
def whole(model: Path, choices: Path, screen: StringIO, tmp_path_factory) -> Pruned:
    return run(model, choices, tmp_path_factory.mktemp("whole") / "run", console=Console(file=screen, width=200))
