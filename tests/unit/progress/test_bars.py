"""The live line of studies and of prune on a terminal, and their lines where there is none."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from layercut.progress import heartbeat
from layercut.progress.activity import report_tokens
from layercut.progress.bars import StageProgress, StudyProgress, StudyStep, progress_bar
from layercut.progress.cost import Workload


def pieces(arms: int = 2) -> list[StudyStep]:
    cells = [StudyStep(f"arm-{i}", "copy (rank)", Workload(kind="copy", num_items=10)) for i in range(arms)]
    return [*cells, StudyStep("", "choosing layers by x", Workload(kind="search x", num_items=1, is_item=False))]


def terminal(width: int = 200) -> Console:
    return Console(file=StringIO(), force_terminal=True, width=width, color_system=None)


def shown(progress: StudyProgress | StageProgress, console: Console) -> str:
    file = console.file
    assert isinstance(file, StringIO)
    file.seek(0)
    file.truncate()
    console.print(progress)
    return file.getvalue()


def test_the_line_of_a_study_says_what_it_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    console = terminal()
    progress = StudyProgress(pieces(), console)
    assert "0 of 2 arms finished" in shown(progress, console)
    with progress.cell(0) as on_progress:
        on_progress(1, 10)
        clock[0] = 6.0
        on_progress(4, 10)
        text = shown(progress, console)
        assert "arm-0: scoring copy (rank)" in text and "00:06 so far" in text
        assert "00:32 left, excluding 1" in text, "16 items of 2 s"
        on_progress(10, 10)
    progress.state("arm-0", "finished")
    progress.state("arm-1", "searching")
    with progress.step(2):
        progress.searching("rounds", 1, 3)
        assert "arm-1: choosing layers: rounds 1 of 3" in shown(progress, console)
        clock[0] = 9.0
    progress.skip(1)
    progress.skip(1)
    assert progress._share() == (21, 21), "counted once"
    progress.state("arm-1", "failed")
    text = shown(progress, console)
    assert "1 of 2 arms finished, 1 failed" in text and "untimed" not in text


def test_cells_that_are_answered_together_share_the_time_and_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    console = terminal()
    work = Workload(kind="copy", num_items=10)
    arms = [f"arm-{number}" for number in range(3)]
    progress = StudyProgress([StudyStep(arm, "copy (rank)", work) for arm in arms], console)
    with progress.cells([0, 1]) as report:
        for at, (index, num) in enumerate([(1, 6), (0, 10), (1, 4)], start=1):
            clock[0] = 10.0 * at
            report(index, num)
    assert progress._share() == (20, 30)
    assert "00:15 left" in shown(progress, console), "20 items took 30 s, 10 are left"
    for index in range(2):
        with progress.cell(index) as on_progress:
            on_progress(10, 10)
    assert progress._share() == (20, 30), "counted once"
    with pytest.raises(ValueError, match="of memory"), progress.cells([2]):
        raise ValueError("out of memory")
    assert "00:00 left" in shown(progress, console)


@pytest.mark.parametrize("width", [80, 120])
def test_all_is_said_on_a_narrow_terminal(width: int) -> None:
    console = terminal(width)
    name = "task_accuracy-refined-12-from-block_influence-12"
    progress = StudyProgress([StudyStep(name, "gsm8k (chain)", Workload(kind="copy", num_items=100_000))], console)
    with progress.cell(0):
        lines = shown(progress, console).splitlines()
    assert max(map(len, lines)) <= width and name in lines[0] and "so far" in lines[-1]


def test_the_line_of_a_study_is_alive_above_that_of_a_healing() -> None:
    console = terminal()
    progress = StudyProgress(pieces(), console)
    assert isinstance(console.file, StringIO)
    with progress.running(), progress.step(2), progress_bar("Training", 8, console, "steps") as on_progress:
        frames = []
        for done, state in ((0, "healing"), (3, "healing"), (7, "finished")):
            progress.state("arm-0", state)
            on_progress(done, 8)
            console.file.seek(0)
            console.file.truncate()
            time.sleep(0.6)  # the thread of the live display draws every quarter of a second
            frames.append(console.file.getvalue())
    for frame, done in zip(frames, (0, 3, 7), strict=True):
        assert "of 2 arms finished" in frame and f"Training: {done} of 8 steps" in frame
    assert "1 of 2 arms finished" in frames[-1]


def test_without_a_terminal_each_piece_is_a_line() -> None:
    console = Console(file=StringIO(), width=200)
    progress = StudyProgress(pieces(), console)
    with progress.running(), progress.cell(0) as on_progress:
        on_progress(10, 10)
    with progress.running(), pytest.raises(ValueError, match="broke"), progress.cell(1) as on_progress:
        on_progress(1, 10)
        raise ValueError("broke")
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().splitlines() == ["arm-0: copy (rank): 10 items, 00:00"]


def test_stages_are_lines_and_the_present_one_has_a_counter() -> None:
    console = terminal()
    progress = StageProgress(console, ["original", "path", "speed"])
    progress.step("path")
    progress.end("depth 1", note="without 20-24,26", chosen="97%", shown="95% passed")
    assert isinstance(console.file, StringIO)
    said = console.file.getvalue().strip()
    assert (
        said == "depth 1: without 20-24,26, keeps 97% on selection items, keeps 95% passed on report items, step 2 of 3"
    )
    progress.begin("depth 2", "choosing the next layer")
    progress("answers", 40, 120)
    text = shown(progress, console)
    assert "depth 2: choosing the next layer, answers 40 of 120" in text and "step 2 of 3" in text


def test_the_number_of_the_step_never_falls() -> None:
    console = Console(file=StringIO(), width=200)
    progress = StageProgress(console, ["original", "confirm", "speed"])
    for step in ("original", "confirm", "versus", "original", "speed"):
        progress.step(step)
        progress.end("depth 1")
    assert isinstance(console.file, StringIO)
    said = [line.removeprefix("depth 1: ") for line in console.file.getvalue().splitlines()]
    assert said == [f"step {number} of 3" for number in (1, 2, 2, 2, 3)]


def test_one_long_answer_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)
    console = Console(file=StringIO(), width=200)
    progress = StageProgress(console)
    with progress.running():
        progress.begin("depth 1", "scoring report items")
        progress("gsm8k (chain)", 0, 8)
        for _ in range(40):
            report_tokens(8, 512)
            time.sleep(0.01)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) > 2 and all("gsm8k (chain) 0 of 8" in line for line in lines)
    assert "tokens written" in lines[-1] and "at most 512 left" in lines[-1]


def test_each_counter_has_its_own_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(file=StringIO(), width=120)
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
    progress = StageProgress(Console(file=StringIO(), width=120))
    progress.begin("size -5 %", "choosing")
    said = []
    for done in (0, 40, 0, 40, 0):
        progress("answers", done, 40)
        said.append(progress._step)
    assert said[1:3] == ["answers 40 of 40", "answers, part 2: 0 of 40"] and said[4] == "answers, part 3: 0 of 40"
    progress.begin("size -10 %", "choosing")
    progress("answers", 0, 40)
    assert progress._step == "answers 0 of 40"
