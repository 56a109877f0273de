"""study.json of a study folder: its arms in order, and what failed."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError, VerificationError
from layercut.runs.atomic import write_json, write_text
from layercut.runs.json_text import load
from layercut.runs.settings import FORMAT_VERSION

UNCUT = "uncut"
"""Name of the original model's run."""
MANIFEST, FAILURES = "study.json", "failures"
SWEEP, DIAGNOSE = STEPS = ("sweep", "diagnose")
"""Folders of a study with runs that are no arms."""


class Failure(NamedTuple):
    """A failed step; the others continued."""

    step: str
    """Such as ``reverse-3: gsm8k (chain)``."""
    arms: tuple[str, ...]
    """Arms that lack results because of it."""
    error: str
    traceback: str
    """Path of a file, within the study's folder."""

    def describe(self) -> str:
        return f"{self.step} failed: {self.error} (traceback: {self.traceback})"


def arms_in(folder: Path) -> list[dict[str, Any]]:
    """The arms in the order of the study: name, plan, criterion, depth, healing, seed.

    Empty for a file that was edited.
    """
    arms = _read(folder).get("arms", [])
    named = isinstance(arms, list) and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in arms)
    return arms if named else []


def failures_in(folder: Path) -> list[Failure]:
    """Steps that failed and have not succeeded since."""
    return [
        Failure(one["step"], tuple(one["arms"]), one["error"], one["traceback"])
        for one in _read(folder).get("failed", [])
    ]


def seconds_in(folder: Path) -> dict[str, float]:
    """Duration of whole searches and healings, by what decides them."""
    return dict(_read(folder).get("seconds", {}))


class Manifest:
    """The study.json of one folder. A failure stays until the same step succeeds or fails again."""

    def __init__(self, folder: Path, arms: Sequence[Mapping[str, Any]]) -> None:
        self._folder = folder
        self._arms = [dict(arm) for arm in arms]
        names = {arm["name"] for arm in arms}
        self._failed = {one.step: one for one in failures_in(folder) if not one.arms or names & set(one.arms)}
        self._seconds = seconds_in(folder)
        self._write()

    @property
    def failures(self) -> list[Failure]:
        return list(self._failed.values())

    def fail(self, step: str, arms: Sequence[str], error: Exception) -> Failure:
        """Record a failed step, with its traceback in a file."""
        file = self._folder / FAILURES / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', step).strip('-')}.txt"
        write_text(file, "".join(traceback.format_exception(error)))
        said = " ".join(str(error).split()) or type(error).__name__
        line = said if isinstance(error, InputError | VerificationError) else f"{type(error).__name__}: {said}"
        failure = Failure(step, tuple(arms), line[:300], f"{FAILURES}/{file.name}")
        self._failed[step] = failure
        self._write()
        return failure

    def done(self, step: str) -> None:
        if (failure := self._failed.pop(step, None)) is not None:
            (self._folder / failure.traceback).unlink(missing_ok=True)
            self._write()

    def took(self, kind: str, seconds: float) -> None:
        """Record the duration of a whole search or healing, for later forecasts."""
        self._seconds[kind] = round(seconds, 1)
        self._write()

    def _write(self) -> None:
        data = {
            "format_version": FORMAT_VERSION,
            "arms": self._arms,
            "failed": [one._asdict() for one in self._failed.values()],
            "seconds": self._seconds,
        }
        write_json(self._folder / MANIFEST, data)


def _read(folder: Path) -> dict[str, Any]:
    try:
        data = load(Path(folder) / MANIFEST)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
