"""Classes of programs in the reports of a study and a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layercut.report.reports import write_reports
from tests.support.answers import build_answers, record
from tests.support.sweeps import curve, sweep_of

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


def test_a_study_groups_failures_by_class(tmp_path: Path) -> None:
    build_answers(tmp_path / "uncut", {"humaneval_plus": programs(["passed"])})
    kinds = ["passed", "wrong_answer", "never_closed", "name"]
    build_answers(tmp_path / "last", {"humaneval_plus": programs(kinds)}, removed=(29,))
    written = write_reports(tmp_path)
    text = written["report"].read_text()
    assert "| model | passed | wrong answer | bracket never closed | name |" in text
    assert "| last | 5 (25 %) | 5 (25 %; 33 %) | 5 (25 %; 33 %) | 5 (25 %; 33 %) |" in text
    assert "How programs fail" in written["page"].read_text()


def test_a_sweep_groups_them_layer_by_layer(tmp_path: Path) -> None:
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
