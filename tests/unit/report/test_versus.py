"""Plans and other models by bytes and by what they keep."""

from __future__ import annotations

from pathlib import Path

from layercut.report.first import first_of_prune
from layercut.report.reports import write_reports
from layercut.report.table import plain_cell
from layercut.report.versus import how_weighed, versus_table
from layercut.runs.directory import PAGE
from layercut.runs.prune import Alternative, Estimated, PruneResult, Served, TimedSpeed
from tests.support.pages import write_prune


def alternative(result: PruneResult, name: str, disk_bytes: int, value: float) -> Alternative:
    share = Estimated(value=value, low=value - 0.05, high=value + 0.05, n=64)
    (one,) = result.tested[0].kept
    kept = one.model_copy(update={"kept": share, "bound": value - 0.04})
    passed, verdict = value > 0.9, "passed" if value > 0.9 else "shown to fail"
    about = {"model": name, "run": f"versus/{name}", "disk_bytes": disk_bytes, "level": 0.975}
    return Alternative(**about, kept=(kept,), passed=passed, verdict=verdict)


def with_others(folder: Path) -> PruneResult:
    """Plans of 524 and 510 MB that keep 90 and 80 %, weights of 80 MB that keep 97 %, and of 160 MB that keep 40 %."""
    result = PruneResult.load(write_prune(folder))
    sizes = (524_000_000, 510_000_000)
    tested = tuple(one.model_copy(update={"disk_bytes": each}) for one, each in zip(result.tested, sizes, strict=True))
    others = alternative(result, "q4.gguf", 80_000_000, 0.97), alternative(result, "q8.gguf", 160_000_000, 0.4)
    served = [
        served_as(run, share) for run, share in (*zip(names(result), (0.8, 1.2), strict=True), (others[0].run, 0.9))
    ]
    update = {"tested": tested, "versus": others, "served": tuple(served), "error": 0.05, "serve": "batch 1"}
    update["serve_tokens"] = 600
    return result.model_copy(update=update)


def names(result: PruneResult) -> list[str]:
    return [one.name for one in result.tested]


def served_as(run: str, share: float) -> Served:
    """A model whose requests take this share of three seconds."""
    before, after, ratio = (
        Estimated(value=each * share, low=each * (share - 0.01), high=each * (share + 0.01), n=7)
        for each in (3 / share, 3, 1)
    )
    speed = TimedSpeed(name="request", unit="s", better="lower", batch_size=1, uncut=before, cut=after, ratio=ratio)
    return Served(run=run, speed=(speed,), memory_bytes=1000, cache_bytes_per_token=2.0)


def test_every_model_has_a_line_with_what_it_weighs_takes_and_keeps(tmp_path: Path) -> None:
    result = with_others(tmp_path)
    table = versus_table(result)
    rows = [[plain_cell(column.value(line)) for column in table.columns] for line in table.rows]
    assert rows[0] == [
        "20", "524 MB (-3 %)", "2.4 s (x 0.80 [0.79, 0.81])", "arithmetic short answer", "90 [86, 94] %", "87 %",
        "passed",
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["20", "20,21", "q8.gguf", "q4.gguf"], "the largest first"
    assert rows[2][2] == "not timed"
    assert rows[3][1:2] + rows[3][4:] == ["80.0 MB (-85 %)", "97 [92, 102] %", "93 %", "passed"]
    assert [line[0].style for line in table.rows] == ["plain", "plain", "plain", "strong"]
    assert "at most 5 % of all cases" in how_weighed(result)
    assert "at most 10 %" in how_weighed(result.model_copy(update={"error": 0.1}))
    assert not versus_table(PruneResult.load(write_prune(tmp_path))).rows


def test_the_page_begins_with_the_model_to_take_and_weighs_all(tmp_path: Path) -> None:
    result = with_others(tmp_path)
    result.save(tmp_path)
    write_reports(tmp_path)
    page = (tmp_path / PAGE).read_text("utf-8")
    assert "Take q4.gguf." in page and "Plans and other models on the same items" in page
    assert result.better is not None and result.better.model == "q4.gguf"
    assert first_of_prune(result).answer.startswith("**Take q4.gguf.**")
    larger = result.model_copy(update={"versus": (alternative(result, "q8.gguf", 900_000_000, 0.97),)})
    assert larger.better is None and first_of_prune(larger).answer.startswith("**Remove 1 layer.**")
