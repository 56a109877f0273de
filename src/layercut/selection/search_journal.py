"""Journal of all searches in one run folder, item by item, by model, plan, task, settings and decoding; none twice.

An answer that ended as soon as its score was settled is enough for scores; where a whole one is needed, it is
generated again and replaces the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.runs.directory import RunFolder
from layercut.runs.settings import settings_hash
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Readout, Task, is_generated
from layercut.tasks.evaluate import InMemory, Records

KEY = "key"  # field of a record with the conditions that it was measured under


@dataclass(frozen=True, kw_only=True)
class JournalQuestion:
    """A task under one readout and decoding, of one model, without the plan; or a text that plans are measured on."""

    task: str
    readout: str  # a task's readout, or the measure on text
    model_hash: str
    version: int
    settings_hash: str  # hash of the task's settings: seed, shots, data,
    decoding: Mapping[str, Any] | None
    """Settings that change the answers: the temperature alone if greedy, None without generation."""

    @classmethod
    def of(cls, task: Task, readout: Readout, model_hash: str, decoding: Decoding) -> JournalQuestion:
        """The question that ``evaluate`` asks with these arguments."""
        how = {"temperature": 0.0} if decoding.is_greedy else decoding.as_dict()
        return cls(
            task=task.name,
            readout=readout,
            model_hash=model_hash,
            version=task.version,
            settings_hash=settings_hash(task.settings()),
            decoding=how if is_generated(readout) else None,
        )

    def key(self, plan: CutPlan) -> dict[str, Any]:
        """The key of a record under a plan. Task and readout are the name of the file."""
        return {
            "model_hash": self.model_hash,
            **plan.gone,
            "removed": sorted(plan.removed),
            "version": self.version,
            "settings_hash": self.settings_hash,
            "decoding": self.decoding,
        }


class SearchJournal:
    """The files of one run folder, each read when it is first needed. Without a folder, in memory."""

    def __init__(self, folder: RunFolder | None = None) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[tuple[str, str], _File] = {}

    def part(self, question: JournalQuestion, plan: CutPlan, ids: Sequence[str], *, whole: bool = False) -> JournalPart:
        """The known records of these items under a plan; ``whole``: without answers that ended early."""
        name = (question.task, question.readout)
        if name not in self._files:
            folder = self._folder
            self._files[name] = _File(self._open.enter_context(folder.journal(*name)) if folder else InMemory())
        return JournalPart(self._files[name], question.key(plan), ids, whole)

    def __enter__(self) -> SearchJournal:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        if self._folder is not None:
            self._files.clear()


class JournalPart:
    """One plan's part of a file. To ``evaluate`` it is a Journal of the wanted items under this plan."""

    def __init__(self, file: _File, key: Mapping[str, Any], ids: Sequence[str], whole: bool) -> None:
        self.path = file.store.path
        self._file = file
        self._key = key
        self._ids = ids
        self._whole = whole
        self._known = file.under(key)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for item in self._ids if (record := self._record(item)) is not None]

    @property
    def is_complete(self) -> bool:
        return all(self._record(item) is not None for item in self._ids)

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records: on disk when this returns. A known item keeps its answer."""
        self._file.append([{**record, KEY: self._key} for record in records if self._record(record["id"]) is None])

    def _record(self, item: str) -> dict[str, Any] | None:
        stored = self._known.get(item, {})
        return stored.get(True, None if self._whole else stored.get(False))


_Known = dict[str, dict[bool, dict[str, Any]]]
"""By item its records: the first whole answer under True, the first that ended early under False."""


class _File:
    """Records with an index."""

    def __init__(self, store: Records) -> None:
        self.store = store
        self._by_key: dict[str, _Known] = {}
        for record in store.records:
            if KEY not in record:
                raise InputError(f"{store.path} holds answers that were not written by a search; use another `out`.")
            self._keep(record)

    def under(self, key: Mapping[str, Any]) -> _Known:
        return self._by_key.setdefault(json.dumps(key, sort_keys=True, separators=(",", ":")), {})

    def append(self, records: list[dict[str, Any]]) -> None:
        """Write records, and hold them as a later command would read them."""
        if records:
            self.store.append(records)
            for record in self.store.records[-len(records) :]:
                self._keep(record)

    def _keep(self, record: dict[str, Any]) -> None:
        is_whole = record.get("finish_reason") != "settled"
        self.under(record[KEY]).setdefault(record["id"], {}).setdefault(is_whole, record)
