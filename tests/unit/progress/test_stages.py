"""The table of prune: a line every half minute without a terminal, also inside one answer, and 80 columns on one."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from layercut.progress import heartbeat
from layercut.progress.activity import wrote
from layercut.progress.bars import StageProgress


def shown(width: int, height: int = 24, num_depths: int = 3) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    progress = StageProgress(console, ["original", "path", "speed"])
    progress.step("path")
    progress.end("original", note="gsm8k (chain) 61%, arithmetic (short) 85%")
    for depth in range(1, num_depths + 1):
        progress.end(f"depth {depth}", note="without 20-24,26", chosen="97%", shown="95% passed", style="green")
    progress.begin(f"depth {num_depths + 1}", "choosing the next layer")
    progress("answers", 40, 120)
    console.print(progress)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_says_stage_depth_what_is_kept_and_the_step() -> None:
    text = shown(80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "depth 3" in text and "without 20-24,26" in text and "97%" in text and "95% passed" in text
    assert "answers 40 of 120" in text and "step 2 of 3" in text and "at most" not in text


def test_the_number_of_the_step_never_falls() -> None:
    console = Console(file=io.StringIO(), width=200)
    progress = StageProgress(console, ["original", "confirm", "speed"])
    for step in ("original", "confirm", "versus", "original", "speed"):
        progress.step(step)
        progress.end("depth 1")
    assert isinstance(console.file, io.StringIO)
    said = [line.removeprefix("depth 1: ") for line in console.file.getvalue().splitlines()]
    assert said == [f"step {number} of 3" for number in (1, 2, 2, 2, 3)]


def test_a_low_terminal_shows_the_last_depths() -> None:
    text = shown(80, height=14, num_depths=12)
    assert len(text.splitlines()) <= 14 and "depth 13" in text and "depth 2 " not in text


def test_one_long_answer_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)
    console = Console(file=io.StringIO(), width=200)
    progress = StageProgress(console)
    with progress.running():
        progress.begin("depth 1", "scoring report items")
        progress("gsm8k (chain)", 0, 8)
        for _ in range(40):
            wrote(8, 512)
            time.sleep(0.01)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) > 2 and all("gsm8k (chain) 0 of 8" in line for line in lines)
    assert "tokens written" in lines[-1] and "at most 512 left" in lines[-1]


def test_each_counter_has_its_own_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=120)
    progress = StageProgress(console)
    progress.begin("search", "reading")
    progress("answers read", 10, 50)  # ten were known
    assert "left of this step" not in progress._step
    now[0] += 20
    progress("answers read", 20, 50)
    assert progress._step == "answers read 20 of 50, 01:00 left of this step"
    progress("answers read", 50, 50)
    assert progress._step == "answers read 50 of 50"
    console.print(progress)
    assert "kept" not in console.file.getvalue() and "time left" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_counter_that_begins_again_is_numbered_and_does_not_run_backwards() -> None:
    progress = StageProgress(Console(file=io.StringIO(), width=120))
    progress.begin("size -5 %", "choosing")
    said = []
    for done in (0, 40, 0, 40, 0):
        progress("answers", done, 40)
        said.append(progress._step)
    assert said[1:3] == ["answers 40 of 40", "answers, part 2: 0 of 40"] and said[4] == "answers, part 3: 0 of 40"
    progress.begin("size -10 %", "choosing")
    progress("answers", 0, 40)
    assert progress._step == "answers 0 of 40"
