"""report.html: one safe file without network, whose numbers are those of report.md."""

import base64
import itertools
import json
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercut.evidence.study import KEEP, judge_plans, study_results
from layercut.evidence.uses import named_use
from layercut.report import advice_text
from layercut.report.reports import write_reports
from layercut.report.retention import retention_section
from layercut.report.source import read_source
from layercut.report.words import first_difference, kept_words, readout_words
from layercut.report.writers import ASSETS, inline_html
from layercut.runs.directory import PAGE
from tests.support.html_page import Page, read_page
from tests.support.pages import ARMS, DEPTHS, write_deep_study, write_diagnosis, write_study, write_sweep
from tests.support.run_builder import QUICKSTART, Result, build_run
from tests.unit.report.test_diagnosis import diagnoses

NAMES = ("quickstart", "sweep", "diagnosis")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("html") / "quickstart")
    assert set(write_reports(folder)) == {"report", "page"}
    return folder


@pytest.fixture(scope="module")
def pages(study: Path, tmp_path_factory) -> dict[str, Path]:
    """The page of a folder of each kind."""
    root = tmp_path_factory.mktemp("pages")
    sweep, diagnosis = write_sweep(root / "sweep"), write_diagnosis(root / "diagnosis", diagnoses())
    return {folder.name: write_reports(folder)["page"] for folder in (study, sweep, diagnosis)}


def read(path: Path) -> Page:
    return read_page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("quickstart", ["answer", "scores", "retention", "items", "provenance"]),
        ("sweep", ["answer", "sensitivity", "provenance"]),
        ("diagnosis", ["answer", "broken", "provenance"]),
    ],
)
def test_a_page_has_its_sections_in_order(pages, name, sections):
    assert [given["id"] for given in read(pages[name]).named("section")] == sections


def test_the_answer_comes_first_and_the_figure_names_every_plan_and_what_it_leaves_out(study):
    page = read(study / PAGE)
    start = page.text.index("How many layers can be removed?")
    answer = page.text[start : page.text.index("Scores of every plan")]
    advice = judge_plans(study_results(study).rows, named_use("all"), keep=KEEP)
    assert advice_text.advice_answer(advice).replace("**", "").replace("`", "") in answer
    assert "random-3 keeps 84 % [65, " in answer
    assert re.search(r"random-3\s*layers removed\s*4,11,20 \(3 of", answer)
    assert "--remove random-3/plan.json --out random-3/checkpoint" in answer
    assert "layercut run examples/quickstart.yaml" in answer
    rows = [row for row in study_results(study).rows if row.cut.name == "random-3" and row.is_headline]
    _, *shown = page.tables["kept"]
    wanted = [(f"{row.task} {readout_words(row.readout)}", row.finding, str(row.n)) for row in rows]
    assert [(line[0], line[1], line[5]) for line in shown] == wanted
    of_copy = [place for place, row in enumerate(rows) if row.task == "copy"]
    assert of_copy
    assert [shown[place][2] for place in of_copy] == [kept_words(rows[place].kept_share) for place in of_copy]
    page = read(study / PAGE)
    assert ": gsm_symbolic" in page.text[page.text.index("Share of the score above chance") :]
    assert {row[0] for row in page.tables["retention"][1:]} == {"reverse-3", "random-3"}


def test_a_kept_checkpoint_is_named_with_its_folder(study, tmp_path):
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study" / "random-3" / "checkpoint").mkdir()
    (tmp_path / "study" / "random-3" / "checkpoint" / "config.json").write_text("{}")
    assert "random-3/checkpoint" in read(write_reports(tmp_path / "study")["page"]).text


@pytest.mark.parametrize("name", NAMES)
def test_it_fetches_nothing(pages, name):
    assert pages[name].stat().st_size < 1_000_000
    page = read(pages[name])
    assert not page.attributes("src")
    assert not page.named("link")
    assert [link for link in page.attributes("href") if not link.startswith("#")] == []
    policy = next(given["content"] for given in page.named("meta") if "http-equiv" in given)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and "script-src 'unsafe" not in policy
    styles = (ASSETS / "report.css").read_text()
    assert "url(" not in styles and "@import" not in styles
    assert set(re.findall(r"https?://[^\"'&\s<]+", pages[name].read_text())) <= {"http://www.w3.org/2000/svg"}


def test_tables_are_those_of_report_md(study):
    page = read(study / PAGE)
    shown = {table[0][0] + table[0][-1]: table for table in page.tables.values()}
    markdown = re.findall(r"(?:^\|.*\n)+", (study / "report.md").read_text(), re.MULTILINE)
    names = set()
    for text in markdown:
        head, _, *lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]
        if (table := shown.get(head[0] + head[-1])) and len(table) == len(lines) + 1:
            names.add(head[0] + head[-1])
            places = [head.index(name) for name in table[0] if name in head]
            for line, row in zip(lines, table[1:], strict=True):
                cells = [re.sub(r"[\\`*]", "", line[place]).split(",")[0] for place in places]
                for cell, as_shown in zip(cells, [row[table[0].index(head[place])] for place in places], strict=True):
                    assert as_shown.replace("*", "").startswith(cell), (cell, as_shown)
    assert {"plancopy: short", "planitems in all to settle", "taskn", "whatvalue"} <= names


@pytest.mark.parametrize("name", NAMES)
def test_every_plot_has_a_text_and_a_table_with_its_numbers(study, pages, name):
    page = read(pages[name])
    plots = [given for given in page.named("div") if given.get("class") == "plot"]
    rows = study_results(study).rows
    drawn = {(row.task, row.readout) for row in rows if row.is_headline and not row.uncut_is_at_chance}
    assert len(plots) == {"quickstart": len(drawn), "sweep": 2, "diagnosis": 0}[name]
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 30 for plot in plots)
    pictures = [given["class"] for given in page.named("svg") if "class" in given]
    assert pictures.count("narrow") == pictures.count("wide") == len(plots)
    assert len(page.named("figure")) == page.text.count("Table of this figure")


@pytest.mark.parametrize("name", NAMES)
def test_headings_have_an_order_and_anchors_are_unique(pages, name):
    page = read(pages[name])
    levels = [level for level, _ in page.headings]
    assert levels[0] == levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    anchors = page.attributes("id")
    assert len(set(anchors)) == len(anchors)
    assert {link[1:] for link in page.attributes("href") if link.startswith("#")} <= set(anchors)


EVIL = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></article></section>",
    '" onmouseover="alert(1)',
    "[link](javascript:alert(1)) ![x](http://example.com/x.png)",
    "\x1b[31m\x00\u2028\ud83d",
    "txt.\u202eexe",
    "{{ 7 * 7 }} {% raw %}",
)


@pytest.mark.parametrize("bad", EVIL)
def test_text_of_models_stays_text(tmp_path, bad):
    result = Result(task="copy", readout="short", score=1.0, n=6, chance=0.0)
    name = "a<script>b"
    other = Result(task="<b>more</b>", readout="rank", score=0.9, n=6)
    build_run(tmp_path / "uncut", [result, other])
    cut = build_run(tmp_path / name, [replace(result, score=0.0), other], removed=(1,))
    for run in ("uncut", name):
        file = tmp_path / run / "samples" / "copy.short.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()]
        fields = {"question": f"Say {bad}", "gold": f"g {bad}", "answer": bad, "completion": f"{bad} {run}"}
        file.write_text("".join(json.dumps({**record, **fields}) + "\n" for record in records))
    text = write_reports(tmp_path)["page"].read_text(encoding="utf-8")
    page = read_page(text)
    assert cut.is_finished
    assert sum("type" not in given for given in page.named("script")) == 1, "a browser runs one, the others are data"
    assert not page.named("img") and not page.named("b") and not page.attributes("onmouseover")
    assert not [link for link in page.attributes("href") if not link.startswith("#")]
    visible = re.sub("[\x00\x1b\u2028\u202e\ud83d]", lambda found: f"\\x{ord(found[0]):02x}", bad)
    (questions, before), *_ = unpacked(text)[1]
    assert questions[0][1] == f"Say {visible}" and before[0][2] == f"{visible} uncut"
    assert name in page.text and "<b>more</b>" in page.text
    assert inline_html("[a](http://x.y) **b**") == "[a](http://x.y) <strong>b</strong>", "a fact has no links"


def test_many_plans_become_lines_by_criterion_and_arm(tmp_path):
    page = read(write_reports(write_deep_study(tmp_path))["page"])
    lines = {f"{criterion}{arm}" for criterion in ("block_influence", "reverse") for arm in ("", ", healed: lora")}
    for panel in retention_section(read_source(tmp_path)).blocks[0].panels:
        points = panel.spec["data"]["values"]
        assert {point["series"] for point in points} == lines
        for name in lines:
            assert [round(point["x"]) for point in points if point["series"] == name] == [0, *DEPTHS]
        assert len({point["x"] for point in points if round(point["x"]) == DEPTHS[0]}) == 4, "bars do not overlap"
    assert len(page.tables["retention"]) == 1 + 2 * 2 * len(DEPTHS) * len(ARMS)
    assert len(page.tables["matrix"]) == 1 + 2 * len(DEPTHS) * len(ARMS)


def unpacked(html: str) -> tuple[dict[str, Any], list[Any]]:
    """The index of the packed answers and their blocks, as the page's script reads them."""
    page = read_page(html)
    scripts = zip(page.named("script"), page.scripts, strict=True)
    data = [(given["class"], text) for given, text in scripts if "class" in given]
    blocks = [json.loads(zlib.decompress(base64.b64decode(text))) for kind, text in data if kind == "block"]
    return json.loads(next(text for kind, text in data if kind == "index")), blocks


def test_every_answer_is_on_the_page(study):
    index, blocks = unpacked((study / PAGE).read_text())
    found = study_results(study)
    assert [(one["task"], len(one["plans"])) for one in index["tasks"]] == [(result.task, 2) for result in QUICKSTART]
    for one, result in zip(index["tasks"], QUICKSTART, strict=True):
        items, before = blocks[one["block"]]
        records = found.uncut.records(result.task, result.readout)
        assert items == [[r["id"], r["question"], r["gold"]] for r in records]
        assert before == [[r["outcome"], r["answer"], r.get("completion", r["answer"])] for r in records]
        for plan, run in zip(one["plans"], found.cuts, strict=True):
            assert plan["name"] == run.name
            after = blocks[plan["block"]]
            assert [line[0] for line in after] == [r["outcome"] for r in run.records(result.task, result.readout)]
            for old, new in zip(before, after, strict=True):
                assert new[3:] == ([] if old[2] == new[2] else list(first_difference(old[2], new[2])))


def test_extreme_scores_have_a_page(tmp_path, extreme):
    uncut, _ = extreme
    shutil.copytree(uncut.path.parent, tmp_path / "extreme")
    written = write_reports(tmp_path / "extreme")
    for text in (read(written["page"]).text, written["report"].read_text()):
        assert not re.search(r"\bnan\b|\binf\b|None(?!\.|:)", text)
    assert not re.search(r"[\"(, ]NaN\b", (tmp_path / "extreme" / PAGE).read_text())


def test_colours_have_contrast():
    styles = (ASSETS / "report.css").read_text()
    blocks = re.findall(r":root[^{]*\{([^}]*)\}", styles)
    themes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]
    assert len(themes) == 4
    assert themes[1] == themes[2], "the dark page is the same by system and by button"
    for colours in themes:
        for name in ("ink", "soft", "link", "good", "bad"):
            for behind in ("page", "raised"):
                assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)
        for behind in ("mark", "kept", "weak", "lost"):
            assert contrast(colours["ink"], colours[behind]) >= 4.5
        for name in ("ranked", "written", "line", *(f"series-{place}" for place in range(1, 7))):
            assert contrast(colours[name], colours["page"]) >= 3, name


def contrast(first: str, second: str) -> float:
    """As WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
