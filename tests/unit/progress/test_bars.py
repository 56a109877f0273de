"""Tables of studies and of prune on a terminal, and their lines where there is none."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from layercut.progress import heartbeat
from layercut.progress.activity import wrote
from layercut.progress.bars import StageProgress, StudyProgress, StudyStep, watched
from layercut.progress.cost import Workload


def pieces(arms: int = 2) -> list[StudyStep]:
    cells = [StudyStep(f"arm-{i}", "copy (rank)", Workload(kind="copy", num_items=10)) for i in range(arms)]
    return [*cells, StudyStep("", "choosing layers by x", Workload(kind="search x", num_items=1, is_item=False))]


def terminal(height: int = 40) -> Console:
    return Console(file=StringIO(), force_terminal=True, width=100, height=height, color_system=None)


def shown(progress: StudyProgress, console: Console) -> str:
    file = console.file
    assert isinstance(file, StringIO)
    file.seek(0)
    file.truncate()
    console.print(progress)
    return file.getvalue()


def test_the_table_says_what_every_arm_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    console = terminal()
    progress = StudyProgress(pieces(), console)
    text = shown(progress, console)
    assert "0 of 2 arms finished" in text and "time left: after" in text and text.count("0/10") == 2
    with progress.cell(0) as on_progress:
        on_progress(1, 10)
        clock[0] = 6.0
        on_progress(4, 10)
        text = shown(progress, console)
        assert "asking: copy (rank)" in text and "4/10" in text and "00:12" in text, "6 items of 2 s"
        assert "00:32 left, excluding 1" in text
        on_progress(10, 10)
    progress.state("arm-0", "finished")
    progress.state("arm-1", "searching", "x")
    progress.searching("rounds", 1, 3)
    text = shown(progress, console)
    assert "1 of 2 arms finished" in text and "searching: rounds 1/3" in text
    with progress.step(2):
        clock[0] = 9.0
    progress.skip(1)
    progress.skip(1)
    assert "10/10" in shown(progress, console).splitlines()[2], "counted once"
    progress.state("arm-1", "failed")
    assert "1 failed" in (text := shown(progress, console)) and "never timed" not in text


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
    text = shown(progress, console)
    assert text.count("10/10") == 2 and "00:15 left" in text, "20 items took 30 s, 10 are left"
    for index in range(2):
        with progress.cell(index) as on_progress:
            on_progress(10, 10)
    assert shown(progress, console).count("10/10") == 2, "counted once"
    with pytest.raises(ValueError, match="of memory"), progress.cells([2]):
        raise ValueError("out of memory")
    assert "00:00 left" in shown(progress, console)


def test_a_low_terminal_shows_what_is_worked_on() -> None:
    console = terminal(height=16)
    progress = StudyProgress(pieces(30), console)
    progress.state("arm-20", "asking", "copy (rank)")
    text = shown(progress, console)
    assert "arm-20" in text and "arm-3 " not in text and "24 not shown" in text
    assert len(text.splitlines()) <= 16


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_of_a_cut_and_its_healing_stay_apart(width: int) -> None:
    name = "task_accuracy-refined-12-from-block_influence-12"
    cell = Workload(kind="copy", num_items=100_000)
    console = Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
    progress = StudyProgress([StudyStep(one, "gsm8k (chain)", cell) for one in (name, f"{name}+seam")], console)
    progress.state(name, "asking", "gsm8k (chain)")
    lines = shown(progress, console).splitlines()
    assert max(map(len, lines)) <= width and lines[0].endswith("time left")
    cut, healed = (line for line in lines if line.startswith("task"))
    assert "asking: gsm8k (chain)" in cut and "0/100000" in cut and "0/100000" in healed
    assert healed.split()[0].endswith("+seam") and cut.split()[0].endswith("influence-12")


def test_the_table_goes_on_while_a_healing_shows_its_bar() -> None:
    console = terminal()
    progress = StudyProgress(pieces(), console)
    with progress.running(), watched("Training", 20, console, "steps") as on_progress:
        on_progress(0, 20)
        progress.state("arm-1", "healing")
        on_progress(5, 20)
        time.sleep(0.6)
        assert isinstance(console.file, StringIO)
        last = console.file.getvalue()[-2000:]
    assert "arm-1" in last and "healing" in last and "5/20 steps" in last


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


def test_the_table_is_alive_above_the_bar_of_a_healing() -> None:
    console = terminal()
    progress = StudyProgress(pieces(), console)
    assert isinstance(console.file, StringIO)
    with progress.running(), progress.step(2), watched("Training", 8, console, "steps") as on_progress:
        progress.state("arm-0", "healing")
        frames = []
        for done, state in ((0, "healing"), (3, "healing"), (8, "finished")):
            progress.state("arm-0", state)
            on_progress(done, 8)
            console.file.seek(0)
            console.file.truncate()
            time.sleep(0.6)  # the thread of the live display draws every quarter of a second
            frames.append(console.file.getvalue())
    wanted = (("0/8 steps", "healing"), ("3/8 steps", "healing"), ("8/8 steps", "finished"))
    for frame, (bar, state) in zip(frames, wanted, strict=True):
        last = frame.split("of 2 arms finished")[-2].rsplit("time left", 1)[-1]
        assert state in last and "Training" in frame and bar in frame
    assert "1 of 2 arms finished" in frames[-1]


def stages(width: int, height: int = 24, num_depths: int = 3) -> str:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    progress = StageProgress(console, ["original", "path", "speed"])
    progress.step("path")
    progress.end("original", note="gsm8k (chain) 61%, arithmetic (short) 85%")
    for depth in range(1, num_depths + 1):
        progress.end(f"depth {depth}", note="without 20-24,26", chosen="97%", shown="95% passed", style="green")
    progress.begin(f"depth {num_depths + 1}", "choosing the next layer")
    progress("answers", 40, 120)
    console.print(progress)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_says_stage_depth_what_is_kept_and_the_step() -> None:
    text = stages(80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "depth 3" in text and "without 20-24,26" in text and "97%" in text and "95% passed" in text
    assert "answers 40 of 120" in text and "step 2 of 3" in text and "at most" not in text


def test_the_number_of_the_step_never_falls() -> None:
    console = Console(file=StringIO(), width=200)
    progress = StageProgress(console, ["original", "confirm", "speed"])
    for step in ("original", "confirm", "versus", "original", "speed"):
        progress.step(step)
        progress.end("depth 1")
    assert isinstance(console.file, StringIO)
    said = [line.removeprefix("depth 1: ") for line in console.file.getvalue().splitlines()]
    assert said == [f"step {number} of 3" for number in (1, 2, 2, 2, 3)]


def test_a_low_terminal_shows_the_last_depths() -> None:
    text = stages(80, height=14, num_depths=12)
    assert len(text.splitlines()) <= 14 and "depth 13" in text and "depth 2 " not in text


def test_one_long_answer_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)
    console = Console(file=StringIO(), width=200)
    progress = StageProgress(console)
    with progress.running():
        progress.begin("depth 1", "scoring report items")
        progress("gsm8k (chain)", 0, 8)
        for _ in range(40):
            wrote(8, 512)
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
