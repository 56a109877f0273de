"""Uses of a pruned model, by name: the tasks that measure a use, and whether it ranks or writes."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from layercut.errors import InputError, unknown_name
from layercut.known_tasks import TASKS


class Use(NamedTuple):
    """One use. The tasks that measure it are those of the columns ``uses`` and ``part_of`` of the table of tasks."""

    name: str
    what: str  # it, in a few words: "this model can be cut for ..."
    answers: Literal["ranked", "written", "either"]
    """Kind of readouts that decide. A model that still ranks right answers first may no longer write them, and the
    other way round."""
    patterns: tuple[str, ...] = ()  # of names of tasks, such as those of lm-eval, that measure it too

    @property
    def readouts(self) -> dict[str, str]:
        """By task that measures it, the readout that is run for it; empty for a task that counts where it was run."""
        entries = ((task, entry.partition("/")) for task, row in TASKS.items() for entry in (*row.uses, *row.part_of))
        return {task: readout for task, (use, _, readout) in entries if use == self.name}

    @property
    def parts(self) -> tuple[str, ...]:
        """Tasks that measure a part of the use: a proxy. What they keep does not show that the whole use is kept."""
        entries = ((task, entry.partition("/")[0]) for task, row in TASKS.items() for entry in row.part_of)
        return tuple(task for task, use in entries if use == self.name)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Patterns of task names that measure it, without their number of examples."""
        return (*self.patterns, *(task for task in self.readouts if not _is_any(task, self.patterns)))

    def speaks_of(self, task: str) -> bool:
        """Return True for a task that measures this use.

        >>> named_use("math").speaks_of("gsm8k:5"), named_use("math").speaks_of("copy")
        (True, False)
        """
        return _is_any(task, self.tasks)

    def counts(self, readout: str) -> bool:
        """Return True for a readout that decides."""
        return self.answers == "either" or is_written(readout) == (self.answers == "written")

    def note(self, tasks: Collection[str]) -> str:
        """One sentence where these tasks are only parts of the use; else empty.

        >>> named_use("code").note(["brackets"])
        'Judged by a proxy: brackets, a part of writing programs. All of it: humaneval*, mbpp*.'
        """
        if not tasks or not all(_is_any(task, self.parts) for task in tasks):
            return ""
        whole = ", ".join(task for task in self.tasks if task not in self.parts) or "no task here"
        return f"Judged by a proxy: {' and '.join(tasks)}, a part of {self.what}. All of it: {whole}."


def is_written(readout: str) -> bool:
    """Return True for a readout whose answers the model writes itself."""
    return readout != "rank"


def _is_any(task: str, patterns: tuple[str, ...]) -> bool:
    base = task.removeprefix("lm-eval:").partition(":")[0]
    return any(fnmatchcase(base, pattern) for pattern in patterns)


USES = {use.name: use for use in (
    Use("all", "everything that was measured", "either", ("*",)),
    Use("classify", "choosing among given options", "ranked", ("*",)),
    Use("math", "writing calculations", "written"),
    Use("code", "writing programs", "written", ("humaneval*", "mbpp*")),
    Use("copy", "repeating what was given", "written"),
    Use("summarize", "writing summaries", "written"),
    Use("chat", "conversation", "written"),
)}  # fmt: skip


def named_use(name: str) -> Use:
    """A use by name. Raises InputError: no such use."""
    if "," in name:
        raise InputError(f"use {name!r:.60} names several, and one is taken; write one of {', '.join(USES)}.")
    if name not in USES:
        raise unknown_name("use", name, USES)
    return USES[name]


def tasks_for_use(name: str, *, data: Collection[str] = ()) -> list[tuple[str, str]]:
    """Tasks and readouts of a use: its benchmarks whose data is given, else built-in ones. InputError: no such use.

    >>> tasks_for_use("math")
    [('arithmetic', 'short'), ('gsm_symbolic', 'chain')]
    >>> tasks_for_use("math", data=["gsm8k"])
    [('gsm8k', 'chain')]
    """
    run = [(task, readout) for task, readout in named_use(name).readouts.items() if readout]
    benchmarks = [(task, readout) for task, readout in run if TASKS[task].needs_files and task in data]
    return benchmarks or [(task, readout) for task, readout in run if not TASKS[task].needs_files]
