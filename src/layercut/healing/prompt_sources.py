"""Sources of prompts, as users write them: files, ``hub:NAME``, ``task:NAME``, or a run of ``generate``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar, cast

from pydantic import Field, model_validator

from layercut.base_settings import Seed, Settings
from layercut.engine.base import Completion, GenerationRequest
from layercut.errors import InputError, unknown_name
from layercut.healing.prompts import AnswerRecord, NamedPrompt, prompts_in, read_prompts
from layercut.healing.settings import SYSTEM
from layercut.runs.records import read_records
from layercut.settings import DecodingSettings
from layercut.tasks import check_task, load_task
from layercut.tasks.base import GENERATED, Readout, Sample, Task
from layercut.tasks.data_files import HUB, stream_hub_rows
from layercut.tasks.selected_items import describe_shortfall, merge_items

Kind = TypeVar("Kind", bound=Settings)
RESPONSES = Path("samples", "responses.jsonl")
PREFIX = "task:"
MAX_NEW_TOKENS = 256
SHUFFLE_BUFFER = 10_000  # rows of a hub data set that are shuffled while it streams
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "decoding": DecodingSettings(temperature=0.9, top_p=0.95),
        "max_new_tokens": 8192,
        "system": SYSTEM,
        "patience": 0,
    }
}
"""By name, fields of any settings. ``paper`` is arXiv:2602.01997, whose training never stops early."""


class PromptReading(Settings):
    """Settings of reading sources of prompts."""

    limit: int | None = Field(None, ge=1, description="At most this many prompts of each source.")
    shuffle_seed: Seed = Field(42, description="Random seed of shuffling a hub data set while it streams.")


class PromptSpec(PromptReading):
    """One source of prompts, as users write it."""

    source: str = Field(
        description="A file, hub:NAME[:config[:split]], task:NAME, or a run folder of layercut generate."
    )
    data: str | None = Field(None, description="Local data of a task.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.data is not None and not self.source.startswith(PREFIX):
            raise InputError(f"{self.source}: data belongs to task:NAME prompts; leave it out.")
        return self


class Answering(Settings):
    """Settings of answering prompts."""

    decoding: DecodingSettings = DecodingSettings()
    max_new_tokens: int | None = Field(None, ge=1, description="Longest answer; if left out, the task's own, or 256.")
    system: str | None = Field(None, description="System message for conversations that have none.")


class PromptGroup(NamedTuple):
    """Prompts of one kind, which are asked and graded in one way: selection items of a task, or those of a file."""

    prompts: list[NamedPrompt]
    """Of a task, the answer is the worked solution for a chain, else a draft of the right one; empty without either."""
    task: Task | None = None
    readout: Readout | None = None
    samples: Mapping[str, Sample] = {}
    """The task's items by id."""
    stop: tuple[str, ...] = ()
    max_new_tokens: int = MAX_NEW_TOKENS
    begins: str = ""  # beginning of every answer; see ``GenerationRequest``
    source: str = "other prompts"  # as users name it; of a task, its name counts
    note: str = ""  # a remark for users on how they were read
    made_of: Mapping[str, Collection[str]] = {}
    """By task, ids of the items that the prompts are, where no ``task`` reads them."""

    @property
    def items(self) -> Mapping[str, Collection[str]]:
        """By task, ids of the items that the prompts are."""
        if self.task is None:
            return self.made_of
        return {self.task.name: [*self.samples]}

    def are_right(self, answers: Sequence[Completion]) -> list[bool]:
        """True for each answer, under the id of its prompt, that has full marks on the task's headline metric."""
        assert self.task is not None and self.readout is not None, "prompts of a file are not graded"
        scores = self.task.grade_all([self.samples[answer.id] for answer in answers], self.readout, answers)
        return [next(iter(score.metrics.values())) >= 1 for score in scores]

    def describe(self) -> dict[str, Any]:
        content = json.dumps([(prompt.id, prompt.prompt) for prompt in self.prompts], ensure_ascii=False)
        settings: dict[str, Any] = {"n": len(self.prompts), "hash": hashlib.sha256(content.encode()).hexdigest()[:16]}
        if self.task:
            settings |= {"task": self.task.name, "readout": self.readout, **self.task.settings()}
        return settings


def task_prompts(task: Task, *, limit: int | None = None) -> PromptGroup:
    """The first selection items of a task as prompts; InputError if it generates nothing, or has none."""
    readout = next((name for name in task.readouts if name in GENERATED), None)
    if readout is None:
        raise InputError(f"{task.name} is scored by likelihood only, so it has no prompts to answer; use another task.")
    samples = {sample.id: sample for sample in task.samples("selection", limit)}
    if not samples:
        raise InputError(f"{task.name} has no selection items, so it gives no prompts; take another task or data.")
    requests = {name: cast("GenerationRequest", task.request(sample, readout)) for name, sample in samples.items()}
    prompts = []
    for name, request in requests.items():
        sample = samples[name]
        draft = sample.data.get("solution", "") if readout == "chain" else task.draft(sample, readout)
        for string in request.stop:
            draft = draft.partition(string)[0]
        prompts.append(NamedPrompt(name, request.prompt, draft))
    first = next(iter(requests.values()))
    return PromptGroup(prompts, task, readout, samples, first.stop, first.max_new_tokens, first.begins)


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Prompts from one or several sources, with the answers that the sources give."""

    parts: tuple[PromptGroup, ...] = ()
    records: list[AnswerRecord] | None = None
    """Answers that a model has given already, where the source is a run folder."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for part in self.parts:
            ids = {prompt.id for prompt in part.prompts}
            if both := seen & ids:
                raise InputError(f"{len(both)} prompts come from two sources, such as {min(both)}; take each once.")
            seen |= ids

    @property
    def prompts(self) -> list[NamedPrompt]:
        return [prompt for part in self.parts for prompt in part.prompts]

    @property
    def tasks(self) -> list[PromptGroup]:
        """Those of the parts that a task reads and grades."""
        return [part for part in self.parts if part.task]

    @property
    def is_graded(self) -> bool:
        """True if a task grades every answer."""
        return self.records is None and len(self.tasks) == len(self.parts)

    @property
    def items(self) -> dict[str, frozenset[str]]:
        """By task, ids of the items that the prompts are; in ids of records their task may be named first."""
        of_tasks = [(record["task"], record["id"]) for record in self.records or () if record.get("task")]
        of_records = [{task: [name.removeprefix(f"{task} ")]} for task, name in of_tasks]
        return merge_items(*(part.items for part in self.parts), *of_records)

    @property
    def notes(self) -> list[str]:
        """Remarks for users on how they were read."""
        return [part.note for part in self.parts if part.note]

    @property
    def max_new_tokens(self) -> int:
        """Default of the longest answer: that of the tasks, or MAX_NEW_TOKENS for prompts from files."""
        return max((part.max_new_tokens for part in self.parts), default=MAX_NEW_TOKENS)

    def describe(self) -> dict[str, Any]:
        if len(self.parts) == 1:
            return self.parts[0].describe()
        return {"n": len(self.prompts), "parts": [part.describe() for part in self.parts]}

    def asked(self, how: Answering, seed: int) -> dict[str, Any]:
        """Prompts and decoding, for a run's settings."""
        return {
            "prompts": self.describe() if self.records is None else {"n": len(self.records), "given": True},
            "decoding": how.decoding.as_dict() | {"seed": seed},
            "max_new_tokens": how.max_new_tokens or self.max_new_tokens,
        }


def under_preset(preset: str | None, settings: Kind, values: Mapping[str, Any] | None = None) -> Kind:
    """The given fields of settings over those of a preset; InputError for an unknown preset."""
    fields = with_preset(preset, settings.given() if values is None else values)
    return type(settings)(**{name: value for name, value in fields.items() if name in type(settings).model_fields})


def with_preset(preset: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """The given fields over those of a preset."""
    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    return {**(PRESETS[preset] if preset else {}), **values}


def answering_under(preset: str | None, decoding: DecodingSettings, **given: Any) -> Answering:
    """Answering from a preset and ``given`` fields, where None is not given; decoding settings stay together."""
    fields = {"decoding": None if decoding == DecodingSettings() else decoding, **given}
    return under_preset(preset, Answering(), {name: value for name, value in fields.items() if value is not None})


def prompt_specs(text: str, *, data: Mapping[str, str] | None = None, **shared: Any) -> tuple[PromptSpec, ...]:
    """Sources as the command line names them, with commas between; ``data`` gives local files of tasks by name."""
    names = [text] if Path(text).exists() else [part for part in text.split(",") if part]
    of_tasks = {
        name: {"data": (data or {}).get(name.removeprefix(PREFIX))} for name in names if name.startswith(PREFIX)
    }
    return tuple(PromptSpec(source=name, **{**shared, **of_tasks.get(name, {})}) for name in names)


def check_prompts(specs: Iterable[PromptSpec]) -> None:
    """Refuse ``task:NAME`` of an unknown task. Nothing is read."""
    for spec in specs:
        if spec.source.startswith(PREFIX):
            check_task(spec.source.removeprefix(PREFIX))


def prompt_source(specs: Sequence[PromptSpec], *, system: str | None = None, plain: bool = False) -> PromptSource:
    """Read prompts; a run folder of answers must be the only source.

    ``system`` is for conversations without a system message, ``plain`` for no chat template; both for files and hub
    data sets, because tasks have their own prompts. Raises InputError, or MissingExtra for a hub data set.
    """
    if len(specs) == 1 and (path := Path(specs[0].source)).is_dir():
        if not (path / RESPONSES).is_file():
            raise InputError(f"{path} holds no answers: it has no {RESPONSES}. Give a run folder of layercut generate.")
        return PromptSource(records=cast("list[AnswerRecord]", read_records(path / RESPONSES))[: specs[0].limit])
    return PromptSource(parts=tuple(_read_group(spec, system, plain) for spec in specs))


def _read_group(spec: PromptSpec, system: str | None, plain: bool) -> PromptGroup:
    source, limit = spec.source, spec.limit
    if source.startswith(PREFIX):
        if plain:
            raise InputError(f"{source}: a task defines its own prompt format; leave out `plain`.")
        task = load_task(source.removeprefix(PREFIX), data=spec.data)
        group = task_prompts(task, limit=limit)
        return group._replace(note=describe_shortfall(task, "selection", limit))
    if source.startswith(HUB):
        rows = stream_hub_rows(source, extra="heal", buffer=SHUFFLE_BUFFER, seed=spec.shuffle_seed)
        left_out: list[str] = []
        prompts = prompts_in(rows, source, system=system, plain=plain, limit=limit, left_out=left_out)
        note = f"skipped rows without a usable prompt: {len(left_out)}, the first is {left_out[0]}" if left_out else ""
        return PromptGroup(prompts, source=source, note=note)
    if Path(source).is_dir():
        raise InputError(f"{source} is a folder of answers, which cannot be mixed with other prompts; give it alone.")
    return PromptGroup(read_prompts(Path(source), system=system, plain=plain, limit=limit), source=source)
