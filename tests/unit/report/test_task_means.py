"""Ranked tasks together and written tasks together: which rows count, and what a line says."""

from __future__ import annotations

from dataclasses import replace

from layercut.evidence.means import form_means
from layercut.report.comparison import form_mean_lines
from layercut.report.scores import form_mean_tables
from tests.unit.report.test_advice import row


def test_each_task_counts_once_in_its_form() -> None:
    ranked = [row("cut", 3, task, 0.8, readout="rank") for task in ("a", "b")]
    written = [row("cut", 3, task, 0.2, readout="chain") for task in ("a", "c")]
    others = [
        row("cut", 3, "a", 0.5, readout="short"),  # the chain came first
        replace(row("cut", 3, "e", 0.5, readout="rank"), is_headline=False),
        replace(row("cut", 3, "f", 0.5, readout="gold"), is_share=False),
        row("deeper", 5, "a", 0.5, readout="rank"),  # alone
    ]
    rows = [*ranked, *written, *others]
    found = {(one.run, one.form): one.mean for one in form_means(rows)}
    assert set(found) == {("cut", "ranked"), ("cut", "written")}
    assert found["cut", "ranked"].tasks == ("a", "b") and found["cut", "written"].tasks == ("a", "c")
    kept = found["cut", "written"].retention_above_chance
    assert kept is not None and abs(kept.value - 0.2) < 0.01 and kept.n == 800
    first, second = form_mean_lines(rows)
    assert "uncut 70, cut 58, difference -12 [" in first
    assert "uncut 70, cut 22, difference -48 [" in second
    assert "above chance 20 [" in second
    (table,) = form_mean_tables(rows)
    assert [[cell for _, cell in line[:4]] for line in table.page] == [
        ["cut", "ranked", "2", "800"],
        ["cut", "written", "2", "800"],
    ]
    assert form_mean_tables(ranked[:1]) == []
