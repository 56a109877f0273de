"""Verb: what a verb is asked, declared once and built in one way by the command line, by YAML and by Python.

    SelectVerb.of(model="bundled:smollm2-135m", criterion="block_influence", remove="3 layers")

Building it is the check: names, bounds and what contradicts what, without torch and without a model. A request's fields
are plain ones and groups of settings (the model's, decoding, training); to all doors they have one level of names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self, Union, get_args, get_origin

import yaml
from pydantic import model_validator
from pydantic.fields import FieldInfo

from layercut.base_settings import Settings
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, unknown_name
from layercut.progress import Say
from layercut.runs.dry_run import Outline
from layercut.runs.trackers import track_numbers
from layercut.selection.specs import LayerSpec
from layercut.settings import ModelSettings

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Io(NamedTuple):
    """Console and lines for people, and the models that the caller has in memory."""

    console: Console
    say: Say
    loaded: Mapping[str, ModelHandle] = {}  # by the name of their settings

    def handle(self, settings: ModelSettings) -> ModelHandle:
        """The model: the one in memory, or its files."""
        return self.loaded.get(settings.model) or ModelHandle(settings)


class Fields(NamedTuple):
    """Marks a group of settings whose fields are a request's: ``Annotated[TrainSettings, Fields(...)]``."""

    panel: str | None = None  # heading in ``--help``
    shown: str = ""  # fields that ``--help`` shows; ``--help-all`` shows the others
    without: str = ""  # fields that this verb does not take
    names: Mapping[str, str] = {}  # flags whose name is not the field's


class Flag(NamedTuple):
    """Marks a plain field, for the command line."""

    metavar: str | None = None
    spelled: str = ""  # the flag, where it is not the field's name: ``--set``, ``--verify/--no-verify``, ``--long,-l``
    hidden: bool = False
    argument: bool = False
    repeated: bool = False  # written once for each entry; other lists are text with commas


class Slot(NamedTuple):
    """One name that a request takes."""

    name: str
    group: str | None  # field of the request that holds the settings; None for a plain field
    field: str
    kind: type[Settings]  # class that declares the field
    flag: Flag
    panel: str | None = None  # heading in ``--help``

    @property
    def info(self) -> FieldInfo:
        """Type, default, bounds and help."""
        return self.kind.model_fields[self.field]

    def read(self, value: Any) -> Any:
        """A value as the field takes it: lists as tuples, ``a,b`` as names, numbers as text, text as a path."""
        value = fspath(value) if isinstance(value, PathLike) else value
        plain = plain_type(self.info.annotation)
        if get_origin(plain) is tuple:
            if isinstance(value, str):
                value = [value] if self.flag.repeated else [part for part in value.split(",") if part]
            return tuple(value) if isinstance(value, list) else value
        if plain is Path and isinstance(value, str):
            return Path(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if plain is str and is_number else value


class Shown(NamedTuple):
    """A result, as the command line shows it."""

    data: Any  # all of it, for ``--json``
    blocks: Iterable[RenderableType] = ()  # tables, above the lines
    lines: Iterable[str] = ()
    notes: Sequence[str] = ()  # lines on stderr that should not be overlooked
    failed: bool = False  # True for the exit code 1


def shown_outline(outline: Outline) -> Shown:
    """What a dry run shows. Raises InputError: a folder that the run would refuse."""
    from layercut.runs.directory import RunFolder

    if outline.folder is not None:
        RunFolder.check(outline.folder)
    return Shown(outline.to_dict(), lines=["", *outline.lines()])


class Verb(Settings, arbitrary_types_allowed=True):
    """Base of all verbs. The class docstring is the help."""

    VERB: ClassVar[str]
    FUNCTION: ClassVar[str] = ""  # its name in Python, where that is another one
    POSITIONAL: ClassVar[tuple[str, ...]] = ()  # fields that may be given by position in Python
    RETURNS: ClassVar[str] = ""  # what the Python function returns, for its help
    RUNS_PROGRAMS: ClassVar[bool] = False
    """True if tasks may run programs that the model writes: the verb takes ``--unsafe-exec``."""
    HIDDEN: ClassVar[str] = ""  # options of the command line that ``--help`` does not show, of json and unsafe_exec

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Refuse fields that contradict each other. Raises InputError."""

    def fit(self) -> None:
        """Refuse what the model's config does not allow: layers that it lacks. Weights are not read; InputError."""

    @property
    def run_folder(self) -> Path:
        """The run folder: ``out``, or one that is called by the verb and the model."""
        from layercut.tasks.cells import folder_name

        fields: Any = self
        return fields.out or Path("runs", folder_name(f"{self.VERB}-{fields.model.model}"))

    def run(self, io: Io) -> Any:
        """Do it, reports included."""
        raise NotImplementedError

    def rehearse(self, io: Io) -> Shown:
        """What would be done; nothing is written. Verbs that override it take ``--dry-run``.

        Raises:
            InputError: a verb without a dry run, in a file of ``layercut run``.
        """
        raise InputError(f"{self.VERB} has no dry run; leave out `dry_run`.")

    def show(self, done: Any, io: Io) -> Shown:
        """The result of ``run``, for people and machines."""
        raise NotImplementedError

    def returned(self, done: Any) -> Any:
        """What the Python function gives, of what ``run`` gives."""
        return done

    @classmethod
    def of(cls, /, **given: Any) -> Self:
        """A request from names on one level; None is as good as left out. A group may also be given whole.

        Raises:
            InputError: a name that it does not take, with the nearest one, or values that cannot be used.
        """
        known = field_slots(cls)
        groups: dict[str, dict[str, Any]] = {slot.group: {} for slot in known.values() if slot.group}
        own: dict[str, Any] = {}
        for name, value in given.items():
            if name in groups and isinstance(value, Settings):
                groups[name] |= value.given()
            elif (slot := known.get(name)) is None:
                raise unknown_name(f"argument of {cls.VERB}", name, known)
            elif value is not None:
                (own if slot.group is None else groups[slot.group])[slot.field] = slot.read(value)
        kinds = {slot.group: slot.kind for slot in known.values() if slot.group}
        return cls(**own, **{name: kinds[name](**fields) for name, fields in groups.items()})

    def flat(self) -> dict[str, Any]:
        """All that was given, as plain data by the names that ``of`` takes."""
        values = {}
        for name, slot in field_slots(type(self)).items():
            holder = self if slot.group is None else getattr(self, slot.group)
            if slot.field in holder.model_fields_set:
                values[name] = _plain(getattr(holder, slot.field))
        return values

    def to_yaml(self) -> str:
        """The file that ``layercut run`` takes."""
        return yaml.safe_dump({self.VERB: self.flat()}, sort_keys=False, allow_unicode=True)

    def tracked(self) -> AbstractContextManager[None]:
        """A block whose numbers go to the trackers that are asked for. Raises InputError: one that is not there."""
        names: tuple[str, ...] = getattr(self, "report_to", ())
        return (
            track_numbers(names, str(getattr(self, "out", None) or self.VERB), self.flat()) if names else nullcontext()
        )


@cache
def field_slots(kind: type[Verb]) -> dict[str, Slot]:
    """All names that a request takes, in order."""
    known: dict[str, Slot] = {}
    for field, info in kind.model_fields.items():
        how = next((mark for mark in reversed(info.metadata) if isinstance(mark, Fields | Flag)), Flag())
        if not isinstance(how, Fields):
            known[field] = Slot(field, None, field, kind, how)
            continue
        assert isinstance(info.annotation, type) and issubclass(info.annotation, Settings)
        for inner in info.annotation.model_fields:
            if inner not in how.without.split():
                name = name_of_flag(how.names.get(inner, inner))
                assert name not in known, f"{kind.__name__} takes {name} twice"
                flag = Flag(spelled=how.names.get(inner, ""), hidden=inner not in how.shown.split())
                known[name] = Slot(name, field, inner, info.annotation, flag, how.panel)
    return known


def name_of_flag(flag: str) -> str:
    """The name of a flag: keep_it of ``--keep-it/--drop-it``."""
    return flag.partition("/")[0].strip("-").replace("-", "_")


def plain_type(annotation: Any) -> Any:
    """A field's type without checks and without None."""
    if get_origin(annotation) is Annotated:
        return plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return plain_type(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _plain(value: Any) -> Any:
    """A value as YAML holds it."""
    if isinstance(value, Settings):
        return {name: _plain(entry) for name, entry in value.given().items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path | LayerSpec) else value
