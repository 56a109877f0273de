"""The notes of a study's folder: its arms in order, and what failed."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError, VerificationError
from layercut.runs.atomic import write_text
from layercut.runs.records import Notes

UNCUT = "uncut"  # name of the original model's run
FAILURES = "failures"  # the folder of the tracebacks
ARMS, FAILED = "arms", "failed: "
"""Names of notes: the arms in the order of the report; before the name of a step."""


class Failure(NamedTuple):
    """A failed step; the others continued."""

    step: str  # such as ``reverse-3: gsm8k (chain)``
    arms: Sequence[str]  # arms that lack results because of it
    error: str
    traceback: str  # path of a file, within the study's folder

    def describe(self) -> str:
        return f"{self.step} failed: {self.error} (traceback: {self.traceback})"


def variants_in_study(folder: Path) -> list[dict[str, Any]]:
    """The arms in the order of the study: name, plan, criterion, depth, healing, seed; none if it was edited."""
    arms = Notes(folder).get(ARMS)
    named = isinstance(arms, list) and all(isinstance(arm, dict) and isinstance(arm.get("name"), str) for arm in arms)
    return arms if named and arms else []


def failures_in(folder: Path) -> list[Failure]:
    """Steps that failed and have not succeeded since, of arms that the study still has."""
    names = {arm["name"] for arm in variants_in_study(folder)}
    failures = [Failure(*note) for name, note in Notes(folder).items() if name.startswith(FAILED) and note]
    return [failure for failure in failures if not failure.arms or names & set(failure.arms)]


def note_failure(notes: Notes, folder: Path, step: str, arms: Sequence[str], error: Exception) -> Failure:
    """Note a failed step, with its traceback in a file. It stays until the same step succeeds or fails again."""
    file = folder / FAILURES / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', step).strip('-')}.txt"
    write_text(file, "".join(traceback.format_exception(error)))
    said = " ".join(str(error).split()) or type(error).__name__
    line = said if isinstance(error, InputError | VerificationError) else f"{type(error).__name__}: {said}"
    failure = Failure(step, list(arms), line[:300], f"{FAILURES}/{file.name}")
    notes.put(FAILED + step, failure)
    return failure


def note_success(notes: Notes, folder: Path, step: str) -> None:
    """Take back the failure of a step that was done now."""
    if failure := notes.get(FAILED + step):
        (folder / Failure(*failure).traceback).unlink(missing_ok=True)
        notes.put(FAILED + step, None)
