"""report.html in a real browser: plots are drawn, hover speaks, a phone needs no sideways scrolling, CSV is saved.

Needs playwright and a Chromium: the one that the environment variable CHROMIUM names, or one on PATH. Screenshots at
390 and 1280 pixels, light and dark, are kept in test-output/report/.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layercut.report.html.page import write_page
from tests.conftest import ROOT
from tests.support.pages import write_deep_study, write_diagnosis, write_study, write_sweep
from tests.unit.report.test_diagnosis import diagnoses

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'layercut[dev]'")

SHOTS = ROOT / "test-output" / "report"
PHONE, DESKTOP = 390, 1280
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium, or set CHROMIUM to one)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Everything on one page; and a study of many plans."""
    root = tmp_path_factory.mktemp("pages")
    more = [write_sweep(root / "sweep"), write_diagnosis(root / "diagnosis", diagnoses())]
    return {
        "whole": write_page(write_study(root / "study"), more=more),
        "deep": write_page(write_deep_study(root / "deep")),
    }


class Opened:
    """A page in the browser, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True, offline=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console",
            lambda recorded: self.errors.append(recorded.text) if recorded.type != "log" else None,
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.goto(path.as_uri(), wait_until="commit")
        self.page.wait_for_selector("html[data-drawn]", state="attached")


@pytest.mark.parametrize("name", ["whole", "deep"])
@pytest.mark.parametrize(
    ("width", "scheme"), [(PHONE, "light"), (PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")]
)
def test_every_plot_is_drawn_and_nothing_scrolls_sideways(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    opened = Opened(browser, pages[name], width, scheme)
    page = opened.page
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png", full_page=True, timeout=PATIENCE_MS)
    plots = page.locator(".plot")
    assert plots.count() == page.locator(".plot > svg, .plot svg.marks").count() > 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    sizes = page.evaluate("[...document.querySelectorAll('.plot svg.marks')].map(s => s.getBoundingClientRect().width)")
    assert all(100 < size <= width for size in sizes)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    opened.context.close()


def test_hover_says_how_many_items_and_how_sure(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["whole"], DESKTOP, "light")
    first = opened.page.locator("#figure-retention .plot").first
    first.scroll_into_view_if_needed()
    # The large invisible points; the last of them belongs to a pruned model.
    points = first.locator("svg .mark-symbol path[opacity='0'], svg .mark-symbol path[style*='opacity: 0']")
    points.last.hover(force=True)
    tooltip = opened.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    text = tooltip.inner_text()
    assert "n 64" in text
    assert "lost/gained" in text
    assert "kept above chance" in text
    assert "3: " in text
    opened.page.screenshot(path=SHOTS / "hover-1280-light.png", timeout=PATIENCE_MS)
    opened.context.close()


def test_csv_is_saved_from_a_file(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    opened = Opened(browser, pages["whole"], DESKTOP, "light")
    with opened.page.expect_download() as waiting:
        opened.page.locator("a[download='scores-reverse-3.csv']").click()
    file = tmp_path / "scores.csv"
    waiting.value.save_as(file)
    assert waiting.value.suggested_filename == "scores-reverse-3.csv"
    assert file.read_text().startswith("run,removed,num_layers,task,")
    assert len(file.read_text().splitlines()) == 10
    opened.context.close()


def test_the_button_and_the_keyboard_work(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["whole"], DESKTOP, "light")
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
    opened.context.close()


def test_text_of_models_runs_nothing(browser: Any, tmp_path: Path) -> None:
    import json

    from tests.support.run_builder import Result, build_run

    bad = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    result = Result(task="copy", readout="short", score=1.0, n=6, chance=0.0)
    build_run(tmp_path / "uncut", [result])
    build_run(tmp_path / "cut", [Result(**{**vars(result), "score": 0.0})], removed=(1,))
    for run in ("uncut", "cut"):
        file = tmp_path / run / "samples" / "copy.short.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()]
        fields = {"question": bad, "gold": bad, "answer": bad, "completion": f"{bad} {run}"}
        file.write_text("".join(json.dumps({**record, **fields}) + "\n" for record in records))
    opened = Opened(browser, write_page(tmp_path), DESKTOP, "light")
    assert "owned" not in opened.page.title()
    assert opened.page.locator("img").count() == 0
    assert opened.errors == []
    opened.context.close()
