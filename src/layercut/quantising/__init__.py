"""Write a GGUF file whose tensors have the types that the user's task needs; and the settings of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from layercut.base_settings import Names
from layercut.errors import InputError
from layercut.models.make_gguf import check_ggml_types
from layercut.selection.goal import GoalSettings

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[kMG]B)")
_UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


def size_in_bytes(text: str, whole: int) -> int:
    """Bytes of ``600MB``, ``0.6 GB``, or ``55%`` of ``whole``. Raises InputError: neither, or more than all.

    >>> size_in_bytes("600MB", 10**9), size_in_bytes("55%", 10**9)
    (600000000, 550000000)
    """
    if (match := _SIZE.fullmatch(text.strip())) is None:
        raise InputError(f"`size` {text!r:.60} is no size; write 600MB, 0.6GB or 55%.")
    number, unit = float(match[1]), match[2]
    size = int(number / 100 * whole) if unit == "%" else int(number * _UNITS[unit])
    if not 0 < size <= whole:
        raise InputError(f"`size` {text} is not between 0 and the {whole / 1e6:,.0f} MB of the model; ask for less.")
    return size


class QuantiseSettings(GoalSettings):
    """What a quantised file is for, and how large it may be."""

    size: Annotated[str, AfterValidator(lambda size: size_in_bytes(size, 10**15) and size)] | None = Field(
        None, description="Most bytes of the file: 600MB, 0.6GB, or 55% of MODEL's."
    )
    bits: float | None = Field(None, gt=0, le=16, description="In place of a size: mean bits of a weight, such as 3.2.")
    types: Annotated[Names, AfterValidator(check_ggml_types)] = Field(
        (), description="ggml types that tensors may get, such as q3_k,q4_k,q6_k; all that fit if left out."
    )
    recipe: Path | None = Field(
        None, description="In place of a size: types by tensor, a file as llama-quantize --tensor-type-file takes it."
    )
    answers: int = Field(16, ge=2, description="Own answers to selection items of each task that types follow.")
    general: int = Field(8, ge=0, description="Own answers to general requests that types follow too; 0 for none.")
    held_out: int = Field(8, ge=2, description="Other own answers of each task, on which the divergence is measured.")
    gradients: bool = Field(True, description="Weigh errors by gradients; else by what matrices read alone.")
    imatrix: Path | None = Field(
        None, description="An importance matrix (imatrix.gguf or .dat) in place of the one measured here."
    )
    compare_plain: bool = Field(True, description="Measure the plain type of the nearest size as well.")

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if len([value for value in (self.size, self.bits, self.recipe) if value is not None]) > 1:
            raise InputError("give one of `size`, `bits` and `recipe`.")
        return self

    @property
    def writes_file(self) -> bool:
        """False where statistics alone are wanted."""
        return (self.size, self.bits, self.recipe) != (None, None, None)
