"""Where prompts come from, as people write it: files and ``task:NAME``, or a run folder of ``layercut generate``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from layercut.errors import InputError, unknown
from layercut.healing.prompts import Answered, NamedPrompt, read_answered
from layercut.healing.settings import SYSTEM
from layercut.healing.task_prompts import PREFIX, TaskPrompts, task_prompts
from layercut.runs.records import read_records
from layercut.study.settings import DecodingSettings
from layercut.tasks import load_task

PRESETS = ("paper",)
Found = TypeVar("Found")
RESPONSES = Path("samples", "responses.jsonl")
MAX_NEW_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """One source of prompts, as people name it."""

    source: str
    """A file, ``task:NAME``, or a run folder of ``layercut generate``."""
    readout: str | None = None
    """How a task's items are asked."""
    data: str | None = None
    """Local data of a task."""
    limit: int | None = None
    """The first so many."""
    skip: int = 0
    """Leave out the first so many, which another source takes; ``limit`` counts from there."""

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise InputError(f"{self.source}: skip {self.skip} is negative; write 0 or more.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"{self.source}: limit {self.limit} leaves no prompts; write 1 or more.")
        if self.data is not None and not self.source.startswith(PREFIX):
            raise InputError(f"{self.source}: data belongs to task:NAME prompts; leave it out.")

    def chosen(self, found: list[Found]) -> list[Found]:
        """Those that ``skip`` and ``limit`` leave.

        Raises:
            InputError: none.
        """
        if found and self.skip >= len(found):
            raise InputError(f"{self.source} has {len(found)} prompts, and skip {self.skip} leaves none; skip fewer.")
        return found[self.skip :][: self.limit]


class Part(NamedTuple):
    """Prompts of one kind, which are asked and graded alike."""

    answered: list[Answered]
    task: TaskPrompts | None = None

    @property
    def prompts(self) -> list[NamedPrompt]:
        """What is to be answered."""
        return [answered.prompt for answered in self.answered]

    def describe(self) -> dict[str, Any]:
        """What decides the prompts."""
        settings: dict[str, Any] = {"n": len(self.answered), "hash": prompts_hash(self.prompts)}
        if self.task:
            settings |= {"task": self.task.task.name, "readout": self.task.readout, **self.task.task.settings()}
        return settings


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Prompts with the answers that their source gives, if it gives any; from one source or from several."""

    parts: tuple[Part, ...] = ()
    records: list[dict[str, Any]] | None = None
    """Answers that a model has given already, where the source is a run folder."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for part in self.parts:
            ids = {prompt.id for prompt in part.prompts}
            if both := seen & ids:
                raise InputError(
                    f"{len(both)} prompts come from two sources, such as {min(both)}; take each source once."
                )
            seen |= ids

    @property
    def prompts(self) -> list[NamedPrompt]:
        """What is to be answered."""
        return [prompt for part in self.parts for prompt in part.prompts]

    @property
    def tasks(self) -> list[TaskPrompts]:
        """The tasks among the sources."""
        return [part.task for part in self.parts if part.task]

    @property
    def max_new_tokens(self) -> int:
        """Longest answer where nothing is said: that of the tasks, and of prompts from files."""
        of_files = [MAX_NEW_TOKENS] if len(self.tasks) < len(self.parts) else []
        return max([*(task.max_new_tokens for task in self.tasks), *of_files], default=MAX_NEW_TOKENS)

    def describe(self) -> dict[str, Any]:
        """What decides the prompts, for a run's settings."""
        if len(self.parts) == 1:
            return self.parts[0].describe()
        return {"n": len(self.prompts), "parts": [part.describe() for part in self.parts]}


class Answering(NamedTuple):
    """How prompts are answered."""

    decoding: DecodingSettings
    max_new_tokens: int | None
    """Longest answer; the source's own where None."""
    system: str | None


def answering(
    preset: str | None, decoding: DecodingSettings, max_new_tokens: int | None, system: str | None
) -> Answering:
    """Decoding settings under a preset; what was given otherwise than the default stays.

    ``paper`` (arXiv:2602.01997): temperature 0.9, top-p 0.95, up to 8192 tokens, and a system prompt.

    Raises:
        InputError: an unknown preset.
    """
    if preset is None:
        return Answering(decoding, max_new_tokens, system)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    drawn = DecodingSettings(temperature=0.9, top_p=0.95) if decoding == DecodingSettings() else decoding
    return Answering(drawn, max_new_tokens or 8192, SYSTEM if system is None else system)


def prompt_specs(
    text: str, *, readout: str | None = None, data: Mapping[str, str] | None = None, limit: int | None = None
) -> tuple[PromptSpec, ...]:
    """Sources as the command line names them, with commas between; readout and limit hold for each.

    ``data`` gives the local files of tasks by their names.
    """
    names = [text] if Path(text).exists() else [part for part in text.split(",") if part]
    return tuple(
        PromptSpec(
            source=name,
            readout=readout if name.startswith(PREFIX) else None,
            data=(data or {}).get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None,
            limit=limit,
        )
        for name in names
    )


def prompt_source(specs: Sequence[PromptSpec], *, system: str | None = None, plain: bool = False) -> PromptSource:
    """Read prompts.

    Args:
        specs: where from. A run folder of answers stands alone.
        system: for conversations that have no system message; not for tasks, whose prompts are as they are.
        plain: no chat template; for files.

    Raises:
        InputError: nothing of that kind, no prompts in it, or the same prompts twice.
    """
    if len(specs) == 1 and Path(specs[0].source).is_dir():
        path = Path(specs[0].source)
        if not (path / RESPONSES).is_file():
            raise InputError(f"{path} holds no answers: it has no {RESPONSES}. Give a run folder of layercut generate.")
        return PromptSource(records=specs[0].chosen(read_records(path / RESPONSES)))
    return PromptSource(parts=tuple(_part(spec, system, plain) for spec in specs))


def _part(spec: PromptSpec, system: str | None, plain: bool) -> Part:
    if spec.source.startswith(PREFIX):
        if plain:
            raise InputError(f"{spec.source}: a task asks as it asks; leave out --plain.")
        task = load_task(spec.source.removeprefix(PREFIX), data=spec.data)
        wanted = None if spec.limit is None else spec.skip + spec.limit
        found = task_prompts(task, readout=cast("Any", spec.readout), limit=wanted)
        return Part(spec.chosen(found.answered), found)
    path = Path(spec.source)
    if path.is_dir():
        raise InputError(f"{path} is a folder of answers, which cannot be mixed with other prompts; give it alone.")
    return Part(spec.chosen(read_answered(path, system=system, plain=plain)))


def prompts_hash(prompts: Sequence[NamedPrompt]) -> str:
    """First 16 hex digits of SHA-256 over ids and prompts."""
    return hashlib.sha256(json.dumps(list(prompts), ensure_ascii=False).encode()).hexdigest()[:16]
