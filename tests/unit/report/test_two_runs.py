"""layercut compare: two runs of the same items, or one line that says why not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from layercut.cli.main import app
from layercut.errors import InputError
from layercut.evidence.paired import compare_paired
from layercut.evidence.two_runs import compare_two, comparison_notes, open_run, to_dict, verdict_on_row
from layercut.report.comparison import two_runs_table
from layercut.runs.directory import RunFolder
from tests.support.run_builder import QUICKSTART, Result, build_run

RESULTS = (Result(task="copy", readout="short", score=0.9, n=60), Result(task="copy", readout="rank", score=0.9, n=60))


@pytest.fixture(scope="module")
def runs(quickstart) -> tuple[RunFolder, RunFolder]:
    _, (reverse, random) = quickstart
    return reverse, random


def test_two_plans_are_paired_item_by_item(runs) -> None:
    rows = compare_two(*runs)
    assert len(rows) == len(QUICKSTART) + 1
    row = next(row for row in rows if (row.task, row.readout) == ("copy", "short"))
    values = [
        {record["id"]: float(record["outcome"] == "right") for record in run.records("copy", "short")} for run in runs
    ]
    direct = compare_paired(list(values[0].values()), [values[1][item] for item in values[0]], chance=0.0)
    assert row.values == direct
    assert verdict_on_row(row) == "better"
    assert {verdict_on_row(row) for row in compare_two(*reversed(runs))} == {"worse", "not shown"}


def test_the_table_names_both_runs_and_every_row(runs) -> None:
    rows = compare_two(*runs)
    console = Console(file=io.StringIO(), width=100)
    for block in two_runs_table(rows, ["a note"]):
        console.print(block)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "A: reverse-3, 3 of 30 decoder layers removed" in text
    assert "B: random-3, 3 of 30 decoder layers removed" in text
    assert text.count("better") + text.count("worse") + text.count("not shown") == len(rows) + 2
    assert "note: a note" in text


def test_json_is_for_machines(runs) -> None:
    rows = compare_two(*runs)
    result = CliRunner().invoke(app, ["compare", str(runs[0].path), str(runs[1].path), "--json"])
    data = json.loads(result.output)
    assert result.exit_code == 0 and data["rows"] == json.loads(json.dumps(to_dict(rows)["rows"]))
    assert (data["first"]["run"], data["second"]["run"]) == ("reverse-3", "random-3")
    assert [row["verdict"] for row in data["rows"]] == [verdict_on_row(row) for row in rows]
    assert data["rows"][0]["difference"]["n"] == 64
    assert {"first", "second", "tasks"} <= data["mean"].keys()
    assert not any("uncut" in values for values in (*data["rows"], data["mean"]))


def test_what_only_one_run_holds_is_said(tmp_path: Path) -> None:
    both, one = build_run(tmp_path / "both", RESULTS), build_run(tmp_path / "one", RESULTS[:1])
    assert len(compare_two(both, one)) == 1
    assert comparison_notes(both, one) == ["copy (rank): only in both, not in one"]


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", RESULTS)
    with pytest.raises(InputError, match="both runs are .*/run; give two different ones"):
        compare_two(run, RunFolder.open(tmp_path / "." / ".." / tmp_path.name / "run"))


def test_other_items_decoding_or_tasks_are_refused_in_one_line(tmp_path: Path) -> None:
    base = build_run(tmp_path / "base", RESULTS)
    fewer = build_run(tmp_path / "fewer", [Result(**{**vars(one), "n": 50}) for one in RESULTS])
    warm = build_run(tmp_path / "warm", RESULTS, settings={"decoding": {"temperature": 0.7}})
    other = build_run(tmp_path / "other", [Result(task="brackets", readout="short", score=0.5)])
    for run, message in (
        (fewer, r"base and fewer hold different items of copy \(short\): 60 and 50, 50 in common"),
        (warm, "base was decoded with temperature 0.0, .* warm with temperature 0.7"),
        (other, "base and other have no task in common"),
    ):
        with pytest.raises(InputError, match=message) as error:
            compare_two(base, run)
        assert "\n" not in str(error.value)


def test_any_two_models_are_compared_on_the_same_items_and_it_is_said(tmp_path: Path) -> None:
    base = build_run(tmp_path / "base", RESULTS)
    model = build_run(tmp_path / "model", RESULTS)
    metrics = json.loads((model.path / "metrics.json").read_text())
    metrics["plan"]["model_hash"] = "another"
    (model.path / "metrics.json").write_text(json.dumps(metrics))
    assert len(compare_two(base, model)) == len(RESULTS)
    (said,) = comparison_notes(base, model)
    assert said.startswith("base is of the original model 5a3c0de1f00d, model of another")


def test_a_cut_checkpoint_is_known_by_the_plan_that_lies_in_it(tmp_path: Path) -> None:
    base = build_run(tmp_path / "base", RESULTS)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "plan.json").write_text(json.dumps({"model_hash": "5a3c0de1f00d"}))
    healed = build_run(tmp_path / "healed", RESULTS, settings={"model": str(checkpoint)})
    metrics = json.loads((healed.path / "metrics.json").read_text())
    metrics["plan"]["model_hash"] = "of the checkpoint"
    (healed.path / "metrics.json").write_text(json.dumps(metrics))
    assert len(compare_two(base, healed)) == 2


def test_a_study_is_no_run(quickstart) -> None:
    with pytest.raises(InputError, match=r"is a whole study; give two of its runs, such as .*/uncut"):
        open_run(quickstart[0].path.parent)
