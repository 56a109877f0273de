"""The live line on a terminal, the lines where there is none, and the time that is left."""

import time
from io import StringIO

import pytest
from rich.console import Console

from layercut.progress.activity import listening_to, report_share, report_tokens
from layercut.progress.bars import RunProgress, TimeLeft, Work, Workload, clock_text, progress_bar

COPY = Workload(kind="copy", num_items=10)
STUDY: Work = [
    ("arm-0: copy (rank)", COPY),
    ("arm-1: copy (rank)", COPY),
    ("choosing layers by x", Workload(kind="search x", num_items=1)),
]


def test_the_line_of_a_list_says_what_it_is_at(clock, live_text):
    progress = RunProgress(Console(file=StringIO()), STUDY)
    assert "loading the model" in live_text(progress)
    with progress.piece(0) as on_progress:
        on_progress(1, 10)
        clock.now = 6.0
        on_progress(4, 10)
        text = live_text(progress)
        assert "arm-0: copy (rank): 4 of 10 items" in text and "step 1 of 3 · 00:06 so far" in text
        assert "00:12 left of this step" in text, "6 items of 2 s; no search was timed"
        on_progress(10, 10)
    with progress.piece(2):
        progress("rounds", 1, 3)
        assert "choosing layers by x, rounds 1 of 3, step 3 of 3" in live_text(progress)
        clock.now = 9.0
    assert "00:07 left" in live_text(progress) and "step" not in live_text(progress)
    progress.skip(1)
    assert "left" not in live_text(progress)


def test_pieces_that_are_done_at_once_share_the_time_and_count_once(clock, live_text):
    progress = RunProgress(Console(file=StringIO()), [(f"arm-{number}", COPY) for number in range(3)])
    with progress.pieces([0, 1]) as report:
        for seconds, (index, num) in enumerate([(1, 6), (0, 10), (1, 4)], start=1):
            clock.now = 10.0 * seconds
            report(index, num)
        assert "arm-0, arm-1: 20 of 20 items, 00:15 left" in live_text(progress), "20 items took 30 s, 10 are left"
    for index in range(2):
        with progress.piece(index) as on_progress:
            on_progress(10, 10)
    assert "00:15 left" in live_text(progress), "counted once"
    with pytest.raises(ValueError, match="of memory"), progress.pieces([2]):
        raise ValueError("out of memory")
    assert "left" not in live_text(progress)


@pytest.mark.parametrize("width", [80, 120])
def test_all_is_said_on_a_narrow_terminal(width, live_text):
    name = "task_accuracy-refined-12-from-block_influence-12: gsm8k (chain)"
    progress = RunProgress(Console(file=StringIO()), [(name, Workload(kind="copy", num_items=100_000))])
    with progress.piece(0) as on_progress, listening_to(progress._tokens):
        on_progress(1200, 100_000)
        report_tokens(123_456)
        shown = live_text(progress, width).splitlines()
    assert max(map(len, shown)) <= width and "so far" in shown[-1]
    assert "(chain): 1,200 of 100,000 items, 123,456 tokens written" in " ".join(" ".join(shown).split())


def test_one_line_is_alive_above_that_of_a_step_within():
    terminal = Console(file=StringIO(), force_terminal=True, width=200, color_system=None)
    progress = RunProgress(terminal, STUDY)
    with progress.running(), progress.piece(2), progress_bar("Training", 8, terminal, "steps") as on_progress:
        frames = []
        for done in (0, 3, 7):
            on_progress(done, 8)
            terminal.file.seek(0)
            terminal.file.truncate()
            time.sleep(0.6)  # the thread of the live display draws every quarter of a second
            frames.append(terminal.file.getvalue())  # type: ignore[attr-defined]
    for frame, done in zip(frames, (0, 3, 7), strict=True):
        assert "choosing layers by x" in frame and f"Training: {done} of 8 steps" in frame


def test_each_piece_that_did_something_ends_with_a_line(clock, console, lines):
    progress = RunProgress(console, STUDY)
    with progress.running(), progress.piece(0) as on_progress:
        on_progress(0, 10)
        clock.now = 20.0
        on_progress(10, 10)
    with pytest.raises(ValueError, match="broke"), progress.piece(1) as on_progress:
        on_progress(1, 10)
        raise ValueError("broke")
    with progress.piece(2):
        clock.now = 61.0
    with progress.piece(2):
        pass
    assert lines() == ["arm-0: copy (rank): 10 items, 00:20", "choosing layers by x: 00:41"]


def test_stages_are_lines_and_the_present_one_has_a_counter(console, lines, live_text):
    progress = RunProgress(console, steps=["original", "path", "speed"])
    progress.step("path")
    progress.end("depth 1", note="without 20-24,26", chosen="97%", shown="95% passed")
    assert lines() == [
        "depth 1: without 20-24,26, keeps 97% on selection items, keeps 95% passed on report items, step 2 of 3"
    ]
    progress.begin("depth 2", "choosing the next layer")
    progress("answers", 40, 120)
    assert "depth 2: choosing the next layer, answers 40 of 120, step 2 of 3" in live_text(progress)
    progress.begin("depth 2", "scoring report items", STUDY)
    with progress.piece(1) as on_progress:
        on_progress(3, 10)
        on_progress(4, 10)
        assert "depth 2: scoring report items, arm-1: copy (rank): 4 of 10 items" in live_text(progress)
    assert len(lines()) == 1, "the pieces of a stage are no lines"


def test_the_number_of_the_step_never_falls(console, lines):
    progress = RunProgress(console, steps=["original", "confirm", "speed"])
    for step in ("original", "confirm", "versus", "original", "speed"):
        progress.step(step)
        progress.end("depth 1")
    assert lines() == [f"depth 1: step {number} of 3" for number in (1, 2, 2, 2, 3)]


def test_counters_that_are_at_work_have_the_time_left_of_the_first(clock, console):
    progress = RunProgress(console, stage="Choosing layers")

    def at(seconds: float, what: str, done: int, total: int) -> str:
        clock.now = seconds
        progress(what, done, total)
        return progress._now().removeprefix("Choosing layers: ")

    assert at(0, "rounds", 0, 8) == "rounds 0 of 8"
    assert at(10, "rounds", 2, 8) == "rounds 2 of 8, 00:30 left"
    assert at(12, "answers", 8, 48) == "rounds 2 of 8, answers 8 of 48, 00:28 left"
    assert at(15, "answers", 48, 48) == "rounds 2 of 8, 00:25 left"
    assert at(15, "rounds", 8, 8) == "answers 48 of 48"
    progress.begin("search", "reading")
    assert at(20, "answers", 10, 50) == "search: reading, answers 10 of 50", "ten were known"
    assert at(40, "answers", 30, 50) == "search: reading, answers 30 of 50, 00:20 left"


def test_a_counter_that_begins_again_is_numbered_and_does_not_run_backwards(console):
    progress = RunProgress(console, stage="size -5 %")
    said = []
    for done in (0, 40, 0, 40, 0):
        progress("answers", done, 40)
        said.append(progress._now().partition(", 0")[0])
    assert said[1:3] == ["size -5 %: answers 40 of 40", "size -5 %: answers, part 2: 0 of 40"]
    assert said[4] == "size -5 %: answers, part 3: 0 of 40"
    progress.begin("size -10 %", "choosing")
    progress("answers", 0, 40)
    assert progress._now() == "size -10 %: choosing, answers 0 of 40"


def test_reading_is_described_and_does_not_count_as_time_of_writing(clock, console):
    progress = RunProgress(console, [("Scoring gsm8k", Workload(kind="g", num_items=8))])
    with progress.piece(0) as on_progress, listening_to(progress._tokens):
        on_progress(0, 8)
        clock.now = 90.0
        report_share("reading 4,210 tokens", 0.45)
        assert progress._now() == "Scoring gsm8k: 0 of 8 items, reading 4,210 tokens (45%)"
        clock.now = 200.0
        report_share("reading 4,210 tokens", 1.0)
        assert progress._now() == "Scoring gsm8k: 0 of 8 items"
        clock.now = 210.0
        report_tokens(80, 400)
        assert progress._now().endswith("80 tokens written (8/s), at most 400 left in this batch")


def test_steps_without_meaning_are_a_percentage(console):
    progress = RunProgress(console, [("Diagnosing loops", Workload(kind="loops", num_items=1000))], unit=None)
    with progress.piece(0) as on_progress:
        on_progress(0, 1000)
        on_progress(450, 1000)
        assert progress._now() == "Diagnosing loops: 45%, 00:00 left"


def time_left(**pieces: tuple[str, int]) -> TimeLeft:
    return TimeLeft({name: Workload(kind=kind, num_items=num) for name, (kind, num) in pieces.items()})


def test_a_kind_is_judged_by_its_own_speed_and_nothing_is_promised_before(clock):
    left = time_left(a=("rank", 10), b=("chain", 10), c=("rank", 10))
    assert left.seconds("abc") is None
    left.begin("ab")
    clock.now = 20.0
    left.add("a", 10)
    assert left.seconds("abc") is None, "chains were not measured"
    assert left.seconds("ac") == left.seconds("c") == 20.0
    clock.now = 25.0
    left.add("b", 5)
    assert left.seconds("abc") == pytest.approx(5 * 1.0 + 10 * 2.0)
    assert left.count("abc") == (15, 30)


def test_items_of_before_do_not_count_as_fast(clock):
    left = time_left(a=("rank", 10), b=("rank", 4))
    left.reach("a", 6, 10)
    clock.now = 12.0
    left.reach("a", 9, 10)
    assert left.seconds("a") == pytest.approx(4.0)
    left.skip("a")
    left.skip("a")
    assert (left.seconds("a"), left.seconds("ab"), left.count("ab")) == (0, 4 * 4.0, (10, 14))


def test_a_quarter_of_the_items_or_twenty_are_timed_first(clock):
    left = time_left(a=("rank", 12), b=("chain", 100))
    left.reach("a", 0, 12)
    left.reach("b", 0, 100)
    for seconds, done, known in ((2.0, 2, False), (3.0, 3, True)):
        clock.now = seconds
        left.reach("a", done, 12)
        assert (left.seconds("a") is not None) == known
    for seconds, done, known in ((19.0, 19, False), (20.0, 20, True)):
        clock.now = seconds
        left.reach("b", done, 100)
        assert (left.seconds("b") is not None) == known


def test_the_first_items_were_known_if_they_are_ten_times_as_fast(clock):
    left = time_left(a=("round", 8))
    for seconds, done in ((0, 0), (1, 1), (2, 2), (102, 3)):
        clock.now = float(seconds)
        left.reach("a", done, 8)
    assert left.seconds("a") is None, "of rounds that were not known only one was timed"
    clock.now = 152.0
    left.reach("a", 4, 8)
    assert left.seconds("a") == pytest.approx(4 * 75)


def test_the_time_left_falls_while_an_item_is_worked_on_by_its_own_time_at_most(clock):
    left = time_left(a=("train", 3), b=("train", 2))
    left.reach("a", 0, 3)
    clock.now = 60.0
    left.reach("a", 1, 3)
    clock.now = 80.0
    assert (left.seconds("ab"), left.seconds("a"), left.seconds("b")) == (220, 100, 120)
    clock.now = 400.0
    assert left.seconds("ab") == 180, "it takes longer than the last one; the others are still left"
    clock.now = 560.0
    assert left.seconds("ab") is None, "it takes longer than all others would: nothing is known any more"
    left.reach("a", 3, 3)
    assert left.seconds("ab") == pytest.approx(2 * 560 / 3), "its items are done"


def test_a_piece_that_begins_again_does_not_time_what_lies_between(clock):
    left = time_left(a=("rank", 2))
    left.reach("a", 2, 2)
    clock.now = 500.0
    left.begin("a")
    left.reach("a", 0, 2)
    clock.now = 503.0
    left.reach("a", 1, 2)
    assert left.seconds("a") == 3.0


@pytest.mark.parametrize("seconds, text", [(41, "00:41"), (3723, "1:02:03"), (86400, "1 day 0:00:00")])
def test_clock(seconds, text):
    assert clock_text(seconds) == text
