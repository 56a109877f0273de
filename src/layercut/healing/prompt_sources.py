"""Sources of prompts, as users write them: files, ``hub:NAME`` and ``task:NAME``, or a run of ``generate``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from layercut.errors import InputError, unknown
from layercut.healing.best_of import chosen
from layercut.healing.prompts import NamedPrompt, PromptWithAnswer, answered_in, read_answered
from layercut.healing.settings import SYSTEM
from layercut.healing.task_prompts import PREFIX, TaskPrompts, task_prompts
from layercut.runs.records import read_records
from layercut.seed import check_seed
from layercut.settings import DecodingSettings
from layercut.tasks import load_task
from layercut.tasks.hub_rows import HUB, hub_rows
from layercut.text.counting import counted

PRESETS = ("paper",)
Found = TypeVar("Found")
RESPONSES = Path("samples", "responses.jsonl")
CHOICES = Path("samples", "choices.jsonl")
"""Of several answers to a prompt, the best."""
MAX_NEW_TOKENS = 256
SHUFFLE_BUFFER = {None: 10_000, "paper": 500_000}
"""By preset."""


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """One source of prompts, as people name it."""

    source: str
    """A file, ``hub:NAME[:config[:split]]``, ``task:NAME``, or a run folder of ``layercut generate``."""
    readout: str | None = None
    """How a task's items are asked."""
    data: str | None = None
    """Local data of a task."""
    limit: int | None = None
    """Read at most this many prompts."""
    skip: int = 0
    """Skip this many prompts, which another source takes; ``limit`` counts from there."""
    shuffle_buffer: int = SHUFFLE_BUFFER[None]
    """Rows of a hub data set that are held to be drawn from, as it streams in; 0 leaves it in its order."""
    shuffle_seed: int = 42
    """Of that draw."""

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise InputError(f"{self.source}: skip {self.skip} is negative; write 0 or more.")
        check_seed(self.shuffle_seed, f"{self.source}: shuffle_seed")
        if self.shuffle_buffer < 0:
            raise InputError(f"{self.source}: shuffle_buffer {self.shuffle_buffer} is too small; write 0 or more.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"{self.source}: limit {self.limit} leaves no prompts; write 1 or more.")
        if self.data is not None and not self.source.startswith(PREFIX):
            raise InputError(f"{self.source}: data belongs to task:NAME prompts; leave it out.")

    @property
    def read(self) -> int | None:
        """How many are to be read so that ``limit`` are left."""
        return None if self.limit is None else self.skip + self.limit

    def chosen(self, found: list[Found]) -> list[Found]:
        """Those that ``skip`` and ``limit`` leave.

        Raises:
            InputError: none.
        """
        if found and self.skip >= len(found):
            raise InputError(
                f"{self.source} has {counted(len(found), 'prompt')}, and skip {self.skip} leaves none; skip fewer."
            )
        return found[self.skip :][: self.limit]


class PromptGroup(NamedTuple):
    """Prompts of one kind, which are asked and graded alike."""

    answered: list[PromptWithAnswer]
    task: TaskPrompts | None = None
    note: str = ""
    """What people should know of how they were read."""

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

    parts: tuple[PromptGroup, ...] = ()
    records: list[dict[str, Any]] | None = None
    """Answers that a model has given already, where the source is a run folder."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for part in self.parts:
            ids = {prompt.id for prompt in part.prompts}
            if both := seen & ids:
                raise InputError(
                    f"{counted(len(both), 'prompt')} come from two sources, such as {min(both)}; take each source once."
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
    def notes(self) -> list[str]:
        """What people should know of how they were read, a line each."""
        return [part.note for part in self.parts if part.note]

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
    samples: int = 1
    """Answers to each prompt, of which the best is trained on."""
    max_prompt_tokens: int | None = None
    """Longer prompts are left out."""

    def extra(self) -> dict[str, int]:
        """What is set beside decoding and the longest answer, for a run's settings."""
        shared = {"samples": self.samples} if self.samples > 1 else {}
        return shared | ({} if self.max_prompt_tokens is None else {"max_prompt_tokens": self.max_prompt_tokens})


def answering(
    preset: str | None,
    decoding: DecodingSettings,
    max_new_tokens: int | None,
    system: str | None,
    *,
    samples: int = 1,
    max_prompt_tokens: int | None = None,
) -> Answering:
    """Decoding settings under a preset; what was given otherwise than the default stays.

    ``paper`` (arXiv:2602.01997): temperature 0.9, top-p 0.95, up to 8192 tokens, prompts of up to 8000, and a system
    prompt. One sample, as without it; and a hub data set is shuffled through 500,000 rows.

    Raises:
        InputError: an unknown preset, or no answer to a prompt.
    """
    if samples < 1:
        raise InputError(f"samples {samples} leaves no answer to a prompt; write 1 or more.")
    if preset is None:
        return Answering(decoding, max_new_tokens, system, samples, max_prompt_tokens)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    drawn = DecodingSettings(temperature=0.9, top_p=0.95) if decoding == DecodingSettings() else decoding
    said = SYSTEM if system is None else system
    return Answering(drawn, max_new_tokens or 8192, said, samples, max_prompt_tokens or 8000)


def prompt_specs(
    text: str,
    *,
    readout: str | None = None,
    data: Mapping[str, str] | None = None,
    limit: int | None = None,
    shuffle_buffer: int = SHUFFLE_BUFFER[None],
    shuffle_seed: int = 42,
) -> tuple[PromptSpec, ...]:
    """Sources as the command line names them, with commas between; what is said beside them holds for each.

    ``data`` gives the local files of tasks by their names.
    """
    names = [text] if Path(text).exists() else [part for part in text.split(",") if part]
    return tuple(
        PromptSpec(
            source=name,
            readout=readout if name.startswith(PREFIX) else None,
            data=(data or {}).get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None,
            limit=limit,
            shuffle_buffer=shuffle_buffer,
            shuffle_seed=shuffle_seed,
        )
        for name in names
    )


def prompt_source(specs: Sequence[PromptSpec], *, system: str | None = None, plain: bool = False) -> PromptSource:
    """Read prompts.

    Args:
        specs: where from. A run folder of answers stands alone.
        system: for conversations that have no system message; not for tasks, whose prompts are as they are.
        plain: no chat template; for files and hub data sets.

    Raises:
        InputError: nothing of that kind, no prompts in it, the same prompts twice, or a run folder whose answers were
            not chosen among yet.
        MissingExtra: a hub data set and no ``datasets``.
    """
    if len(specs) == 1 and Path(specs[0].source).is_dir():
        path = Path(specs[0].source)
        if not (path / RESPONSES).is_file():
            raise InputError(f"{path} holds no answers: it has no {RESPONSES}. Give a run folder of layercut generate.")
        return PromptSource(records=specs[0].chosen(_chosen_in(path)))
    return PromptSource(parts=tuple(_part(spec, system, plain) for spec in specs))


def _part(spec: PromptSpec, system: str | None, plain: bool) -> PromptGroup:
    if spec.source.startswith(PREFIX):
        if plain:
            raise InputError(f"{spec.source}: a task defines its own prompt format; leave out --plain.")
        task = load_task(spec.source.removeprefix(PREFIX), data=spec.data)
        found = task_prompts(task, readout=cast("Any", spec.readout), limit=spec.read)
        return PromptGroup(spec.chosen(found.answered), found)
    if spec.source.startswith(HUB):
        rows = hub_rows(spec.source, extra="heal", buffer=spec.shuffle_buffer, seed=spec.shuffle_seed)
        left_out: list[str] = []
        answered = answered_in(rows, spec.source, system=system, plain=plain, limit=spec.read, left_out=left_out)
        note = f"skipped rows without a usable prompt: {len(left_out)}, the first is " if left_out else ""
        return PromptGroup(spec.chosen(answered), note=note + "".join(left_out[:1]))
    path = Path(spec.source)
    if path.is_dir():
        raise InputError(f"{path} is a folder of answers, which cannot be mixed with other prompts; give it alone.")
    return PromptGroup(spec.chosen(read_answered(path, system=system, plain=plain, limit=spec.read)))


def _chosen_in(folder: Path) -> list[dict[str, Any]]:
    """A run's answers; of several to a prompt, the chosen one."""
    records = read_records(folder / RESPONSES)
    if not any("prompt_id" in record for record in records):
        return records
    choices = read_records(folder / CHOICES) if (folder / CHOICES).is_file() else []
    if {choice["id"] for choice in choices} != {record["prompt_id"] for record in records}:
        raise InputError(f"{folder} is not finished: not all prompts have a best answer yet. Run its command again.")
    return chosen(records, choices)


def prompts_hash(prompts: Sequence[NamedPrompt]) -> str:
    """First 16 hex digits of SHA-256 over ids and prompts."""
    return hashlib.sha256(json.dumps(list(prompts), ensure_ascii=False).encode()).hexdigest()[:16]
