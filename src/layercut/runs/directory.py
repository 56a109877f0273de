"""The run folder: settings, results, and whether it is finished.

    runs/l8-bi/  config.yaml        settings, format version and settings hash; written first
                 environment.json   command line, versions, code, machine
                 samples/           <task>.<readout>.jsonl, one line per item
                 notes.jsonl        decisions and finished parts, so that none is made twice
                 metrics.json       one row per metric; written last, so its presence means finished

A run folder may hold other run folders, one per model or plan of a study.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple, TextIO

from layercut.errors import InputError
from layercut.runs.atomic import nearest_existing, refuse_dead_link, write_json
from layercut.runs.environment import collect_environment, shown_path
from layercut.runs.lock import LOCK, is_lock_held, lock_run_folder
from layercut.runs.records import Journal, MetricRow, Notes, are_numbers, read_records
from layercut.runs.settings import (
    CONFIG,
    FORMAT_VERSION,
    check_same_settings,
    check_version,
    plain_settings,
    read_config,
    read_json_or_refuse,
    write_config,
)
from layercut.runs.study import failures_in
from layercut.runs.trackers import log_numbers
from layercut.text import count_of

SWEEP, DIAGNOSIS = "sweep.json", "diagnose.json"  # result files of runs that are not evaluations
ENVIRONMENT, METRICS, SAMPLES, REPORT = "environment.json", "metrics.json", "samples", "report.md"
PAGE = "report.html"  # the page for a browser
_NOT_SEARCHED = {SAMPLES, "checkpoint", "searches", "answers"}
_NAMES, _NUMBERS = ("task", "readout", "metric"), ("value", "low", "high", "stderr", "chance", "n")
_TRAINED = re.compile(r"checkpoint-(\d+)")
_REPEATED = ("layercut", "python", "packages", "git", "platform", "cpu", "sandbox")
"""Parts of environment.json that must stay equal for a resumed run to count as made in one environment."""

Common = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Of the settings of a folder and of a command, the parts that must be the same."""


class RunFolder:
    """One run on disk: ``begin`` for writing, ``open`` for reading."""

    def __init__(self, path: Path, settings: Mapping[str, Any], lock: TextIO | None) -> None:
        self.path = path
        self.settings = settings  # the resolved settings, as they stand in config.yaml
        self._lock = lock
        self._read: dict[Path, list[dict[str, Any]]] | None = None

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def begin(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        *,
        sandbox: str | None = None,
        common: Common | None = None,
    ) -> RunFolder:
        """Make a run folder, or continue the run it holds if that was begun with the same settings.

        The folder stays locked until ``close`` or the end of the process, so that no two processes write one run.

        Args:
            path: the folder; made with its parents.
            settings: everything that decides the numbers, JSON-able.
            sandbox: the isolation of generated programs, for environment.json; None where none are run.
            common: of the settings that the folder has and those that are wanted, what must be the same; all of them
                by default. The wanted ones are then the folder's.

        Raises:
            RunMismatch: the folder holds a run with other settings; names the first that differs.
            InputError: the folder is not empty and holds no run, is no folder, or another process writes it.
        """
        path = Path(path)
        wanted = plain_settings(settings)
        cls.check(path)
        with _refuse_unwritable(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = lock_run_folder(path)
        try:
            if (path / CONFIG).exists():
                had = read_config(path)
                before, now = (had, wanted) if common is None else common(had, wanted)
                check_same_settings(path, before, now)
                if had != wanted:
                    write_config(path, wanted)
            else:
                write_config(path, wanted)
            isolation = {} if sandbox is None else {"sandbox": sandbox}
            _note_environment(path / ENVIRONMENT, collect_environment() | isolation)
        except BaseException:
            lock.close()
            raise
        return cls(path, wanted, lock)

    @classmethod
    def check(cls, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Refuse what ``begin`` would refuse, and write nothing; settings are not compared where they are left out."""
        refuse_dead_link(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{shown_path(path)} is a file, and a run needs a folder. Use another `out`.")
        if (path / CONFIG).exists():
            if settings is not None:
                check_same_settings(path, read_config(path), plain_settings(settings))
        elif _holds_something(path):
            raise InputError(f"{shown_path(path)} is not empty and holds no layercut run. Use an empty or a new `out`.")
        with _refuse_unwritable(path):
            Path(mkdtemp(prefix=f".{CONFIG}.", dir=nearest_existing(path))).rmdir()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A run folder for reading, without a lock; InputError for any other folder, or one of an unknown format."""
        path = Path(path)
        check_folder(path)
        if not (path / CONFIG).is_file():
            raise InputError(
                f"{shown_path(path)} is not a run folder: it has no {CONFIG}. `layercut ls` lists your runs."
            )
        return cls(path, read_config(path), None)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def origin(self) -> str:
        """The tool that wrote it and its model there, of another tool's log; else empty."""
        return ""

    @property
    def is_finished(self) -> bool:
        """True if all results exist: metrics.json is written last."""
        return (self.path / METRICS).is_file()

    @property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json: the command that began the run, and under ``resumed`` those that continued
        it on another machine or with other versions.
        """
        return _read_json(self.path / ENVIRONMENT)

    @cached_property
    def notes(self) -> Notes:
        """Its decisions and finished parts; only a folder from ``begin`` takes new ones."""
        return Notes(self.path)

    def journal(self, task: str, readout: str) -> Journal:
        """The records of one task and readout, to append to. Needs a folder from ``begin``."""
        assert self._lock is not None, "a run that is open for reading only is not written to"
        return Journal(self._samples_path(task, readout))

    def has_records(self, task: str, readout: str) -> bool:
        """True if there are records of one task and readout."""
        return self._samples_path(task, readout).is_file()

    def records(self, task: str, readout: str) -> list[dict[str, Any]]:
        """The records of one task and readout; InputError if there are none, or the file is damaged."""
        path, known = self._samples_path(task, readout), {} if self._read is None else self._read
        if path not in known:
            known[path] = read_records(path)
        return known[path]

    @contextmanager
    def reading_once(self) -> Iterator[None]:
        """Parse each file of records once while the block lasts. They stay in memory until then, and as they are."""
        outer = self._read
        self._read = {} if outer is None else outer
        try:
            yield
        finally:
            self._read = outer

    def write_metrics(
        self,
        rows: Sequence[MetricRow],
        *,
        plan: Mapping[str, Any] | None = None,
        size: Mapping[str, int | None] | None = None,
        arm: Mapping[str, Any] | None = None,
    ) -> None:
        """Write metrics.json, which marks the run as finished.

        Args:
            rows: one per task, readout and metric; of one task and readout, the headline metric first.
            plan: ``CutPlan.to_dict()`` of the evaluated plan.
            size: ``num_parameters`` and ``disk_bytes`` of the model under this plan, as far as they are known.
            arm: the run's place in a study: its plan, criterion, depth, healing and seed.
        """
        data: dict[str, Any] = {"format_version": FORMAT_VERSION, "plan": None if plan is None else dict(plan)}
        data |= {name: number for name, number in (size or {}).items() if number is not None}
        if arm is not None:
            data["arm"] = dict(arm)
        write_json(self.path / METRICS, {**data, "rows": list(rows)})
        for row in rows:
            name = f"{self.name}/{row['task']}.{row['readout']}/{row['metric']}"
            log_numbers({name: row["value"], f"{name}/low": row["low"], f"{name}/high": row["high"]})

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: ``plan``, ``rows`` and, if known, ``num_parameters`` and ``disk_bytes``.

        Raises InputError if the run is not finished, or the file is damaged or of an unknown format.
        """
        if not self.is_finished:
            raise InputError(f"{shown_path(self.path)} is not finished; run the same command again to finish it.")
        data = _read_json(self.path / METRICS)
        check_version(data.get("format_version"), self.path / METRICS)
        rows = data.get("rows", [])
        about = all(isinstance(data.get(name) or {}, dict) for name in ("plan", "arm"))
        for row in rows if isinstance(rows, list) and about else [rows]:
            fields = row if isinstance(row, dict) else {}
            numbers = {name: fields.get(name) for name in _NUMBERS}
            if not all(isinstance(fields.get(name), str) for name in _NAMES) or not are_numbers(numbers, may_lack=True):
                raise InputError(
                    f"{shown_path(self.path / METRICS)} was changed: a row lacks its names, or a score is no number. "
                    "Delete the file and run the same command again to make it from the saved answers."
                )
        return data

    def close(self) -> None:
        if "notes" in self.__dict__:
            self.notes.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        if isinstance(value, KeyboardInterrupt):  # for messages about what is saved
            value.add_note(str(self.path))
        self.close()

    def _samples_path(self, task: str, readout: str) -> Path:
        return self.path / SAMPLES / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', task)}.{readout}.jsonl"


@contextmanager
def _refuse_unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"no run can be written to {shown_path(path)} ({error.strerror}). Use another `out`."
        raise InputError(message) from error


def check_folder(path: Path) -> None:
    """Raise InputError if there is no such folder."""
    if not path.is_dir():
        raise InputError(f"{shown_path(path)} is not a folder. `layercut ls DIR` lists the runs in DIR.")


def describe_saved(path: Path) -> str:
    """A line on the answers that an unfinished run has on disk, ``412 answers are saved``; or nothing."""
    answers = sum(file.read_bytes().count(b"\n") for file in path.glob(f"**/{SAMPLES}/*.jsonl"))
    steps = [int(match[1]) for folder in path.glob("**/checkpoint-*") if (match := _TRAINED.fullmatch(folder.name))]
    words = [f"{count_of(answers, 'answer')} {'is' if answers == 1 else 'are'} saved"] if answers else []
    return ", and ".join([*words, *([f"training is saved up to step {max(steps):,}"] if steps else [])])


class RunSummary(NamedTuple):
    """One line of ``layercut ls``."""

    path: Path
    status: str  # ``finished``, ``unfinished``, or ``running`` while a process holds the folder
    begun: datetime | None  # start of the run, UTC; None if environment.json is missing
    command: str  # that began it; empty if environment.json is missing

    def to_dict(self) -> dict[str, Any]:
        begun = None if self.begun is None else self.begun.isoformat()
        return {"path": str(self.path), "status": self.status, "begun": begun, "command": self.command}


def find_run_folders(root: Path) -> list[RunSummary]:
    """All run folders in and under a folder, by path, also runs inside runs; InputError if ``root`` is no folder."""
    check_folder(root)
    runs = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _NOT_SEARCHED and not name.startswith("."))
        if CONFIG in files and is_run_folder(Path(folder)):
            runs.append(_summary(Path(folder)))
    return runs


def runs_in(folder: Path) -> list[Path]:
    """The run folders right inside a folder, by name."""
    return sorted(file.parent for file in Path(folder).glob(f"*/{CONFIG}") if is_run_folder(file.parent))


def is_run_folder(path: Path) -> bool:
    """True if a folder is a run folder; other programs write a config.yaml too."""
    try:
        return "\nsettings_hash:" in (path / CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _summary(path: Path) -> RunSummary:
    inner = runs_in(path)
    finished = (path / METRICS).is_file()
    if inner and not finished:  # a study has no scores of its own; its report comes last
        finished = (path / REPORT).is_file() and all((run / METRICS).is_file() for run in inner)
        finished = finished and not failures_in(path)
    status = "running" if is_lock_held(path / LOCK) else "finished" if finished else "unfinished"
    try:
        environment = _read_json(path / ENVIRONMENT)
        return RunSummary(path, status, datetime.fromisoformat(environment["time"]), str(environment["command"]))
    except (InputError, KeyError, ValueError):
        return RunSummary(path, status, None, "")


def _note_environment(file: Path, environment: dict[str, Any]) -> None:
    if not file.exists():
        write_json(file, environment)
        return
    first = _read_json(file)
    resumed = first.get("resumed", [])
    if not any(all(known.get(name) == environment.get(name) for name in _REPEATED) for known in [first, *resumed]):
        write_json(file, {**first, "resumed": [*resumed, environment]})


def _read_json(file: Path) -> dict[str, Any]:
    data = read_json_or_refuse(file, f"{shown_path(file)} cannot be read")
    if not isinstance(data, dict):
        raise InputError(f"{shown_path(file)} is damaged: a JSON object was expected.")
    return data


def _holds_something(path: Path) -> bool:
    """True if there is more than the files of a begin that was killed early."""
    return path.is_dir() and any(
        item.name != LOCK and not item.name.startswith(f".{CONFIG}.") for item in path.iterdir()
    )
