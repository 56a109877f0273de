"""A model from the Hugging Face hub, as an ordinary snapshot in its own cache.

Only safetensors, configuration, tokenizer and licence files are fetched; pickled weights never are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from layercut.errors import CheckpointError, InputError, first_line
from layercut.models.weights import pickled_only

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TIMEOUT = 10.0  # seconds until the hub counts as out of reach
_WEIGHTS = ("*.safetensors",)
_WANTED = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "USE_POLICY*", "README.md")
_UNWANTED = ("*/*", "consolidated*", "adapter_*", "*.fp16.*", "*.fp16-*", "training_args*", "trainer_state*")
"""Sub-folders (other formats), the same weights a second time, and what training left behind."""


def download(repo: str, *, revision: str | None = None, with_code: bool = False, with_weights: bool = True) -> Path:
    """The snapshot folder of a hub model, named by its commit, from the hub or from its cache; code only if asked for.

    Raises:
        InputError: no such model or revision, no access, or no network and nothing in the cache.
        CheckpointError: a repository without safetensors.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    wanted = [*_WANTED, *(_WEIGHTS if with_weights else ()), *(("*.py",) if with_code else ())]
    with refusals(repo, revision):
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
def refusals(repo: str, revision: str | None) -> Iterator[None]:
    """Turn a refusal of the hub inside the block into one line for the user.
    Raises InputError: no such model or revision, no access, or no network and nothing in the cache.
    """
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
    """True if the hub answers, and has safetensors under that name.

    One quick question before anything is fetched: an unreachable hub then costs seconds, not the library's patience,
    and a repository of pickled weights nothing at all.
    """
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
    if not names or any(fnmatch(name, "*.safetensors") and "/" not in name for name in names):
        return True
    if gguf := sorted(name for name in names if name.endswith(".gguf")):
        raise CheckpointError(
            f"{repo} has GGUF files only; download one (`hf download {repo} {gguf[0]}`) and give its path."
        )
    if pickled := sorted(name for name in names if name.endswith((".bin", ".pt", ".pth"))):
        raise CheckpointError(pickled_only(repo, pickled[0]))
    raise CheckpointError(f"{repo} has no safetensors weights on the Hugging Face hub.")
