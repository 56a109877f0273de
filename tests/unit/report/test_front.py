"""Plans and other models by bytes and by what they keep."""

from __future__ import annotations

from pathlib import Path

from layercut.report.first import first_of_prune
from layercut.report.front import BEHIND, OTHERS, PLANS, Front, front_figure, front_of, front_table
from layercut.report.reports import write_reports
from layercut.report.table import plain_cell
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


def the_front(folder: Path) -> Front:
    found = front_of(with_others(folder))
    assert found is not None
    return found


def test_a_model_is_on_the_front_where_no_smaller_or_faster_one_keeps_as_much(tmp_path: Path) -> None:
    front = the_front(tmp_path)
    assert [(one.label, one.series, one.smallest, one.fastest, one.picked) for one in front.models] == [
        ("20", PLANS, False, True, False),
        ("20,21", PLANS, False, False, False),
        ("q8.gguf", OTHERS, False, False, False),
        ("q4.gguf", OTHERS, True, True, True),
    ], "q8.gguf was not timed"
    lines, columns = front_table(front).rows, front_table(front).columns
    rows = [[plain_cell(column.value(line)) for column in columns] for line in lines]
    assert rows[0] == [
        "20", "524 MB (-3 %)", "2.20 kB", "2.4 s (x 0.80 [0.79, 0.81])", "arithmetic short answer", "90 [86, 94] %",
        "87 %", "passed", "seconds",
    ]  # fmt: skip
    assert rows[2][2] == rows[2][3] == "not timed" and rows[2][-1] == "-"
    assert rows[3][1:2] + rows[3][5:] == ["80.0 MB (-85 %)", "97 [92, 102] %", "93 %", "passed", "bytes and seconds"]
    assert "share an error of 5 %" in front.note
    later = front_of(with_others(tmp_path).model_copy(update={"error": 0.1}))  # named afterwards
    assert later is not None and "the whole answer errs in up to 10 %" in later.note
    result = with_others(tmp_path)
    equal = alternative(result, "q5.gguf", 90_000_000, 0.97)
    tied = front_of(result.model_copy(update={"versus": (*result.versus, equal)}))
    assert tied is not None and [one.label for one in tied.models if one.smallest] == ["q4.gguf"], "the smaller of two"
    result = PruneResult.load(write_prune(tmp_path))
    assert front_of(result) is None and first_of_prune(result).figure is None


def test_the_plots_have_a_point_for_each_model_and_the_goal(tmp_path: Path) -> None:
    figure = front_figure(the_front(tmp_path))
    by_bytes, by_seconds = (panel.spec["data"]["values"] for panel in figure.panels)
    assert sorted((point["series"], point["y"], point["x"], point["hollow"]) for point in by_bytes) == [
        (BEHIND, 40.0, 29.74, True), (BEHIND, 80.0, 94.8, True), (BEHIND, 90.0, 97.4, True),
        (OTHERS, 97.0, 14.87, False),
    ]  # fmt: skip
    assert sorted((point["series"], point["y"], point["x"]) for point in by_seconds) == [
        (BEHIND, 80.0, 120.0), (OTHERS, 97.0, 90.0), (PLANS, 90.0, 80.0)
    ]  # fmt: skip
    assert figure.panels[0].spec["usermeta"]["hover"][0].startswith("model: 20\nweights: 524 MB")


def test_the_page_begins_with_the_model_to_take_and_shows_the_front(tmp_path: Path) -> None:
    result = with_others(tmp_path)
    result.save(tmp_path)
    write_reports(tmp_path)
    page = (tmp_path / PAGE).read_text("utf-8")
    assert "Take q4.gguf." in page and "What each model keeps, against its bytes and seconds" in page
    assert result.better is not None and result.better.model == "q4.gguf"
    assert first_of_prune(result).answer.startswith("**Take q4.gguf.**")
    larger = result.model_copy(update={"versus": (alternative(result, "q8.gguf", 900_000_000, 0.97),)})
    assert larger.better is None and first_of_prune(larger).answer.startswith("**Remove 1 layer.**")


def test_an_answer_without_other_models_says_that_none_was_weighed(tmp_path: Path) -> None:
    result = with_others(tmp_path)
    assert "other models" not in dict(first_of_prune(result).facts)
    alone = dict(first_of_prune(result.model_copy(update={"versus": ()})).facts)["other models"]
    assert alone.startswith("none was weighed") and "--versus" in alone.replace("\\", "")
