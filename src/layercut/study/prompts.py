"""Where prompts come from, as people write it: a file, ``task:NAME``, or a run folder of ``layercut generate``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError, unknown
from layercut.healing.prompts import Answered, NamedPrompt, read_answered
from layercut.healing.settings import SYSTEM
from layercut.healing.task_prompts import PREFIX, TaskPrompts, task_prompts
from layercut.runs.records import read_records
from layercut.study.settings import DecodingSettings
from layercut.tasks import load_task
from layercut.tasks.base import Readout

PRESETS = ("paper",)
RESPONSES = Path("samples", "responses.jsonl")
MAX_NEW_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Prompts with the answers that their source gives, if it gives any."""

    answered: list[Answered]
    task: TaskPrompts | None = None
    records: list[dict[str, Any]] | None = None
    """Answers that a model has given already, where the source is a run folder."""

    @property
    def prompts(self) -> list[NamedPrompt]:
        """What is to be answered."""
        return [answered.prompt for answered in self.answered]

    def describe(self) -> dict[str, Any]:
        """What decides the prompts, for a run's settings."""
        settings: dict[str, Any] = {"n": len(self.answered), "hash": prompts_hash(self.prompts)}
        if self.task:
            settings |= {"task": self.task.task.name, "readout": self.task.readout, **self.task.task.settings()}
        return settings


class Answering(NamedTuple):
    """How prompts are answered."""

    decoding: DecodingSettings
    max_new_tokens: int
    system: str | None


def answering(
    preset: str | None,
    decoding: DecodingSettings,
    max_new_tokens: int | None,
    system: str | None,
    *,
    task_tokens: int | None = None,
) -> Answering:
    """Decoding settings under a preset; what was given otherwise than the default stays.

    ``paper`` (arXiv:2602.01997): temperature 0.9, top-p 0.95, up to 8192 tokens, and a system prompt.

    Raises:
        InputError: an unknown preset.
    """
    if preset is None:
        return Answering(decoding, max_new_tokens or task_tokens or MAX_NEW_TOKENS, system)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    drawn = DecodingSettings(temperature=0.9, top_p=0.95) if decoding == DecodingSettings() else decoding
    return Answering(drawn, max_new_tokens or 8192, SYSTEM if system is None else system)


def prompt_source(
    spec: str,
    *,
    system: str | None = None,
    plain: bool = False,
    readout: Readout | None = None,
    data: str | None = None,
    limit: int | None = None,
) -> PromptSource:
    """Read prompts.

    Args:
        spec: a ``.txt``, ``.jsonl`` or ``.json`` file, ``task:NAME`` for a task's selection items (the training split
            where a data set has one), or a run folder of ``layercut generate``.
        system: for conversations that have no system message; not for tasks, whose prompts are as they are.
        plain: no chat template; for files.
        readout: for tasks.
        data: local data of a task.
        limit: the first so many.

    Raises:
        InputError: nothing of that kind, or no prompts in it.
    """
    if spec.startswith(PREFIX):
        if plain:
            raise InputError(f"{spec}: a task asks as it asks; leave out --plain.")
        found = task_prompts(load_task(spec.removeprefix(PREFIX), data=data), readout=readout, limit=limit)
        return PromptSource(answered=found.answered, task=found)
    path = Path(spec)
    if path.is_dir():
        if not (path / RESPONSES).is_file():
            raise InputError(f"{spec} holds no answers: it has no {RESPONSES}. Give a run folder of layercut generate.")
        records = read_records(path / RESPONSES)[:limit]
        return PromptSource(answered=[], records=records)
    return PromptSource(answered=read_answered(path, system=system, plain=plain)[:limit])


def prompts_hash(prompts: Sequence[NamedPrompt]) -> str:
    """First 16 hex digits of SHA-256 over ids and prompts."""
    return hashlib.sha256(json.dumps(list(prompts), ensure_ascii=False).encode()).hexdigest()[:16]
