"""Uses of a pruned model, by name: the tasks that measure a use, and whether it ranks or writes."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from layercut.errors import InputError, unknown_name


class Use(NamedTuple):
    """One use."""

    name: str
    what: str  # it, in a few words: "this model can be cut for ..."
    tasks: tuple[str, ...]  # patterns of task names that speak of it, without their number of examples
    answers: Literal["ranked", "written", "either"]
    """Kind of readouts that decide. A model that still ranks right answers first may no longer write them, and the
    other way round."""
    built_in: tuple[str, ...]  # ``task/readout`` to run where no data is at hand; they need none
    benchmarks: tuple[str, ...] = ()  # ``task/readout`` to run in their place where their data is given
    parts: tuple[str, ...] = ()
    """Those of ``tasks`` that are a part of the use and not the use: a proxy. What they lose is lost; what they keep
    does not show that the whole use is kept."""

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


_CHOICES = ("arc_easy", "arc_challenge", "hellaswag", "mmlu", "openbookqa", "piqa", "winogrande")
_PROGRAMS = ("humaneval_plus", "mbpp_plus", "humaneval", "mbpp")
_USES = (
    Use(
        "all", "everything that was measured", ("*",), "either",
        ("arithmetic/short", "brackets/short", "copy/short", "gsm_symbolic/chain"),
        ("gsm8k/chain", "math500/chain", "xsum/short", *(f"{name}/chain" for name in _PROGRAMS),
         *(f"{name}/rank" for name in _CHOICES)),
    ),
    Use(
        "classify", "choosing among given options", ("*",), "ranked", ("arithmetic/rank", "brackets/rank", "copy/rank"),
        tuple(f"{name}/rank" for name in _CHOICES),
    ),
    Use(
        "math", "writing calculations", ("arithmetic", "chain_sum", "gsm_symbolic", "gsm8k", "math500"), "written",
        ("arithmetic/short", "gsm_symbolic/chain"), ("gsm8k/chain", "math500/chain"),
    ),
    Use(
        "code", "writing programs", ("humaneval*", "mbpp*", "brackets"), "written", ("brackets/short",),
        tuple(f"{name}/chain" for name in _PROGRAMS), parts=("brackets",),
    ),
    Use("copy", "repeating what was given", ("copy",), "written", ("copy/short",)),
    Use(
        "summarize", "writing summaries", ("xsum", "copy"), "written", ("copy/short",), ("xsum/short",), parts=("copy",)
    ),
    Use(
        "chat", "conversation", ("copy", "gsm_symbolic", "gsm8k", "xsum"), "written",
        ("copy/short", "gsm_symbolic/chain"), ("gsm8k/chain", "xsum/short"),
        parts=("copy", "gsm_symbolic", "gsm8k", "xsum"),
    ),
)  # fmt: skip
USES = {use.name: use for use in _USES}


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
    use = named_use(name)
    built_in, benchmarks = (
        [(task, readout) for task, _, readout in (entry.partition("/") for entry in entries)]
        for entries in (use.built_in, use.benchmarks)
    )
    return [(task, readout) for task, readout in benchmarks if task in data] or built_in
