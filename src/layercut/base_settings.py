"""Settings: pydantic models whose fields declare type, default, bounds, choices and help once.

The command line, study files and Python read them from there. A value that cannot be used is an InputError of one line
that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, Self, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    PlainSerializer,
    ValidationError,
    WrapValidator,
)
from pydantic.fields import FieldInfo
from pydantic_core.core_schema import ValidationInfo

from layercut.errors import InputError, unknown_name
from layercut.seed import check_seed


class Settings(BaseModel, frozen=True, extra="forbid", strict=True):
    """Base of all settings: keywords only, never changed, no field that is not declared."""

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise _refusal(type(self), error) from None

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain data, nested settings as well."""
        return self.model_dump()

    def given(self) -> dict[str, Any]:
        """The fields that were given, whether they are the defaults or not."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def replace(self, **changes: Any) -> Self:
        """The same with other values, which are checked; what was left out stays left out."""
        return type(self)(**{**self.given(), **changes})


class Choices(NamedTuple):
    """A check that a value is one of a few names."""

    names: tuple[str, ...]

    def __call__(self, value: str, info: ValidationInfo) -> str:
        """The value, if it is one of them."""
        if value not in self.names:
            raise unknown_name(str(info.field_name), value, self.names)
        return value


def one_of(names: Iterable[str]) -> AfterValidator:
    """A check that lets a text field take a few names alone."""
    return AfterValidator(cast("Any", Choices(tuple(names))))


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The names that a field takes; none where it takes any."""
    checks = [mark.func for mark in field.metadata if isinstance(mark, AfterValidator)]
    return next((check.names for check in checks if isinstance(check, Choices)), ())


def _seed(value: Any, info: ValidationInfo) -> int:
    return check_seed(value, str(info.field_name).removesuffix("s"))


def _names(value: Any) -> Any:
    return tuple(str(part) for part in value) if isinstance(value, list | tuple) else value


def _number(value: Any, check: Any) -> Any:
    checked = check(value)
    return value if type(value) is int else checked


def read_share(value: Any, name: str) -> Any:
    """A share as people write it: ``0.9``, or ``"90%"``.

    >>> read_share("90%", "keep"), read_share("0.9", "keep"), read_share(1, "keep")
    (0.9, 0.9, 1)

    Raises:
        InputError: text that is neither, or a number of per cent.
    """
    if isinstance(value, str):
        number, percent = value.strip().removesuffix("%"), value.strip().endswith("%")
        try:
            value = float(f"{number.strip()}e-2" if percent else number)
        except ValueError:
            raise InputError(f"{name} {value!r:.60} is no share; write 90% or 0.9.") from None
    if isinstance(value, int | float) and 2 <= value <= 100:
        raise InputError(f"{name} {value:g} is no share; write {value:g}% or {value / 100:g}.")
    return value


def _share(value: Any, info: ValidationInfo) -> Any:
    return read_share(value, str(info.field_name))


Number = Annotated[float, WrapValidator(_number), PlainSerializer(lambda value: value)]
"""A float; a whole number stays one."""
Share = Annotated[float, BeforeValidator(_share), WrapValidator(_number), PlainSerializer(lambda value: value)]
"""A number from 0 to 1, which may be written in percent."""
Seed = Annotated[int, BeforeValidator(_seed)]  # a random seed
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]  # names in a list


def _refusal(kind: type[Settings], error: ValidationError) -> InputError:
    """The first thing that is wrong, in one line; a name that is not declared before all others."""
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    name, value = ".".join(str(part) for part in first["loc"]), first["input"]
    field = kind.model_fields.get(str(first["loc"][0]) if first["loc"] else "")
    if first["type"] == "value_error":
        said = first["ctx"]["error"]
        return said if isinstance(said, InputError) else InputError(f"{name}: {said}")
    if first["type"] == "extra_forbidden":
        return unknown_name("setting", name, kind.model_fields)
    if first["type"] == "missing":
        return InputError(f"{name} is missing, and has no default: {(field and field.description) or 'give it'}")
    if field and first["type"].startswith(("greater", "less")):
        size = "too small" if first["type"].startswith("greater") else "too large"
        size = "no number" if value != value else size
        return InputError(f"{name} {value} is {size}; write {describe_bounds(field)}.")
    if first["type"] == "tuple_type":
        return InputError(
            f"{name}: {value!r} is not a list; write [one, two], or in a file one entry a line, each after a dash."
        )
    return InputError(f"{name}: {value!r} is not of the kind {_kind(field, first['type'])}.")


def field_limits(field: FieldInfo) -> Mapping[str, Any]:
    """Bounds of a field by ge, gt, le and lt."""
    names = ("ge", "gt", "le", "lt")
    return {name: getattr(bound, name) for bound in field.metadata for name in names if hasattr(bound, name)}


def describe_bounds(field: FieldInfo) -> str:
    """The numbers that a field takes, in words."""
    known = field_limits(field)
    if {"ge", "le"} <= {*known}:
        return f"{known['ge']} to {known['le']}"
    low = f"{known['ge']} or more" if "ge" in known else f"a number above {known['gt']}" if "gt" in known else ""
    high = f"{known['le']} or less" if "le" in known else f"less than {known['lt']}" if "lt" in known else ""
    return f"{low} and {high}" if low and high else low or high


def _kind(field: FieldInfo | None, error: str) -> str:
    """A field's type, as people write types."""
    if field is None:
        return error.removesuffix("_type")
    kinds = [part for part in get_args(field.annotation) if part is not type(None)] or [field.annotation]
    kind = get_args(kinds[0])[0] if get_origin(kinds[0]) is Annotated else kinds[0]
    return str(getattr(kind, "__name__", kind))
