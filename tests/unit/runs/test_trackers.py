"""Numbers go to the trackers that were asked for, and nowhere else."""

import json
import sqlite3
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from layercut.cli.options import IO
from layercut.errors import InputError
from layercut.runs import trackers
from layercut.runs.trackers import log_numbers, track_numbers
from layercut.verbs.base import Verb
from layercut.verbs.measure import EvalVerb, SweepVerb
from layercut.verbs.select import SelectVerb

Logged = list[tuple[dict[str, float], int | None]]


class Fake:
    """Keeps what it gets; its name is that of an installed package."""

    made: "list[Fake]"

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
def _fake_trackio(monkeypatch) -> None:
    Fake.made = []
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Fake)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name == "trackio" or None)


def run_tracked(verb: type[Verb], **given: Any) -> Verb:
    request = verb.of(report_to="trackio", **given)
    with request.tracked():
        request.run(IO)
    return request


def tracked(verb: type[Verb], **given: Any) -> Fake:
    """What the only tracker got."""
    request = run_tracked(verb, **given)
    (tracker,) = Fake.made
    assert tracker.ended and tracker.project == "layercut" and tracker.name == str(request.out)
    return tracker


def test_outside_of_a_block_nothing_is_logged_and_an_unknown_tracker_is_refused():
    log_numbers({"a": 1.0})
    with track_numbers(("trackio",), "run", {}):
        pass
    assert Fake.made == []  # nothing was logged, so nothing began
    for names, said in ((("tracko",), "unknown tracker 'tracko'.*trackio"), (("trackio", "wandb"), "install wandb")):
        with pytest.raises(InputError, match=said), track_numbers(names, "run", {}):
            pass


def test_a_block_ends_its_trackers_after_an_error_too():
    with pytest.raises(KeyError), track_numbers(("trackio",), "run", {"limit": 3}):
        log_numbers({"a": 1, "b": None}, step=2)
        raise KeyError
    (found,) = Fake.made
    assert found.logged == [({"a": 1.0}, 2)] and found.ended and found.config == {"limit": "3"}
    log_numbers({"a": 2.0})
    assert len(found.logged) == 1


EVALUATION: dict[str, Any] = {"tasks": "arithmetic", "readouts": "rank", "limit": 8}


def test_an_evaluation_logs_each_score_with_its_interval(tiny, tmp_path):
    found = tracked(EvalVerb, model=tiny, out=tmp_path / "run", **EVALUATION)
    told = {name: value for values, _ in found.logged for name, value in values.items()}
    name = "run/arithmetic.rank/accuracy"
    assert set(told) == {name, f"{name}/low", f"{name}/high"} and told[f"{name}/low"] <= told[name]
    assert found.config["limit"] == "8"


def test_a_search_logs_each_round(tiny, tmp_path):
    more = {"criterion": "perplexity", "remove": "2 layers", "held_out": None}
    found = tracked(SelectVerb, model=tiny, out=tmp_path / "run", **more)
    rounds = [(values["search/chosen"], step) for values, step in found.logged if "search/chosen" in values]
    assert [step for _, step in rounds] == [1, 2] and len({layer for layer, _ in rounds}) == 2


def test_a_sweep_logs_each_layer(tiny, tmp_path):
    more = {"objective": "brackets", "readouts": "rank", "limit": 4, "layers": "0-2"}
    found = tracked(SweepVerb, model=tiny, out=tmp_path / "run", **more)
    assert [step for values, step in found.logged if any(name.startswith("sweep/") for name in values)] == [0, 1, 2]


def test_trackio_itself_keeps_the_numbers(tiny, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "db"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed")
    run_tracked(EvalVerb, model=tiny, out=tmp_path / "run", **EVALUATION)
    (file,) = (tmp_path / "db").glob("*.db")
    with sqlite3.connect(file) as store:
        (row,) = store.execute("select metrics from metrics")
    assert set(json.loads(row[0])) == {f"run/arithmetic.rank/accuracy{end}" for end in ("", "/low", "/high")}
