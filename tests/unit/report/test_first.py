"""A report begins with its answer: the plan, what it keeps, size, speed, side effects, checkpoint and command."""

from pathlib import Path

import pytest

from layercut.evidence.study import prune_result, study_results
from layercut.report import words
from layercut.report.comparison import _matrix
from layercut.report.elements import Table, plain_cell, terminal_table, text_columns
from layercut.report.first import (
    FirstScreen,
    answer_lines,
    depths_table,
    first_of_prune,
    first_of_study,
    how_weighed,
    size_words,
    versus_table,
)
from layercut.report.reports import write_reports
from layercut.runs.directory import PAGE
from layercut.runs.prune import Alternative, Estimated, PruneResult, Served, SideEffect, TimedSpeed, side_effect_words
from layercut.surgery.channels import Channels
from layercut.tasks.suites import SIDE_EFFECTS
from layercut.text import escape_inline
from tests.support.html_page import read_page
from tests.support.pages import printed, write_deep_study, write_prune
from tests.support.run_builder import Result, build_run


def first_of(folder: Path) -> FirstScreen:
    study, result = study_results(folder), prune_result(folder)
    return first_of_prune(result, study.rows) if result else first_of_study(study)


def test_a_plan_that_passed_is_recommended_with_its_checkpoint_and_a_gguf_files_own_share(tmp_path):
    first = first_of(write_prune(tmp_path))
    assert first.answer.startswith("**Remove 1 layer.**")
    facts = dict(first.facts)
    assert "85%" in facts["asked for"] and "arithmetic (short answer)" in facts["asked for"]
    assert facts["recommended plan"] == "`size-3`"
    assert facts["layers removed"] == "20 (1 of 30)"
    assert facts["size"] == "134.5M to 131.0M parameters (-2.6%), 538 MB to 524 MB (-2.6 %) on disk"
    assert facts["speed"] == "decode 40 to 43.2 tokens/s (x 1.08 [1.05, 1.11], batch 1, n 7)"
    assert facts["checkpoint"] == "`model` in this folder"
    assert facts["made by"] == "`layercut prune bundled:smollm2-135m --use math --keep 0.85`"
    assert first.table is not None
    (row,) = [[plain_cell(cell) for _, cell in line] for line in first.table.cells]
    assert row == ["arithmetic short answer", "passed", "102 [89, 118] %", "87 %", "80 %", "81 %", "64"]
    data = PruneResult.load(tmp_path).to_dict()
    data["size"]["uncut"]["gguf_bytes"], data["size"]["cut"]["gguf_bytes"] = 98_000_000, 83_500_000
    text = size_words(PruneResult.model_validate(data))
    assert text.endswith("538 MB to 524 MB (-2.6 %) on disk, 98.0 MB to 83.5 MB (-14.8 %) from GGUF to GGUF")


def test_where_none_passed_the_best_is_named_with_what_would_decide_it_and_all_depths_are_listed(tmp_path):
    first = first_of(write_prune(tmp_path, passed=False))
    assert first.answer == "**No plan passed 85%.** Best: 1 layer."
    facts = dict(first.facts)
    assert "recommended plan" not in facts
    assert facts["best plan"] == "`size-3`"
    assert "model" not in facts["checkpoint"]
    assert facts["to decide it"] == "the same command with `--items 240` and another `--out`"
    table = depths_table(PruneResult.load(tmp_path))
    assert [[plain_cell(cell) for _, cell in line][4:] for line in table.cells] == [
        ["90 [86, 94] %", "87 %", "undecided"],
        ["-", "-", "not tested"],
    ]


@pytest.mark.parametrize("verdict", ["passed", "undecided", "shown to fail"])
def test_a_row_has_one_finding_in_every_table_and_sentence(verdict, tmp_path):
    result = PruneResult.load(write_prune(tmp_path, passed=verdict == "passed"))
    one = result.tested[0]
    kept = tuple(task.model_copy(update={"kept": Estimated(value=0.7, low=0.5, high=0.8, n=64)}) for task in one.kept)
    one = one.model_copy(update={"verdict": verdict, "kept": kept})
    result = result.model_copy(update={"tested": (one,)})
    result.save(tmp_path)
    rows = [row for row in study_results(tmp_path).rows if row.cut.name == "size-3"]
    first, depths = first_of_prune(result, rows), depths_table(result)
    assert first.table is not None
    assert [column.name for column in first.table.columns][:2] == ["task", "finding"]  # in sight on a phone
    assert plain_cell(first.table.cells[0][1][1]) == verdict
    assert [cell for line in depths.cells if (cell := plain_cell(line[-1][1])) != "not tested"] == [verdict]
    assert [row.finding for row in rows] == [verdict]
    matrix = _matrix(rows, [(row.task, row.readout) for row in rows])
    assert [plain_cell(cell).split(" % ")[1].split(" [")[0] for _, cell in matrix.cells[0][2:]] == [verdict]


def test_both_reports_begin_with_it(tmp_path):
    written = write_reports(write_prune(tmp_path))
    first = first_of(tmp_path)
    assert written["page"] == tmp_path / PAGE
    top = written["report"].read_text().split("## Every plan")[0]
    page = read_page(written["page"].read_text())
    screen = page.text[page.text.index("How many layers") : page.text.index("Scores of every plan")]
    assert top.startswith("# ") and "bundled:smollm2-135m" in top.partition("\n")[0]
    assert first.answer in top
    assert first.answer.replace("**", "") in screen
    for name, text in first.facts:
        assert f"- {name}: {text}" in top
        assert name in screen
        assert text.replace("`", "") in screen
    assert [row[0] for row in page.tables["depths"][1:]] == ["20", "20,21"]


def test_advice_names_what_would_write_a_checkpoint(tmp_path):
    facts = dict(first_of(write_deep_study(tmp_path)).facts)
    assert facts["best plan"].endswith("lora`")
    assert "`checkpoints: true`" in facts["checkpoint"]
    assert facts["made by"] == "`layercut run examples/quickstart.yaml`"


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_and_intervals_stay_whole_where_columns_are_left_out(width):
    names = [f"iterative-task-accuracy-6{ending}" for ending in ("", "+seam", "+seam-seed1")]
    rows = [[name, "gsm_symbolic", "short", "100", "88 [74, 106]", "undecided"] for name in names for _ in range(2)]
    head, narrow = ["plan", "task", "readout", "n", "keeps", "finding"], {"readout": 1, "n": 2}
    table = Table(name="t", caption="", columns=text_columns(*head, numeric=["n"], narrow=narrow), rows=rows)
    lines = [line.rstrip() for line in printed(terminal_table(table), width=width).splitlines()]
    assert max(map(len, lines)) <= width
    for name in names:
        assert sum(name in line.split() for line in lines) == 2
    assert sum("88 [74, 106]" in line for line in lines) == len(rows)


@pytest.mark.parametrize(("seconds", "shown"), [(1.7523, "1.75 to 0.876 s"), (0.1214, "121 to 60.7 ms")])
def test_times_have_no_exponents(seconds, shown):
    timed = {"uncut": seconds, "cut": seconds / 2, "ratio": 0.5}
    timed = {name: Estimated(value=value, n=7) for name, value in timed.items()}
    speed = TimedSpeed(name="first token", unit="s", better="lower", batch_size=1, **timed)
    assert words.speed_words(speed) == f"first token {shown} (x 0.50, batch 1, n 7)"


def test_plans_with_thinner_mlps_are_shown_by_their_size(tmp_path):
    kept = {layer: tuple(range(1152)) for layer in range(30)}
    thin = Channels(field="intermediate_size", width=1536, kept=kept)

    def scored(score: float) -> list[Result]:
        return [Result(task="copy", readout="short", score=score, n=200, chance=0.0)]

    build_run(tmp_path / "uncut", scored(0.9), num_parameters=1000)
    build_run(tmp_path / "thin", scored(0.88), channels=thin, criterion="rms", num_parameters=900)
    build_run(tmp_path / "both", scored(0.4), channels=thin, removed=(4, 5), criterion="rms", num_parameters=800)
    written = write_reports(tmp_path)
    first, page = first_of(tmp_path), read_page(written["page"].read_text())
    assert first.answer.startswith("**For everything that was measured, remove 25 % of the MLP channels:**")
    assert dict(first.facts)["removed"] == "mlp:0.25" and "-10.0%" in dict(first.facts)["size"]
    assert "What can be removed?" in page.text and "parameters removed, %" in page.text
    assert [row[:2] for row in page.tables["matrix"][1:]] == [["thin", "mlp:0.25"], ["both", "4,5 mlp:0.25"]]
    assert words.removal_words(study_results(tmp_path).rows[-1].cut) == (
        "2 of 30 decoder layers removed (6.7%): 4,5; 25.0% of the MLP channels removed"
    )


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
    shares = {tested[0].name: 0.8, tested[1].name: 1.2, others[0].run: 0.9}
    served = tuple(served_as(run, share) for run, share in shares.items())
    update = {"tested": tested, "versus": others, "served": served, "error": 0.05, "serve": "batch 1"}
    return result.model_copy(update=update | {"serve_tokens": 600})


def served_as(run: str, share: float) -> Served:
    """A model whose requests take this share of three seconds."""
    before, after, ratio = (
        Estimated(value=each * share, low=each * (share - 0.01), high=each * (share + 0.01), n=7)
        for each in (3 / share, 3, 1)
    )
    speed = TimedSpeed(name="request", unit="s", better="lower", batch_size=1, uncut=before, cut=after, ratio=ratio)
    return Served(run=run, speed=(speed,), memory_bytes=1000, cache_bytes_per_token=2.0)


def test_every_model_has_a_line_with_what_it_weighs_takes_and_keeps(tmp_path):
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


def test_the_page_begins_with_the_model_to_take_and_weighs_all(tmp_path):
    result = with_others(tmp_path)
    result.save(tmp_path)
    write_reports(tmp_path)
    page = (tmp_path / PAGE).read_text("utf-8")
    assert "Take q4.gguf." in page and "Plans and other models on the same items" in page
    assert result.better is not None and result.better.model == "q4.gguf"
    assert first_of_prune(result).answer.startswith("**Take q4.gguf.**")
    larger = result.model_copy(update={"versus": (alternative(result, "q8.gguf", 900_000_000, 0.97),)})
    assert larger.better is None and first_of_prune(larger).answer.startswith("**Remove 1 layer.**")


def effect(task: str, difference: float, p: float) -> SideEffect:
    def share(value: float) -> Estimated:
        return Estimated(value=value, low=value - 0.1, high=value + 0.1, n=24)

    scores = {"uncut": share(0.75), "cut": share(0.75 + difference), "difference": share(difference)}
    return SideEffect(task=task, p=p, is_shown=p < 0.05, **scores)


def with_effects(folder: Path, *effects: SideEffect) -> PruneResult:
    return PruneResult.load(write_prune(folder)).model_copy(update={"side_effects": effects})


def test_where_nothing_changed_one_line_says_so_and_where_nothing_was_checked_none(tmp_path):
    result = with_effects(tmp_path / "checked", effect("endings", -0.08, 0.4), effect("instructions", 0.0, 1.0))
    words = "2 checks of 24 items: no loss shown; losses of up to 18 and 10 points are not excluded"
    assert side_effect_words(result.side_effects) == words
    result = with_effects(tmp_path / "unchecked")
    assert side_effect_words(result.side_effects) == ""
    assert "side effects" not in dict(first_of_prune(result).facts)


def test_a_difference_that_counts_is_said_in_plain_words_with_its_counts(tmp_path):
    result = with_effects(tmp_path, effect("endings", -0.5, 0.001), effect("instructions", -0.25, 0.06))
    first = first_of_prune(result)
    line = (
        "2 checks of 24 items: stops by itself: 6 of 24, before 18 of 24 (-50 [-60, -40] points); losses of up to 35 "
        "points in other checks are not excluded; follows instructions about form: 12 of 24, before 18 of 24 (-25 "
        "[-35, -15] points; unconfirmed, n = 24)"
    )
    assert [line for line in answer_lines(result, tmp_path) if line.startswith("Watch out: 2 checks")]
    assert side_effect_words(result.side_effects) == line and escape_inline(line) in dict(first.facts)["side effects"]
    table = next(part for part in first.behind if getattr(part, "name", "") == "side_effects")
    assert [row[0] for row in table.rows] == [effect.what for effect in result.side_effects]
    better = with_effects(tmp_path / "better", effect("endings", 0.25, 0.01), effect("instructions", -0.08, 0.4))
    line = side_effect_words(better.side_effects)
    assert line.startswith("2 checks of 24 items: no loss shown; stops by itself: 24 of 24")
    assert line.endswith("; losses of up to 18 points in other checks are not excluded")
    for task in (*SIDE_EFFECTS, "needle_2k", "needle_8k"):
        assert effect(task, 0, 1).what != task
