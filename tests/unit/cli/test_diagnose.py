from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

QUICK = ("--only", "arithmetic,degeneration", "--limit", "2")


def test_diagnose_end_to_end_and_again_without_the_model(
    layercut: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = layercut("cut", tiny, "--remove", "1,2", "--out", tmp_path / "short")
    assert cut.code == 0, cut.err
    done = layercut("diagnose", tiny, "reverse:2", tmp_path / "short", *QUICK, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "arithmetic: " in done.err  # progress of each diagnostic
    folder = tmp_path / "run"
    page = (folder / "diagnose.md").read_text()
    assert "What broke first in reverse-2:" in page
    assert "What broke first in short:" in page
    assert "without 2 of 6" in page
    before = {name: (folder / name).read_bytes() for name in ("diagnose.json", "diagnose.md", "report.html")}

    monkeypatch.setattr("layercut.models.loading.load_model", None)  # nothing has to be computed
    again = layercut("diagnose", tiny, "reverse:2", tmp_path / "short", *QUICK, "--out", folder, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == json.loads(before["diagnose.json"])
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert layercut("report", folder).code == 0
    assert before == {name: (folder / name).read_bytes() for name in before}
    (listed,) = json.loads(layercut("ls", tmp_path, "--json").out)
    assert listed["status"] == "finished" and listed["command"].startswith("layercut diagnose ")
    other = layercut("diagnose", tiny, "reverse:2", tmp_path / "short", *QUICK[:-1], "3", "--out", folder)
    assert other.code == 1
    assert "limit 2, and now" in other.err


def test_a_checkpoint_is_walked_beside_the_uncut_model(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    """All diagnostics on a model that guesses: nothing fails, whatever is missing."""
    assert layercut("cut", tiny, "--remove", "1", "--out", tmp_path / "short").code == 0
    words = ("--limit", "1", "--out", tmp_path / "run", "--only", "brackets,propagation")
    done = layercut("diagnose", tiny, tmp_path / "short", *words)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "run" / "diagnose.json").read_text())["diagnostics"]
    assert list(found) == ["brackets", "propagation"]
    # The tiny model's context is too short for word problems; that is said, and costs nothing else.
    assert any("gsm_symbolic left out" in note for note in found["propagation"]["notes"])
    added = layercut("diagnose", tiny, tmp_path / "short", *words[:-1], "arithmetic")
    assert added.code == 0, added.err
    found = json.loads((tmp_path / "run" / "diagnose.json").read_text())["diagnostics"]
    assert list(found) == ["arithmetic", "brackets", "propagation"]


def test_a_model_without_its_plan_is_measured_as_with_it(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    assert layercut("cut", tiny, "--remove", "1", "--out", tmp_path / "short").code == 0
    (tmp_path / "short" / "plan.json").unlink()
    done = layercut("diagnose", tiny, tmp_path / "short", *QUICK, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    as_plan = layercut("diagnose", tiny, "1", *QUICK, "--out", tmp_path / "plan")
    found, wanted = (json.loads((tmp_path / name / "diagnose.json").read_text()) for name in ("run", "plan"))
    assert (found["arms"][1]["layers"], wanted["arms"][1]["layers"]) == ([], [0, 2, 3, 4, 5])
    rows = [
        [{key: value for key, value in row.items() if key != "cut"} for row in one["diagnostics"][name]["rows"]]
        for name in ("arithmetic", "degeneration")
        for one in (found, wanted)
    ]
    assert as_plan.code == 0 and len(rows[0]) > 3
    assert json.loads(json.dumps(rows[:2]).replace('"short"', '"1"')) == [rows[1], rows[1]]


def test_one_plan_twice_is_refused(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    done = layercut("diagnose", tiny, "0,1", "1,0", "--out", tmp_path / "run")
    assert done.code == 1 and "0,1 and 1,0 are the same model" in " ".join(done.err.split())


def test_two_models_of_one_name_are_refused(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    for layer in ("1", "2"):
        assert layercut("cut", tiny, "--remove", layer, "--out", tmp_path / layer / "short").code == 0
    done = layercut("diagnose", tiny, tmp_path / "1" / "short", tmp_path / "2" / "short", "--out", tmp_path / "run")
    assert done.code == 1 and "two models are called 'short'" in " ".join(done.err.split())
    assert not (tmp_path / "run").exists()


def test_each_layer_alone_is_a_cut_named_by_its_layer(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    done = layercut("diagnose", tiny, "each:1,3-4", "reverse:2", *QUICK, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    data = json.loads((tmp_path / "run" / "diagnose.json").read_text())
    left = {arm["name"]: arm["layers"] for arm in data["arms"]}
    assert left == {
        "uncut": [0, 1, 2, 3, 4, 5], "1": [0, 2, 3, 4, 5], "3": [0, 1, 2, 4, 5], "4": [0, 1, 2, 3, 5],
        "reverse-2": [0, 1, 2, 3],
    }  # fmt: skip
    alone = layercut("diagnose", tiny, "3", *QUICK, "--out", tmp_path / "alone", "--json")
    for name, diagnosis in json.loads(alone.out)["diagnostics"].items():
        assert diagnosis["rows"] == [row for row in data["diagnostics"][name]["rows"] if row["arm"] == "3"]
