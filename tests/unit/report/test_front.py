"""Plans and other models by bytes and by what they keep."""

from __future__ import annotations

from pathlib import Path

from layercut.report.first import first_of_prune
from layercut.report.front import BEHIND, OTHERS, PLANS, front_figure, front_table, versus_words, weighed
from layercut.report.html.page import PAGE
from layercut.report.reports import write_reports
from layercut.report.table import plain
from layercut.runs.prune import RESULT, Alternative, Estimated, PruneResult
from tests.support.pages import write_prune


def alternative(result: PruneResult, name: str, disk_bytes: int, value: float) -> Alternative:
    share = Estimated(value=value, low=value - 0.05, high=value + 0.05, n=64)
    (one,) = result.tested[0].kept
    kept = one.model_copy(update={"kept": share, "bound": value - 0.04})
    return Alternative(
        model=name,
        run=f"versus/{name}",
        disk_bytes=disk_bytes,
        level=0.975,
        kept=(kept,),
        passed=value > 0.9,
        verdict="passed" if value > 0.9 else "shown to fail",
    )


def with_others(folder: Path) -> PruneResult:
    """Plans of 524 and 510 MB that keep 90 and 80 %, weights of 80 MB that keep 97 %, and of 160 MB that keep 40 %."""
    result = PruneResult.load(write_prune(folder))
    sizes = (524_000_000, 510_000_000)
    tested = tuple(one.model_copy(update={"disk_bytes": each}) for one, each in zip(result.tested, sizes, strict=True))
    others = alternative(result, "q4.gguf", 80_000_000, 0.97), alternative(result, "q8.gguf", 160_000_000, 0.4)
    return result.model_copy(update={"tested": tested, "versus": others})


def test_without_other_models_there_is_no_front(tmp_path: Path) -> None:
    result = PruneResult.load(write_prune(tmp_path))
    assert weighed(result) == [] and front_figure(result) is None and first_of_prune(result).figure is None


def test_a_model_is_on_the_front_where_no_smaller_one_keeps_as_much(tmp_path: Path) -> None:
    result = with_others(tmp_path)
    models = weighed(result)
    assert [(one.label, one.series, one.on_front) for one in models] == [
        ("20", PLANS, False),
        ("20,21", PLANS, False),
        ("q8.gguf", OTHERS, False),
        ("q4.gguf", OTHERS, True),
    ]
    rows = [[plain(cell) for cell in row] for row in front_table(result).rows]
    assert rows[0] == ["20", "524 MB (-3 %)", "arithmetic short answer", "90 [86, 94] %", "87 %", "passed", "no"]
    assert rows[3][1:] == ["80.0 MB (-85 %)", "arithmetic short answer", "97 [92, 102] %", "93 %", "passed", "yes"]
    assert "Each of the 2 other models is tested at 97.5%" in versus_words(result)


def test_the_plot_has_a_point_for_each_model_and_the_goal(tmp_path: Path) -> None:
    figure = front_figure(with_others(tmp_path))
    assert figure is not None and len(figure.panels) == 1
    points = figure.panels[0].spec["data"]["values"]
    assert sorted((point["series"], point["y"]) for point in points) == [
        (BEHIND, 40.0), (BEHIND, 80.0), (BEHIND, 90.0), (OTHERS, 97.0)
    ]  # fmt: skip
    assert figure.panels[0].spec["usermeta"]["hover"][0].startswith("model: 20\nweights: 524 MB")


def test_the_page_shows_it(tmp_path: Path) -> None:
    folder = write_prune(tmp_path)
    result = PruneResult.load(folder)
    with_others(tmp_path / "other").save(folder)
    assert (folder / RESULT).is_file() and PruneResult.load(folder) != result
    write_reports(folder)
    page = (folder / PAGE).read_text("utf-8")
    assert "What each model keeps, against its bytes" in page and "q4.gguf" in page


def test_the_page_begins_with_the_model_to_take(tmp_path: Path) -> None:
    result = with_others(tmp_path)
    assert result.better is not None and result.better.model == "q4.gguf"
    assert first_of_prune(result).answer.startswith("**Take q4.gguf.**")
    larger = result.model_copy(update={"versus": (alternative(result, "q8.gguf", 900_000_000, 0.97),)})
    assert larger.better is None and first_of_prune(larger).answer.startswith("**Remove 1 layer.**")
