"""Numbers go to the trackers that were asked for, and nowhere else."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from layercut.cli.options import IO
from layercut.errors import InputError
from layercut.runs import trackers
from layercut.runs.trackers import log_numbers, track_numbers
from layercut.verbs.measure import EvalVerb, SweepVerb
from layercut.verbs.select import SelectVerb
from tests.support.tiny import save_tiny

Logged = list[tuple[dict[str, float], int | None]]


class Fake:
    """Keeps what it gets; its name is that of an installed package."""

    made: list[Fake]

    def __init__(self, project: str, name: str) -> None:
        self.project, self.name, self.ended = project, name, False
        self.logged: Logged = []
        Fake.made.append(self)

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def _fake_trackio(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake.made = []
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Fake)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name == "trackio" or None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


def told_to(out: Path) -> dict[str, Any]:
    return {"out": out, "report_to": "trackio"}


def numbers(request: Any) -> tuple[Fake, dict[str, float]]:
    with request.tracked():
        request.run(IO)
    (found,) = Fake.made
    assert found.ended and found.project == "layercut" and found.name == str(request.out)
    return found, {name: value for values, _ in found.logged for name, value in values.items()}


def test_outside_of_a_block_nothing_is_logged() -> None:
    log_numbers({"a": 1.0})
    with track_numbers(("trackio",), "run", {}):
        pass
    assert Fake.made == []  # nothing was logged, so nothing began


def test_a_block_ends_its_trackers_after_an_error_too() -> None:
    with pytest.raises(KeyError), track_numbers(("trackio",), "run", {"limit": 3}):
        log_numbers({"a": 1, "b": None}, step=2)
        raise KeyError
    (found,) = Fake.made
    assert found.logged == [({"a": 1.0}, 2)] and found.ended and found.config == {"limit": "3"}
    log_numbers({"a": 2.0})
    assert len(found.logged) == 1


def test_a_tracker_that_is_not_there_is_refused_at_once() -> None:
    for names, said in ((("tracko",), "unknown tracker 'tracko'.*trackio"), (("trackio", "wandb"), "install wandb")):
        with pytest.raises(InputError, match=said), track_numbers(names, "run", {}):
            pass


def test_an_evaluation_logs_each_score_with_its_interval(model: Path, tmp_path: Path) -> None:
    asked = EvalVerb.of(model=model, tasks="arithmetic", readouts="rank", limit=8, **told_to(tmp_path / "run"))
    found, told = numbers(asked)
    name = "run/arithmetic.rank/accuracy"
    assert set(told) == {name, f"{name}/low", f"{name}/high"} and told[f"{name}/low"] <= told[name]
    assert found.config["limit"] == "8"


def test_a_search_logs_each_round(model: Path, tmp_path: Path) -> None:
    more = {"criterion": "perplexity", "remove": "2 layers", "held_out": None}
    asked = SelectVerb.of(model=model, **more, **told_to(tmp_path / "run"))
    found, _ = numbers(asked)
    rounds = [(values["search/chosen"], step) for values, step in found.logged if "search/chosen" in values]
    assert [step for _, step in rounds] == [1, 2] and len({layer for layer, _ in rounds}) == 2


def test_a_sweep_logs_each_layer(model: Path, tmp_path: Path) -> None:
    more = {"objective": "brackets", "readouts": "rank", "limit": 4, "layers": "0-2"}
    asked = SweepVerb.of(model=model, **more, **told_to(tmp_path / "run"))
    found, _ = numbers(asked)
    assert [step for values, step in found.logged if any(name.startswith("sweep/") for name in values)] == [0, 1, 2]


def test_trackio_itself_keeps_the_numbers(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "db"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed")
    asked = EvalVerb.of(model=model, tasks="arithmetic", readouts="rank", limit=8, **told_to(tmp_path / "run"))
    with asked.tracked():
        asked.run(IO)
    (file,) = (tmp_path / "db").glob("*.db")
    with sqlite3.connect(file) as store:
        (row,) = store.execute("select metrics from metrics")
    assert set(json.loads(row[0])) == {f"run/arithmetic.rank/accuracy{end}" for end in ("", "/low", "/high")}
