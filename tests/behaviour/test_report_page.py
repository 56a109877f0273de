"""report.html in a real browser: plots, sorting, filters, all answers, phone, print, accessibility, CSV.

Needs playwright and a Chromium: the one that the environment variable CHROMIUM names, or one on PATH. The check of
accessibility needs axe-core, from `pip install axe-core-python` or a file that AXE names. Screenshots at 390 and 1280
pixels, light and dark, are kept in test-output/report/.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from layercut.report.reports import write_reports
from layercut.runs.directory import RunFolder
from tests.conftest import ROOT
from tests.support.pages import write_deep_study, write_diagnosis, write_prune, write_study, write_sweep
from tests.support.run_builder import Result, build_run
from tests.unit.report.test_diagnosis import diagnoses

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'layercut[dev]'")

SHOTS = ROOT / "test-output" / "report"
PHONE, DESKTOP = 390, 1280
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium, or set CHROMIUM to one)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder of each kind; and a study of many plans."""
    root = tmp_path_factory.mktemp("pages")
    written = {
        "study": write_study(root / "study"),
        "sweep": write_sweep(root / "sweep"),
        "diagnosis": write_diagnosis(root / "diagnosis", diagnoses()),
        "deep": write_deep_study(root / "deep"),
        "prune": write_prune(root / "prune"),
    }
    return {name: write_reports(folder)["page"] for name, folder in written.items()}


class Opened:
    """A page in the browser, and what went wrong in it."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda recorded: self.errors.append(recorded.text) if recorded.type != "log" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda asked: self.requests.append(asked.url))
        page.goto(path.as_uri(), wait_until="commit")


@pytest.fixture
def open_page(browser):
    """Open a page in a context of its own, which is closed after the test."""
    with ExitStack() as contexts:

        def opened(path, width=DESKTOP, scheme="light", scripts=True, **more):
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                java_script_enabled=scripts,
                offline=True,
                **more,
            )
            contexts.callback(context.close)
            opened = Opened(context.new_page(), path)
            opened.page.wait_for_selector("html[data-ready]" if scripts else "html", state="attached")
            return opened

        yield opened


@pytest.mark.parametrize("name", ["study", "sweep", "diagnosis", "deep", "prune"])
@pytest.mark.parametrize(
    ("width", "scheme"), [(PHONE, "light"), (PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")]
)
def test_every_plot_is_drawn_and_nothing_scrolls_sideways(open_page, pages, name, width, scheme):
    opened = open_page(pages[name], width, scheme)
    page = opened.page
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png", full_page=True, timeout=PATIENCE_MS)
    assert (page.locator(".plot").count() >= 1) == (name != "diagnosis")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        "[...document.querySelectorAll('.plot')].map(plot => [...plot.children]"
        ".map(svg => svg.getBoundingClientRect().width).filter(Boolean))"
    )
    assert all(len(shown) == 1 and 100 < shown[0] <= width for shown in sizes), "one picture for each plot"


def test_the_matrix_is_sorted_and_filtered(open_page, pages):
    opened = open_page(pages["deep"])
    table = opened.page.locator("#scores .table").first
    columns = "rows => rows.filter(row => !row.hidden).map(row => row.cells[%d].textContent)"
    rows = table.locator("tbody tr")
    table.get_by_role("button", name="arithmetic: short").click()
    kept = [int(text.split(" %")[0]) for text in rows.evaluate_all(columns % 3)]
    assert kept == sorted(kept)
    table.get_by_role("button", name="arithmetic: short").click()
    assert [int(text.split(" %")[0]) for text in rows.evaluate_all(columns % 3)] == sorted(kept, reverse=True)
    table.get_by_role("searchbox").fill("lora damaged")
    shown = rows.evaluate_all(columns % 0)
    assert 0 < len(shown) < len(kept)
    assert all("lora" in name for name in shown)
    assert table.locator("output").inner_text() == f"{len(shown)} of {len(kept)} rows"


def test_p_and_holm_are_visible_and_a_phone_keeps_the_plan(open_page, pages):
    wide = open_page(pages["study"])
    wide.page.locator("#scores details summary").first.click()
    for table in wide.page.locator("#scores .scroll").all():
        assert table.evaluate("box => box.scrollWidth <= box.clientWidth"), "nothing of it is scrolled away"
    assert "Holm" in wide.page.locator("#scores .matrix").inner_text()
    phone = open_page(pages["study"], PHONE)
    box = phone.page.locator("#scores .scroll").first
    assert box.evaluate("box => { box.scrollLeft = 300; return box.scrollLeft }") == 300
    places = box.locator("tbody th").evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().left)")
    assert all(0 <= place < 60 for place in places)
    phone.page.evaluate("scrollTo(0, 4000)")
    assert phone.page.locator("nav").bounding_box()["y"] == 0, "the contents stay in sight"


def test_every_answer_can_be_found(open_page, pages):
    opened = open_page(pages["study"])
    place = opened.page.locator("#items")
    task, plan, show = (place.locator(f"select[name={name}]") for name in ("task", "plan", "show"))
    task.select_option(label="copy, short answer")
    plan.select_option(label="reverse-3")
    runs = [RunFolder.open(pages["study"].parent / name) for name in ("uncut", "reverse-3")]
    before, after = ({record["id"]: record for record in run.records("copy", "short")} for run in runs)
    lost = [item for item in before if before[item]["outcome"] == "right" and after[item]["outcome"] != "right"]
    place.get_by_text(f"{len(lost)} of 64 items").wait_for()
    place.get_by_role("button", name="Show more").click()
    ids = place.locator(".example p:first-child code:first-child")
    assert ids.all_inner_texts() == lost[:40]
    first = place.locator(".example").first
    assert (first.locator(".side").count(), first.locator("mark").count()) == (2, 1)
    task.select_option(label="gsm_symbolic, chain of steps")
    show.select_option(label="all changed answers")
    written = [[record["completion"] for record in run.records("gsm_symbolic", "chain")] for run in runs]
    changed = [new for old, new in zip(*written, strict=True) if old != new]
    place.get_by_text(f"{len(changed)} of 64 items").wait_for()
    texts = place.locator(".side:last-child pre").all_text_contents()
    assert len(texts) == min(20, len(changed)) > 5
    assert texts == changed[:20], "the mark changes no text"
    task.select_option(label="copy, short answer")
    show.select_option(label="right before, now: cut by the length limit")
    cut = [item for item in lost if after[item]["outcome"] == "cut"]
    place.get_by_text(f"{len(cut)} of 64 items").wait_for()
    show.select_option(label="all items")
    place.get_by_text("64 of 64 items").wait_for()
    place.get_by_role("searchbox").fill("is 17 +")
    place.get_by_text("1 of 64 items").wait_for()
    assert "What is 17 + 10?" in place.locator(".example").inner_text()
    opened.page.locator(".matrix").get_by_title("Answers of random-3 on brackets: short").click()
    place.get_by_text("5 of 64 items").wait_for()  # a cell of the matrix leads to what was lost there
    assert plan.input_value() == "random-3"
    assert opened.errors == []


def test_without_scripts_everything_but_the_list_of_answers_is_there(open_page, pages):
    page = open_page(pages["study"], scripts=False).page
    assert page.locator(".plot .wide").first.is_visible()
    assert page.locator("#scores .matrix").is_visible()
    assert page.get_by_text("This list needs JavaScript").is_visible()
    assert not page.locator("#theme").is_visible()


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("study", DESKTOP, "light"), ("deep", PHONE, "dark"), ("prune", DESKTOP, "dark")]
)
def test_axe_finds_nothing(open_page, pages, name, width, scheme):
    module = importlib.util.find_spec("axe_core_python")
    found = os.environ.get("AXE") or (module and Path(module.origin or "").with_name("axe.min.js"))
    if not found or not Path(found).is_file():
        pytest.skip("no axe-core (pip install axe-core-python, or set AXE to axe.min.js)")
    page = open_page(pages[name], width, scheme, bypass_csp=True).page
    page.wait_for_selector("#items .example")
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    page.evaluate(Path(found).read_text(encoding="utf-8"))
    broken = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in broken] == []


def test_the_button_and_the_keyboard_work(open_page, pages):
    opened = open_page(pages["study"])
    page = opened.page
    behind = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(behind) == "rgb(255, 255, 255)"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "theme"
    page.keyboard.press("Enter")
    assert page.evaluate(behind) == "rgb(20, 23, 26)"
    assert page.locator("#theme").inner_text() == "Light"
    page.emulate_media(media="print")
    assert page.evaluate(behind) == "rgb(255, 255, 255)"


def test_text_of_models_runs_nothing(open_page, tmp_path):
    bad = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    result = Result(task="copy", readout="short", score=1.0, n=6, chance=0.0)
    build_run(tmp_path / "uncut", [result])
    build_run(tmp_path / "cut", [Result(**{**vars(result), "score": 0.0})], removed=(1,))
    for run in ("uncut", "cut"):
        file = tmp_path / run / "samples" / "copy.short.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()]
        fields = {"question": bad, "gold": bad, "answer": bad, "completion": f"{bad} {run}"}
        file.write_text("".join(json.dumps({**record, **fields}) + "\n" for record in records))
    opened = open_page(write_reports(tmp_path)["page"])
    assert "owned" not in opened.page.title()
    assert opened.page.locator("img").count() == 0
    assert opened.errors == []
