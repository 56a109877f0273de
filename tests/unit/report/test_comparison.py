"""Tables of comparisons as they are printed, and ``layercut compare``: two runs of the same items."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from layercut.cli.main import app
from layercut.errors import InputError
from layercut.evidence.comparison import compare_runs
from layercut.evidence.means import overall_means
from layercut.evidence.paired import compare_paired
from layercut.evidence.two_runs import (
    compare_in_full,
    compare_two,
    comparison_notes,
    open_run,
    to_dict,
    verdict_on_row,
)
from layercut.report.comparison import comparison_tables, two_runs_table
from layercut.runs.directory import RunFolder
from layercut.runs.records import read_records
from tests.support.pages import printed
from tests.support.run_builder import QUICKSTART, Result, build_run
from tests.unit.report.test_advice import row


def table_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if any(word in line for word in ("rank", "short", "chain"))]


@pytest.mark.parametrize("width", [80, 160])
def test_a_study_fits_without_wrapped_cells(quickstart, width):
    rows = compare_runs(*quickstart)
    text = printed(*comparison_tables(rows), width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert len(table_lines(text)) == len(rows), "every row on a line of its own"
    assert "…" not in text


def test_what_rows_say_at_the_extremes_too(quickstart, extreme):
    rows = compare_runs(*quickstart)
    text = printed(*comparison_tables(rows), width=160)
    (line,) = [line for line in table_lines(text) if "short" in line and "lost" in line]
    values = next(row.values for row in rows if row.finding == "lost")
    for expected in ("64", "8", f"{100 * values.uncut.value:.0f} [", f"{100 * values.cut.value:.0f} ["):
        assert expected in " ".join(line.split())
    for expected, times in (("27-29", 1), ("134.5M to 123.9M", 2), ("(--limit 64)", 2), ("18 comparisons", 1)):
        assert text.count(expected) == times
    assert "10,000 resamples, seed 0" in text
    assert "n/a" in next(line for line in table_lines(text) if "at chance" in line)
    text = printed(*comparison_tables(compare_runs(*extreme)), width=120)
    assert all(expected in text for expected in ("1 to 1,000", "0.0 [-61.7, +62.0]", "-3.4", "n/a"))
    assert not any(wrong in text.replace("findings", "") for wrong in ("--limit", "nan", "inf"))


def test_each_task_counts_once_in_the_mean():
    rows = [
        row("cut", 3, "a", 0.8, readout="rank"),
        row("cut", 3, "a", 0.8, readout="short"),
        row("cut", 3, "a", 0.2, readout="chain"),  # the short one came first
        row("cut", 3, "c", 0.2, readout="chain"),
        replace(row("cut", 3, "e", 0.5, readout="rank"), is_headline=False),
        replace(row("cut", 3, "f", 0.5, readout="gold"), is_share=False),
    ]
    (mean,) = overall_means(rows).values()
    assert mean.tasks == ("a", "c") and abs(mean.retention_above_chance.value - 0.5) < 0.01
    (line,) = [line for line in printed(*two_runs_table(rows), width=160).splitlines() if "mean of" in line]
    assert line.startswith("written, mean of 2 tasks: A 70 %, B 40 %, B - A -30.0 [")
    assert line.endswith("(n 800)") and overall_means(rows[:3]) == {}


def test_ranked_and_written_answers_have_a_mean_each(runs):
    means = overall_means(compare_two(*runs))
    assert {kind: mean.tasks for kind, mean in means.items()} == {
        "ranked": ("arithmetic", "brackets", "copy", "gsm_symbolic"),
        "written": ("arithmetic", "brackets", "copy", "gsm_symbolic"),
    }
    assert means["ranked"].uncut != means["written"].uncut and means["ranked"].over_tasks is None


RESULTS = (Result(task="copy", readout="short", score=0.9, n=60), Result(task="copy", readout="rank", score=0.9, n=60))


@pytest.fixture(scope="module")
def runs(quickstart) -> tuple[RunFolder, RunFolder]:
    _, (reverse, random) = quickstart
    return reverse, random


def test_two_plans_are_paired_item_by_item(runs):
    rows = compare_two(*runs)
    assert len(rows) == len(QUICKSTART) + 1
    row = next(row for row in rows if (row.task, row.readout) == ("copy", "short"))
    first, second = ({one["id"]: one["metrics"]["accuracy"] for one in run.records("copy", "short")} for run in runs)
    assert row.values == compare_paired([*first.values()], [second[item] for item in first], chance=0.0)
    assert verdict_on_row(row) == "better"
    assert {verdict_on_row(row) for row in compare_two(*reversed(runs))} == {"worse", "not shown"}


def test_the_table_names_both_runs_and_every_row(runs):
    rows = compare_two(*runs)
    text = printed(*two_runs_table(rows, ["a note"]), width=100)
    assert "A: reverse-3, 3 of 30 decoder layers removed" in text
    assert "B: random-3, 3 of 30 decoder layers removed" in text
    assert text.count("better") + text.count("worse") + text.count("not shown") == len(rows) + 2
    assert "note: a note" in text


def test_json_is_for_machines(runs):
    rows = compare_in_full(*runs)
    result = CliRunner().invoke(app, ["compare", str(runs[0].path), str(runs[1].path), "--json"])
    data = json.loads(result.output)
    assert result.exit_code == 0 and data["rows"] == json.loads(json.dumps(to_dict(rows)["rows"]))
    assert (data["first"]["run"], data["second"]["run"]) == ("reverse-3", "random-3")
    assert [row["verdict"] for row in data["rows"]] == [verdict_on_row(row) for row in rows]
    assert data["rows"][0]["difference"]["n"] == 64
    assert {*data["means"]} == {"ranked", "written"}
    assert all({"first", "second", "tasks"} <= mean.keys() for mean in data["means"].values())
    assert not any("uncut" in values for values in (*data["rows"], *data["means"].values()))


def test_each_file_of_samples_is_parsed_once(runs, quickstart, tmp_path, monkeypatch):
    """By ``compare`` with its notes and page, which passes over two metrics of one file; by a report of two plans."""
    parsed: Counter[str] = Counter()

    def read(path: Path) -> list[dict[str, Any]]:
        parsed[f"{path.parts[-3]}/{path.name}"] += 1
        return read_records(path)

    monkeypatch.setattr("layercut.runs.directory.read_records", read)
    command = ["compare", str(runs[0].path), str(runs[1].path), "--page", str(tmp_path / "page.html")]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert len(parsed) == 2 * len(QUICKSTART) and {*parsed.values()} == {1}
    parsed.clear()
    uncut, cuts = quickstart
    once = compare_runs(uncut, cuts)
    assert len(parsed) == 3 * len(QUICKSTART) and {*parsed.values()} == {1}
    compare_runs(uncut, cuts)
    assert {*parsed.values()} == {2}, "nothing stays in memory"
    assert once == compare_runs(RunFolder.open(uncut.path), [RunFolder.open(cut.path) for cut in cuts])


def test_what_only_one_run_holds_is_said(tmp_path):
    both, one = build_run(tmp_path / "both", RESULTS), build_run(tmp_path / "one", RESULTS[:1])
    assert len(compare_two(both, one)) == 1
    assert comparison_notes(both, one) == ["copy (rank): only in both, not in one"]


def test_a_run_is_compared_neither_with_itself_nor_with_a_study(tmp_path, quickstart):
    run = build_run(tmp_path / "run", RESULTS)
    with pytest.raises(InputError, match="both runs are .*/run; give two different ones"):
        compare_two(run, RunFolder.open(tmp_path / "." / ".." / tmp_path.name / "run"))
    with pytest.raises(InputError, match=r"is a whole study; give two of its runs, such as .*/uncut"):
        open_run(quickstart[0].path.parent)


def test_other_items_decoding_or_tasks_are_refused_in_one_line(tmp_path):
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


def test_any_two_models_are_compared_on_the_same_items_and_it_is_said(tmp_path):
    base, model = (build_run(tmp_path / name, RESULTS) for name in ("base", "model"))
    with_model_hash(model, "another")
    assert len(compare_two(base, model)) == len(RESULTS)
    (said,) = comparison_notes(base, model)
    assert said.startswith("base is of the original model 5a3c0de1f00d, model of another")


def with_model_hash(run: RunFolder, model_hash: str) -> None:
    metrics = run.metrics()
    metrics["plan"]["model_hash"] = model_hash
    (run.path / "metrics.json").write_text(json.dumps(metrics))


def test_a_cut_checkpoint_is_known_by_the_plan_that_lies_in_it(tmp_path):
    base, checkpoint = build_run(tmp_path / "base", RESULTS), tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "plan.json").write_text(json.dumps({"model_hash": "5a3c0de1f00d"}))
    healed = build_run(tmp_path / "healed", RESULTS, settings={"model": str(checkpoint)})
    with_model_hash(healed, "of the checkpoint")
    assert len(compare_two(base, healed)) == 2
