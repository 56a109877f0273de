"""Resolve the model that a user names to a Hugging Face folder on disk, or read its depth before that.

A hub id (``Qwen/Qwen3-0.6B``), a local folder, a ``.gguf`` file, or ``bundled:smollm2-135m``. A path on disk wins over
a hub id. Pickled weights are never fetched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import CheckpointError, InputError, first_line
from layercut.models.checks import check_counts, count_layers, refuse_absurd_count
from layercut.models.convert import PREFIX, bundled_file, bundled_model, convert_gguf, read_conversion
from layercut.models.gguf_file import read_gguf_head
from layercut.models.structure import Structure, counted_layers, structure_of
from layercut.models.weights import TENSORS_FILE, WEIGHTS, fingerprint_of, pickled_only, read_config, stored_tensors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?$", re.ASCII)
_TIMEOUT = 10.0  # seconds until the hub counts as out of reach
_WANTED = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "USE_POLICY*", "README.md")
_UNWANTED = ("*/*", "consolidated*", "adapter_*", "*.fp16.*", "*.fp16-*", "training_args*", "trainer_state*")
"""Sub-folders (other formats), the same weights a second time, and what training left behind."""
_KINDS = "Give a hub id, a local model folder, a .gguf file, or bundled:smollm2-135m"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model found."""

    name: str  # as it was named
    path: Path  # a Hugging Face folder: the given one, the hub's snapshot, or a GGUF file converted
    revision: str | None = None  # the commit, for a hub model
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the weights: ``kind`` (hub, folder, gguf, bundled), and for GGUF what ``layercut_source.json`` records,
    such as the SHA-256 of the file."""


def resolve_source(source: str, *, revision: str | None = None, weights: bool = True) -> ModelSource:
    """Find a hub id, folder, ``.gguf`` file or ``bundled:NAME``, downloaded or converted if it has not been yet.

    Without ``weights``, the folder of a GGUF file has what follows from its header, and ``with_weights`` adds the rest.
    """
    source = os.fspath(source)
    path = Path(source).expanduser()
    if not source.strip():
        raise InputError(f"no model was named. {_KINDS}.")
    if revision is not None and (source.startswith(PREFIX) or path.exists()):
        raise InputError(f"{source} has no revisions (`revision` {revision} is for models of the hub); leave it out.")
    if source.startswith(PREFIX):
        row, label = bundled_model(source), source.removeprefix(PREFIX)
        folder = convert_gguf(bundled_file(row), weights=weights, label=label, sha256=row.sha256, package=row.install)
        origin = {**read_conversion(folder), "kind": "bundled", "base_model": row.base_model}
        return ModelSource(name=source, path=folder, origin=origin)
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise InputError(f"{source} is an adapter; merge it by PEFT's merge_and_unload, and give the saved model.")
        return ModelSource(name=source, path=path, origin={**read_conversion(path), "kind": "folder"})
    if path.exists():
        folder = convert_gguf(path, weights=weights)
        return ModelSource(name=source, path=folder, origin=read_conversion(folder))
    if _looks_like_path(source):
        raise InputError(f"{source} does not exist. {_KINDS}.")
    path = download_model(source, revision=revision)
    commit = path.name
    origin = {"kind": "hub", "repo": source, "revision": commit}
    return ModelSource(name=source, path=path, revision=commit, origin=origin)


def with_weights(source: ModelSource) -> ModelSource:
    """The source with a folder that holds the weights: a GGUF file is converted if it has not been yet."""
    return resolve_source(source.name) if (source.path / TENSORS_FILE).is_file() else source


class SourceFacts(NamedTuple):
    """A model's facts from its files, without loading it."""

    structure: Structure
    num_layers: int  # decoder layers
    model_hash: str  # first 16 hex digits of the checkpoint's fingerprint


def describe_source(source: ModelSource) -> SourceFacts:
    """Structure, depth and hash of a model, from its config and the heads of its weight files."""
    config = read_config(source.path)
    tensors = stored_tensors(source.path)
    names = [tensor.name for tensor in tensors]
    refuse_absurd_count(names, config, source.name)
    check_counts(config, source.name)
    structure = structure_of(config, source.name, names)
    num_layers = count_layers(names, config, structure, source.name)
    weights = source.origin.get(WEIGHTS) or fingerprint_of(tensors, config)
    return SourceFacts(structure, num_layers, weights[:16])


def depth_of(source: str, revision: str | None = None) -> int | None:
    """Decoder layers as the config counts them, or None; of a hub model all but the weights is fetched."""
    source = os.fspath(source)
    path = Path(source).expanduser()
    if source.startswith(PREFIX):
        path = bundled_file(bundled_model(source))
    if path.is_dir():
        return counted_layers(read_config(path)) if (path / "config.json").is_file() else None
    if path.is_file():
        return read_gguf_head(path).num_layers
    if _looks_like_path(source):
        return None
    from huggingface_hub import try_to_load_from_cache

    with refusals_of_hub(source, revision):
        cached = try_to_load_from_cache(source, "config.json", revision=revision)
    if isinstance(cached, str):
        return counted_layers(read_config(Path(cached).parent))
    return counted_layers(read_config(download_model(source, revision=revision, with_weights=False)))


def _looks_like_path(source: str) -> bool:
    """True if a name that exists nowhere on disk was meant as a path and not as a hub id."""
    return source.lower().endswith((".gguf", ".safetensors", ".bin", ".json")) or not _HUB_ID.match(source)


def download_model(repo: str, *, revision: str | None = None, with_weights: bool = True) -> Path:
    """The snapshot folder of a hub model, named by its commit, from the hub or from its cache; never code."""
    from huggingface_hub import HfApi

    api = HfApi()
    wanted = [*_WANTED, *(("*.safetensors",) if with_weights else ())]
    with refusals_of_hub(repo, revision):
        online = _look_up(api, repo, revision)
        path = api.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=wanted,
            ignore_patterns=list(_UNWANTED),
            etag_timeout=_TIMEOUT,
            local_files_only=not online,
        )
    return Path(path)


@contextmanager
def refusals_of_hub(repo: str, revision: str | None) -> Iterator[None]:
    """Turn a refusal of the hub inside the block into one line for the user."""
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    nowhere = (
        f"{repo} is neither a local folder or file nor a model on the Hugging Face hub. Check the spelling; "
        "if it is a private model, log in with `hf auth login`."
    )
    reasons: dict[type[Exception], str] = {  # the first class that fits counts
        errors.GatedRepoError: f"{repo} is gated: accept its terms at https://huggingface.co/{repo}, then log in with "
        "`hf auth login`.",
        errors.RevisionNotFoundError: f"{repo} has no revision {revision!r}; give a branch, a tag or a commit of it.",
        errors.RepositoryNotFoundError: nowhere,
        errors.HFValidationError: nowhere,
        errors.LocalEntryNotFoundError: f"{repo}{at} is not a local folder or file, and the Hugging Face hub is out of "
        "reach (no network, or offline mode). Give the path of a local model folder or .gguf file, or "
        "bundled:smollm2-135m.",
    }
    known: tuple[type[Exception], ...] = (errors.HfHubHTTPError, *reasons)
    try:
        yield
    except known as error:
        served = f"the Hugging Face hub does not serve {repo}{at}: {first_line(error).rstrip('. ')}. Try again later."
        raise InputError(next((text for kind, text in reasons.items() if isinstance(error, kind)), served)) from error


def _look_up(api: HfApi, repo: str, revision: str | None) -> bool:
    """Whether the hub answers, asked once before anything is fetched; refused if it has no safetensors."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = api.model_info(repo, revision=revision, timeout=_TIMEOUT)
    except (HfHubHTTPError, HFValidationError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status >= 500:  # the hub has a bad day; the cache may do
            return False
        raise
    except Exception:  # no route, refused, timed out, switched off: each HTTP library has its own classes for these
        return False
    names = [file.rfilename for file in info.siblings or ()]
    if names and not any(fnmatch(name, "*.safetensors") and "/" not in name for name in names):
        if pickled := sorted(name for name in names if name.endswith((".bin", ".pt", ".pth"))):
            raise CheckpointError(pickled_only(repo, pickled[0]))
        raise CheckpointError(
            f"{repo} has no safetensors weights on the Hugging Face hub; it holds {', '.join(sorted(names)[:3])}. "
            "Download a GGUF file (`hf download`) and give its path."
        )
    return True
