"""Uses of a pruned model, by name: the tasks that measure a use, and whether it ranks or writes. A new use is a line
here.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from layercut.errors import unknown


class Use(NamedTuple):
    """One use."""

    name: str
    what: str
    """It, in a sentence: "this model can be cut for ..."."""
    tasks: tuple[str, ...]
    """Patterns of task names, without their number of examples."""
    answers: Literal["ranked", "written", "either"]
    """Which readouts decide. A model that still ranks right answers first may no longer write them, and the other way
    round."""

    parts: tuple[str, ...] = ()
    """Those of ``tasks`` that are a part of the use and not the use: what they lose is lost, and what they keep does
    not show that the use is kept."""

    def speaks_of(self, task: str) -> bool:
        """Whether a task measures this use.

        >>> named_use("math").speaks_of("gsm8k:5"), named_use("math").speaks_of("copy")
        (True, False)
        """
        return _is_any(task, self.tasks)

    def is_part(self, task: str) -> bool:
        """Whether a task is only a part of this use.

        >>> named_use("code").is_part("brackets"), named_use("code").is_part("mbpp_plus")
        (True, False)
        """
        return _is_any(task, self.parts)

    def counts(self, readout: str) -> bool:
        """Whether a readout decides."""
        from layercut.report.words import is_written  # imports scipy, which naming a use does not need

        return self.answers == "either" or is_written(readout) == (self.answers == "written")

    @property
    def whole(self) -> str:
        """The tasks that can show that the use is kept, in words."""
        return f"one of {', '.join(task for task in self.tasks if task not in self.parts)}"

    @property
    def wanted(self) -> str:
        """The tasks to be run for it, in words."""
        tasks = "any task" if self.tasks == ("*",) else f"one of {', '.join(self.tasks)}"
        readouts = {"ranked": "rank", "written": "short or chain", "either": ""}[self.answers]
        return f"{tasks} (readout {readouts})" if readouts else tasks


def _is_any(task: str, patterns: tuple[str, ...]) -> bool:
    base = task.removeprefix("lm-eval:").partition(":")[0]
    return any(fnmatchcase(base, pattern) for pattern in patterns)


_USES = (
    Use("all", "everything that was measured", ("*",), "either"),
    Use("classify", "choosing among given options", ("*",), "ranked"),
    Use("math", "writing calculations", ("arithmetic", "gsm_symbolic", "gsm8k", "math500"), "written"),
    Use("code", "writing programs", ("humaneval*", "mbpp*", "brackets"), "written", parts=("brackets",)),
    Use("copy", "repeating what was given", ("copy",), "written"),
    Use("summarise", "writing summaries", ("xsum", "copy"), "written", parts=("copy",)),
)
USES = {use.name: use for use in _USES}


def named_use(name: str) -> Use:
    """A use by name.

    Raises:
        InputError: no such use.
    """
    if name not in USES:
        raise unknown("use", name, USES)
    return USES[name]
