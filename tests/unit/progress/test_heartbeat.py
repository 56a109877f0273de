"""Where stderr is no terminal, a step that takes long is heard of in the middle, whoever shows its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO

import pytest
from rich.console import Console

from layercut.progress import heartbeat
from layercut.progress.activity import listening_to, report_share, report_tokens
from layercut.progress.bars import Progressing, SelectionProgress, StudyProgress, StudyStep, progress_bar
from layercut.progress.cost import Workload, clock_text


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)


def console(*, terminal: bool = False, width: int = 200) -> Console:
    return Console(file=StringIO(), width=width, force_terminal=terminal, color_system=None)


def lines(of: Console) -> list[str]:
    assert isinstance(of.file, StringIO)
    return of.file.getvalue().splitlines()


@contextmanager
def evaluating(where: Console) -> Iterator[None]:
    progress = Progressing([("gsm8k (chain)", Workload(kind="g", num_items=8))], where, verb="Scoring")
    with progress.running(), progress.piece(0) as on_progress:
        on_progress(0, 8)
        yield


@contextmanager
def studying(where: Console) -> Iterator[None]:
    progress = StudyProgress([StudyStep("cut-3", "gsm8k (chain)", Workload(kind="g", num_items=8))], where)
    with progress.running(), progress.cell(0) as on_progress:
        on_progress(0, 8)
        yield


@contextmanager
def selecting(where: Console) -> Iterator[None]:
    with SelectionProgress(where).running() as progress:
        progress("answers", 0, 8)
        yield


@contextmanager
def generating(where: Console) -> Iterator[None]:
    with progress_bar("Answering with tiny", 8, where, "answers") as on_progress:
        on_progress(0, 8)
        yield


FORMS = {
    evaluating: "Scoring gsm8k (chain): 0 of 8 items, 30 tokens written",
    studying: "cut-3: scoring gsm8k (chain): 0 of 8 items, 30 tokens written",
    selecting: "Choosing layers: answers 0 of 8, 30 tokens written",
    generating: "Answering with tiny: 0 of 8 answers, 30 tokens written",
}


def test_a_search_has_a_time_left_by_its_rounds_without_those_that_were_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = SelectionProgress(console())

    def at(seconds: float, what: str, done: int, total: int) -> str:
        now[0] = seconds
        progress(what, done, total)
        return progress._now()

    assert at(0, "rounds", 0, 7) == "Choosing layers: rounds 0 of 7"
    assert at(1, "rounds", 1, 7).endswith("rounds 1 of 7, 00:06 left")
    assert at(2, "rounds", 2, 7).endswith("rounds 2 of 7, 00:05 left"), "two rounds came from an earlier run"
    assert at(63, "answers", 12, 48).endswith("answers 12 of 48"), "and say nothing of a round that takes longer"
    assert at(102, "answers", 48, 48) == "Choosing layers: rounds 2 of 7"
    assert at(102, "rounds", 3, 7).endswith("rounds 3 of 7, 06:40 left")
    assert at(152, "answers", 12, 48).endswith("answers 12 of 48, 05:50 left")
    assert at(302, "answers", 48, 48).endswith("rounds 3 of 7, 05:00 left"), "a round is not over before it is"
    assert at(302, "rounds", 4, 7).endswith("rounds 4 of 7, 07:30 left")


@pytest.mark.parametrize("form", FORMS)
def test_one_long_batch_is_heard_of_by_its_tokens(form: Callable[[Console], Iterator[None]]) -> None:
    where = console()
    with form(where):  # type: ignore[attr-defined]
        report_tokens(10, 90)
        report_tokens(20, 70)
        deadline = time.monotonic() + 5
        while len(lines(where)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    first = lines(where)[0]
    assert first.startswith(FORMS[form]) and "at most 70 left" in first


def test_a_batch_that_holds_all_answers_bounds_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("layercut.progress.heartbeat.time.monotonic", lambda: now[0])
    where = console()
    progress = Progressing([("gsm8k", Workload(kind="g", num_items=100))], where, verb="Scoring")
    with progress.piece(0) as on_progress, listening_to(progress._tokens):
        on_progress(0, 100)
        now[0] = 60.0
        report_tokens(100, 9900, 100)
        report_tokens(5900, 2000, 96)  # two of the four that have ended are not handed over yet
        on_progress(2, 100)
        assert "6,000 tokens written (100/s)" in progress._now()
    with progress.piece(0) as on_progress, listening_to(progress._tokens):
        on_progress(0, 100)
        now[0] = 120.0
        report_tokens(6000, 2000, 50)  # another batch follows, of answers that are not known yet
        on_progress(2, 100)
        assert progress._now().endswith(", time left: after 20 items")


def test_the_time_left_falls_within_a_long_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("layercut.progress.heartbeat.time.monotonic", lambda: now[0])
    work = Workload(kind="t", num_items=3)
    training = Progressing([("Training", work)], console(), unit="steps")
    study = StudyProgress([StudyStep("cut-3", "training", work)], console())
    with training.piece(0) as trained, study.cell(0) as studied:
        for on_progress in (trained, studied):
            on_progress(0, 3)
        now[0] = 60.0
        for on_progress in (trained, studied):
            on_progress(1, 3)
        now[0] = 85.0
        assert training._now() == "Training: 1 of 3 steps, 01:35 left"
        assert study._now().endswith("1 of 3 items, 01:35 left, 0 of 1 arm finished")


def test_reading_is_described_and_does_not_count_as_time_of_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("layercut.progress.heartbeat.time.monotonic", lambda: now[0])
    progress = Progressing([("gsm8k", Workload(kind="g", num_items=8))], console(), verb="Scoring")
    with progress.piece(0) as on_progress, listening_to(progress._tokens):
        on_progress(0, 8)
        now[0] = 90.0
        report_share("reading 4,210 tokens", 0.45)
        assert "reading 4,210 tokens (45%)" in progress._now()
        now[0] = 200.0
        report_share("reading 4,210 tokens", 1.0)
        assert progress._now().endswith(" 0 of 8 items")
        now[0] = 210.0
        report_tokens(80, 400, 8)
        assert "80 tokens written (8/s)" in progress._now()
        assert progress._tokens.seconds_left(8) == 50


def test_the_innermost_step_is_the_one_described_and_nothing_runs_on() -> None:
    where = console()
    with heartbeat.under_way(where, lambda: "outer"), heartbeat.under_way(where, lambda: "inner"):
        time.sleep(0.3)
    assert set(lines(where)) == {"inner"}
    count = len(lines(where))
    time.sleep(0.2)
    assert len(lines(where)) == count


def test_a_terminal_shows_items_and_tokens_beside_its_bar() -> None:
    where = console(terminal=True, width=80)
    name = "without one of 30 layers: gsm_symbolic (chain)"
    progress = Progressing([(name, Workload(kind="g", num_items=3000))], where, verb="Scoring", unit="answers")
    with progress.running(), progress.piece(0) as on_progress:
        on_progress(0, 3000)
        on_progress(1200, 3000)
        report_tokens(123_456)
        where.print(progress)
    shown = " ".join(" ".join(lines(where)).split())
    assert "(chain): 1,200 of 3,000 answers, 123,456 tokens written" in shown


@pytest.mark.parametrize("seconds, text", [(41, "00:41"), (3723, "1:02:03"), (86400, "1 day 0:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
