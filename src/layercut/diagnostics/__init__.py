"""Diagnostics by name: what exactly is damaged. A new one is a file here, a row in DIAGNOSTICS and a figure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from layercut.base_settings import Names, Settings
from layercut.errors import unknown_name
from layercut.models.convert import PREFIX

if TYPE_CHECKING:
    from layercut.diagnostics.session import DiagnosticSession
    from layercut.evidence.diagnosis import Diagnosis


class KnownDiagnostic(NamedTuple):
    """One row of the list."""

    function: str  # ``module:function``; the function takes a DiagnosticSession and returns a Diagnosis
    summary: str


_PLAN = re.compile(r"[\d,\- ]+|[A-Za-z_][\w.:]*:\d+(\.\d+)?%?")
_HERE = "layercut.diagnostics"
DIAGNOSTICS = {
    "arithmetic": KnownDiagnostic(f"{_HERE}.arithmetic:arithmetic", "expressions by size: written and ranked"),
    "brackets": KnownDiagnostic(f"{_HERE}.brackets:brackets", "nested brackets up to depth 8, and how programs fail"),
    "degeneration": KnownDiagnostic(
        f"{_HERE}.degeneration:degeneration", "repetition, loops, empty and endless answers"
    ),
    "propagation": KnownDiagnostic(
        f"{_HERE}.propagation:propagation",
        "damage token by token along the original model's right answers",
    ),
}


class DiagnoseSettings(Settings):
    """Settings of a diagnosis, the same for every model."""

    only: Names = Field((), description=f"Some of: {', '.join(DIAGNOSTICS)}. All if left out.")
    limit: int = Field(32, ge=1, description="Items of each kind of question; shown on the page.")


def load_diagnostic(name: str) -> Callable[[DiagnosticSession], Diagnosis]:
    """The function of a diagnostic."""
    module, _, attribute = DIAGNOSTICS[name].function.partition(":")
    function: Callable[[DiagnosticSession], Diagnosis] = getattr(import_module(module), attribute)
    return function


def chosen_diagnostics(names: Sequence[str]) -> list[str]:
    """The names in the order of the list, each once; all of them for none. InputError for an unknown one."""
    for name in names:
        if name not in DIAGNOSTICS:
            raise unknown_name("diagnostic", name, DIAGNOSTICS)
    return [name for name in DIAGNOSTICS if name in names or not names]


def is_plan(cut: str) -> bool:
    """True if it names layers of the original model, and not another model."""
    if _PLAN.fullmatch(cut):
        return True
    is_model = Path(cut).is_dir() or cut.startswith(PREFIX) or cut.lower().endswith(".gguf")
    return not is_model and (cut.endswith(".json") or "/" not in cut)
