"""A hub model of which only some weight files are fetched; the others are known by their headers.

Files that hold only removed layers need not be downloaded. A sparse file with the true header replaces each of them,
so names, shapes and sizes can still be read. Its tensors read as zeros, so the caller must know which files are real.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from layercut.errors import CheckpointError
from layercut.models.hub import download, look_up, refusals
from layercut.models.weights import TensorEntry


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The facts of a hub model that are known before its weights are fetched."""

    repo: str
    commit: str
    path: Path
    """The snapshot folder: all but the weights."""
    with_code: bool
    weight_map: Mapping[str, str]
    """Tensor to file name."""
    tensors: Mapping[str, Mapping[str, TensorEntry]]
    """File name to header."""
    metadata: Mapping[str, Mapping[str, str]]
    """File name to ``__metadata__``."""

    def num_bytes(self, files: Collection[str]) -> int:
        """Bytes of the tensors in some files."""
        return sum(entry.num_bytes for name in files for entry in self.tensors[name].values())

    @contextmanager
    def folder(self, files: Collection[str]) -> Iterator[Path]:
        """A folder like the model's own, in which only these weight files are real; gone when the block ends.

        They are fetched into the hub's cache first, where they stay.

        Raises:
            InputError: the hub is out of reach or refuses.
        """
        snapshot = download(self.repo, revision=self.commit, with_code=self.with_code, weights=sorted(files))
        with tempfile.TemporaryDirectory(prefix="layercut-") as temporary:
            folder = Path(temporary)
            for file in snapshot.path.iterdir():
                if file.is_file() and (file.name in files or file.name not in self.tensors):
                    (folder / file.name).symlink_to(file.resolve())
            for name in self.tensors.keys() - set(files):
                _stand_in(folder / name, self.tensors[name], self.metadata[name])
            yield folder


def outline(repo: str, *, revision: str | None = None, with_code: bool = False) -> Outline | None:
    """All of a hub model but its weights, whose headers alone are read; None where the hub is out of reach.

    Raises:
        InputError: no such model or revision, or no access.
        CheckpointError: no safetensors, or headers that cannot be read.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    api = HfApi()
    with refusals(repo, revision):
        if not look_up(api, repo, revision):
            return None
        snapshot = download(repo, revision=revision, with_code=with_code, weights=())
        try:
            found = api.get_safetensors_metadata(repo, revision=snapshot.commit)
        except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
            raise CheckpointError(f"the weights of {repo} cannot be read: {str(error).splitlines()[0]}") from error
    return Outline(
        repo=repo,
        commit=snapshot.commit,
        path=snapshot.path,
        with_code=with_code,
        weight_map=found.weight_map,
        tensors={
            name: {
                one: TensorEntry(held.dtype, tuple(held.shape), *held.data_offsets)
                for one, held in file.tensors.items()
            }
            for name, file in found.files_metadata.items()
        },
        metadata={name: file.metadata for name, file in found.files_metadata.items()},
    )


def _stand_in(path: Path, tensors: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> None:
    """A sparse file: header, then a hole of the tensors' size that takes no disk."""
    header = {"__metadata__": dict(metadata)} | {
        name: {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (entry.begin, entry.end)}
        for name, entry in tensors.items()
    }
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + max((entry.end for entry in tensors.values()), default=0))
