"""Experiment trackers, by accelerate's adapters: ``--report-to trackio`` of searches, sweeps, evaluations and studies.

    with tracking(("trackio",), "runs/math", {"model": "m"}):
        ...
        log_numbers({"copy.short/accuracy": 0.7})

Code that computes a result calls ``log_numbers``; outside a ``track_numbers`` block that does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

from layercut.errors import InputError, unknown_name

TRACKERS = ("trackio", "wandb", "tensorboard", "mlflow")
PROJECT = "layercut"
_LOGS = "runs"  # where TensorBoard's files are


class _Session:
    """The trackers of one command, which start with its first number."""

    def __init__(self, names: Sequence[str], run: str, config: Mapping[str, Any]) -> None:
        self._names, self._run, self._config = names, run, config
        self._trackers: list[Any] | None = None

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        if self._trackers is None:
            self._trackers = [self._start(name) for name in self._names]
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def finish(self) -> None:
        for tracker in self._trackers or ():
            tracker.finish()

    def _start(self, name: str) -> Any:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's adapters do not log without it
        kind = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            tracker = kind(self._run, logging_dir=_LOGS)
        elif name == "mlflow":
            tracker = kind(experiment_name=PROJECT, run_name=self._run)
        else:
            tracker = kind(PROJECT, name=self._run)
        tracker.start()
        tracker.store_init_configuration(dict(self._config))
        return tracker


_session: ContextVar[_Session | None] = ContextVar("layercut trackers", default=None)


@contextmanager
def track_numbers(names: Sequence[str], run: str, config: Mapping[str, Any]) -> Iterator[None]:
    """Within it the numbers that ``log_numbers`` gets go to these trackers, as one run of the project ``layercut``.

    Args:
        names: of ``TRACKERS``.
        run: name of the run.
        config: settings to be shown with it; values are plain.

    Raises:
        InputError: a tracker that is not known or not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        if find_spec(name) is None:
            raise InputError(f"reporting to {name} needs its package: pip install {name}.")
    session = _Session(names, run, {key: str(value) for key, value in config.items()})
    token = _session.set(session)
    try:
        yield
    finally:
        _session.reset(token)
        session.finish()


def log_numbers(values: Mapping[str, float | None], step: int | None = None) -> None:
    """Give numbers to the trackers of the block around, if there is one; None is left out.

    Args:
        values: by name, such as ``copy.short/accuracy``.
        step: the round, layer or depth that they belong to.
    """
    if (session := _session.get()) is None:
        return
    if known := {name: float(value) for name, value in values.items() if value is not None}:
        session.log(known, step)
