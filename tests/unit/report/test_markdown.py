"""report.md: rebuilt byte for byte from the folders, claims only what the rows support, shows what was lost."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.comparison import compare_runs
from layercut.evidence.study import StudyResults, find_study_runs
from layercut.report.reports import write_reports
from layercut.report.words import isolation_words
from layercut.runs.directory import PAGE, RunFolder
from layercut.runs.study import ARMS
from layercut.text import code_span, escape_inline, number_text, p_value
from tests.support.answers import build_answers, record
from tests.support.pages import curve, sweep_of
from tests.support.run_builder import Result, build_run


def write_report(out, *, uncut, cuts):
    study = StudyResults(uncut, list(cuts), compare_runs(uncut, cuts), 0, [])
    return write_reports(out, study=study)["report"]


@pytest.fixture(scope="module")
def report(quickstart, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    uncut, cuts = quickstart
    path = write_report(out, uncut=uncut, cuts=cuts)
    assert path == out / "report.md"
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.md"]
    return path.read_text()


def test_the_folder_alone_rebuilds_it_byte_for_byte(quickstart, tmp_path, monkeypatch):
    uncut, _ = quickstart
    study = tmp_path / "elsewhere" / "quickstart"
    shutil.copytree(uncut.path.parent, study)
    write_reports(study)
    files = [study / name for name in ("report.md", PAGE)]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    monkeypatch.chdir(study)
    write_reports(Path())
    assert [file.read_bytes() for file in files] == before
    assert not any(str(tmp_path).encode() in text for text in before)


def test_every_main_row_is_in_the_matrix(report, quickstart):
    rows = [row for row in compare_runs(*quickstart) if row.is_headline]
    head, _, *lines = [line for line in report.split("## Scores of every plan")[1].splitlines() if line[:1] == "|"]
    heads = [cell.strip().replace("\\", "") for cell in head.strip("|").split("|")]
    cells = {}
    for line in lines[:2]:
        values = [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
        cells |= {(values[0], name): value for name, value in zip(heads, values, strict=True)}
    assert [cells[name, "removed"] for name in ("reverse-3", "random-3")] == ["27-29", "4,11,20"]
    above = {(row.task, row.readout) for row in rows if row.finding != "at chance"}
    assert len(rows) > 2 * len(above) and len(cells) == 2 * (2 + len(above)), "tasks at chance have no column"
    for row in rows:
        if (row.task, row.readout) in above:
            cell = cells[row.cut.name, f"{row.task}: {row.readout}"]
            assert f"{100 * row.values.uncut.value:.1f} % to {100 * row.values.cut.value:.1f} %" in cell
            assert f"p {p_value(row.values.p_value)}, Holm {p_value(row.p_value)}" in cell
            assert row.finding in cell
            assert row.uncut_is_at_chance or cell.startswith(f"{number_text(row.kept_share.value)} % ")
    assert report.count("per task (--limit 64)") == 1
    assert "(0.25) on 64 items" in report


def test_provenance(report):
    made = report.split("## How this was made")[1]
    expected = ("layercut run examples/quickstart.yaml", "0.1.0", "torch 2.13.0", "Some CPU, 2 cores")
    assert [words for words in expected if words not in made] == []
    assert "10,000 resamples, seed 0" in report


def test_a_resumed_run_says_so(tmp_path):
    result = Result(task="copy", readout="short", score=0.8, n=20)
    uncut = build_run(tmp_path / "uncut", [result])
    cut = build_run(tmp_path / "cut", [result], removed=(1,))
    environment = cut.environment
    later = {**environment, "time": "2026-02-03T00:00:00Z", "layercut": "0.2.0"}
    (cut.path / "environment.json").write_text(json.dumps({**environment, "resumed": [later]}))
    text = write_report(tmp_path, uncut=uncut, cuts=[cut]).read_text()
    assert "cut was resumed 2026-02-03T00:00:00Z" in text and "layercut 0.2.0" in text


def test_a_study_was_begun_before_the_models_in_it_were_asked(tmp_path):
    result = Result(task="copy", readout="short", score=0.8, n=20)
    RunFolder.begin(tmp_path, {"model": "m"}).close()
    uncut, cut = build_run(tmp_path / "uncut", [result]), build_run(tmp_path / "a", [result], removed=(1,))
    begun = {**uncut.environment, "time": "2026-01-01T00:00:09Z", "command": "layercut run mine.yaml"}
    (tmp_path / "environment.json").write_text(json.dumps(begun))
    text = write_report(tmp_path, uncut=uncut, cuts=[cut]).read_text()
    assert "2026-01-01T00:00:09Z on " in text and "layercut run mine.yaml" in text
    assert uncut.environment["time"] not in text


def test_the_isolation_of_programs_is_said_and_long_answers_are_cut():
    assert isolation_words({"packages": {}}) == []
    later = [{"sandbox": "bubblewrap and limits"}, {"sandbox": "limits only, no isolation (--unsafe-exec)"}]
    assert isolation_words({"sandbox": "bubblewrap and limits", "resumed": later}) == [
        "Isolation of generated programs: bubblewrap and limits; later limits only, no isolation (--unsafe-exec)."
    ]
    assert code_span("y" * 200) == f"`{'y' * 77}...`"
    assert code_span(" \n ") == "(empty)"
    assert escape_inline("a_b*c|d\n[e]") == r"a\_b\*c\|d \[e\]"


def test_a_study_is_found_in_the_order_of_its_plans(quickstart, tmp_path):
    shutil.copytree(quickstart[0].path.parent, tmp_path / "quickstart")
    assert [run.name for run in find_study_runs(tmp_path / "quickstart")[1]] == ["random-3", "reverse-3"]
    with RunFolder.begin(tmp_path / "planned", {}) as study:
        study.notes.put(ARMS, [{"name": name} for name in ("uncut", "reverse-3", "random-3")])
    for name in ("random-3", "reverse-3", "uncut"):
        shutil.move(tmp_path / "quickstart" / name, tmp_path / "planned" / name)
    uncut, cuts = find_study_runs(tmp_path / "planned")
    assert [run.name for run in (uncut, *cuts)] == ["uncut", "reverse-3", "random-3"]


def test_the_seed_of_the_study_is_used_again(tmp_path):
    result = Result(task="copy", readout="short", score=0.8, n=20)
    build_run(tmp_path / "uncut", [result], settings={"seed": 7})
    build_run(tmp_path / "cut", [result], removed=(1,), settings={"seed": 7})
    assert b"seed 7" in write_reports(tmp_path)["report"].read_bytes()


def test_folders_that_are_no_study(tmp_path):
    with pytest.raises(InputError, match="no run called uncut"):
        write_reports(tmp_path)
    build_run(tmp_path / "uncut", [Result(task="copy", readout="short", score=1.0, n=2)])
    with pytest.raises(InputError, match="pruned model"):
        write_reports(tmp_path)


ENDS = {"passed": "passed", "name": "NameError: x", "never_closed": "SyntaxError: x"}
ENDS |= {"wrong_answer": "AssertionError", "timeout": "timeout: x"}


def programs(kinds: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    """Twenty programs that end in these ways, one after the other."""
    found = []
    for place in range(20):
        kind = kinds[place % len(kinds)]
        about = {"answer": ENDS[kind], "program": kind, "metrics": {"pass": float(kind == "passed")}}
        found.append(record(f"program-{place}", "\n    return x", **about, **more))
    return found


def test_a_study_groups_failures_by_class(tmp_path):
    build_answers(tmp_path / "uncut", {"humaneval_plus": programs(["passed"])})
    kinds = ["passed", "wrong_answer", "never_closed", "name"]
    build_answers(tmp_path / "last", {"humaneval_plus": programs(kinds)}, removed=(29,))
    written = write_reports(tmp_path)
    text = written["report"].read_text()
    assert "| model | passed | wrong answer | bracket never closed | name |" in text
    assert "| last | 5 (25 %) | 5 (25 %; 33 %) | 5 (25 %; 33 %) | 5 (25 %; 33 %) |" in text
    assert "How programs fail" in written["page"].read_text()


def test_a_sweep_groups_them_layer_by_layer(tmp_path):
    sweep = sweep_of(curve("humaneval_plus", "chain", {3: 100, 7: 50}, n=20))
    answers: list[dict[str, Any]] = []
    for removed, kinds in (([], ["passed"]), ([3], ["passed", "timeout"]), ([7], ["never_closed"])):
        answers += programs(kinds, key={"removed": removed})
    run = build_answers(tmp_path / "sweep", {"humaneval_plus": answers})
    sweep.save(run.path)
    written = write_reports(run.path)
    text = written["report"].read_text()
    assert "| layer | passed | timeout | bracket never closed |" in text
    assert "| 3 | 10 (50 %) | 10 (50 %; 100 %) | 0 (0 %; 0 %) |" in text
    assert "<td>10 (50 %; 100 %)</td>" in written["page"].read_text()
