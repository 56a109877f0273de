"""study.json: the arms of a study in order, and what failed; updated during the run, and read by reports."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layercut.errors import InputError, VerificationError
from layercut.runs.atomic import write_json, write_text
from layercut.runs.study import FAILURES, MANIFEST, Failure, failures_in, seconds_in

FORMAT_VERSION = 1


class Manifest:
    """The study.json of one folder. Failures of earlier attempts stay until the same step is done or fails again."""

    def __init__(self, folder: Path, arms: Sequence[Mapping[str, Any]]) -> None:
        """Write it, with the failures that are known from before."""
        self._folder = folder
        self._arms = [dict(arm) for arm in arms]
        self._failed: dict[str, Failure] = {one.step: one for one in failures_in(folder)}
        self._seconds = seconds_in(folder)
        self._write()

    @property
    def failures(self) -> list[Failure]:
        """What has failed and was not done since."""
        return list(self._failed.values())

    def fail(self, step: str, arms: Sequence[str], error: Exception) -> Failure:
        """Note that a step failed, with its traceback in a file of its own."""
        file = self._folder / FAILURES / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', step).strip('-')}.txt"
        write_text(file, "".join(traceback.format_exception(error)))
        said = " ".join(str(error).split()) or type(error).__name__
        line = said if isinstance(error, InputError | VerificationError) else f"{type(error).__name__}: {said}"
        failure = Failure(step, tuple(arms), line[:300], f"{FAILURES}/{file.name}")
        self._failed[step] = failure
        self._write()
        return failure

    def done(self, step: str) -> None:
        """A step is done, whatever happened to it before."""
        if (failure := self._failed.pop(step, None)) is not None:
            (self._folder / failure.traceback).unlink(missing_ok=True)
            self._write()

    def took(self, kind: str, seconds: float) -> None:
        """Keep how long a whole search or healing took, for later forecasts."""
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
