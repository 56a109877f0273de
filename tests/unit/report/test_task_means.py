"""Ranked tasks together and written tasks together: which rows count, and what a line says."""

from __future__ import annotations

from dataclasses import replace

from layercut.evidence.means import form_means
from layercut.report.comparison import means_table
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
    (table,) = means_table(rows, digits=0)
    assert [[cell for _, cell in line[:6]] for line in table.page] == [
        ["cut", "ranked", "2", "800", "70", "58"],
        ["cut", "written", "2", "800", "70", "22"],
    ]
    assert [[str(cell).split(" [")[0] for _, cell in line[6:]] for line in table.page] == [
        ["-12", "83", "80"],
        ["-48", "31", "20"],
    ]
    assert means_table(ranked[:1]) == []
