"""Quantised checkpoints: what names modules by their layer, in the config or a file beside it, follows the cut.

By names (``modules_to_not_convert``), wildcards (ModelOpt's ``exclude_modules``) or regular expressions
(compressed-tensors' ``targets``, GPTQ's ``dynamic``). The number behind the list of layers is replaced. An expression
that picks layers by another way than their number is refused, as it would pick others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.models.structure import Structure
from layercut.models.weights import read_object
from layercut.surgery.plan import CutPlan

FIELDS = ("compression_config", "quantization", "quantization_config")  # fields of config.json that name modules
FILES = ("hf_quant_config.json", "quant_config.json", "quantization_config.json", "quantize_config.json")
"""Files beside it: ModelOpt, AWQ, AutoRound, GPTQ."""
_PATTERN = re.compile(r"(?:re|[+-]):|.*[\\^$|?+()\[\]{}*]")
"""A regular expression (``re:`` of compressed-tensors and torchao; GPTQ's ``+:``, take it, and ``-:``, leave it out) or
a wildcard."""
_EVERY = r"\(?(?:\?:)?(?:\\d|\\w|\[0-9\]|\[\^\\?\.\]|\.)?[*+]"  # as an expression says any number
_ENDS = re.compile(r"\\?\.(?![*+?])|\$")  # behind a number, so that no longer number fits


class LayerNumbers:
    """New numbers of the layers that stay, in names of modules."""

    def __init__(self, plan: CutPlan, structure: Structure) -> None:
        self.num_layers, self._has_towers = plan.num_layers, bool(structure.section)  # towers may count layers too
        self._new_number = {old: new for new, old in enumerate(plan.kept)}
        self._stacks = {structure.layers, *(head.rstrip(".") for head in structure.stored)}
        self._last = "|".join(sorted({re.escape(path.rpartition(".")[2]) for path in self._stacks}))

    def follow(self, entry: str, where: str) -> str | None:
        """An entry with the new numbers; None where it names a removed layer. A name may lack its first parts."""
        is_removed, is_pattern = False, _PATTERN.match(entry) is not None

        def replace(match: re.Match[str]) -> str:
            nonlocal is_removed
            number, head = int(match[2]), entry[: match.start(2) - 1]
            # A name must be that of the decoder's list of layers, and not that of a vision tower.
            ends = [(f".{path}", f".{head}") for path in self._stacks]
            if not is_pattern and not any(path.endswith(other) or other.endswith(path) for path, other in ends):
                return match[0]
            others = (str(layer) for layer in range(self.num_layers) if layer != number)
            is_open = is_pattern and not _ENDS.match(entry, match.end())
            if is_pattern and (self._has_towers or (is_open and any(other.startswith(match[2]) for other in others))):
                raise self._unknown(entry, where)
            is_removed = is_removed or (number < self.num_layers and number not in self._new_number)
            behind = number - self.num_layers + len(self._new_number)
            return match[1] + str(self._new_number.get(number, behind))

        if is_pattern and re.search(rf"\b(?:{self._last})\\?\.(?!\d|{_EVERY})|[*+?)\]]\\?\.\d", entry):
            raise self._unknown(entry, where)
        pattern = rf"(\b(?:{self._last})\\?\.)(\d+)" if is_pattern else rf"((?:^|\.)(?:{self._last})\.)(\d+)(?=\.|$)"
        new = re.sub(pattern, replace, entry)
        return None if is_removed else new

    def _unknown(self, entry: str, where: str) -> InputError:
        return InputError(
            f"{where} has the entry {entry!r}, which picks layers by more than one number, so it cannot be written for "
            "the kept layers; name the modules one by one in its place."
        )


def is_quantized(config: Mapping[str, Any]) -> bool:
    """True if a config speaks of quantised weights."""
    parts = [part for part in (config, *config.values()) if isinstance(part, dict)]
    return any(part.get(field) for part in parts for field in FIELDS)


def follow_config(config: Mapping[str, Any], raw: Mapping[str, Any], numbers: LayerNumbers) -> dict[str, Any]:
    """The config of a pruned model with the fields that name modules; ``raw`` is the original's config.json."""
    return {
        name: value
        if not isinstance(value, dict) or not isinstance(raw.get(name), dict)
        else rename_modules(raw[name], numbers, name)
        if name in FIELDS
        else follow_config(value, raw[name], numbers)
        for name, value in config.items()
    }


def follow_files(source: Path, numbers: LayerNumbers) -> dict[str, str]:
    """Text of the files beside config.json that name modules, for the pruned model, by name."""
    texts = {}
    for name in FILES:
        if (source / name).is_file():
            followed = rename_modules(read_object(source / name), numbers, name)
            texts[name] = json.dumps(followed, indent=2, ensure_ascii=False) + "\n"
    return texts


def rename_modules(value: Any, numbers: LayerNumbers, where: str) -> Any:
    """One such field: strings in lists and keys of dictionaries name modules, wherever they stand."""
    if isinstance(value, str):
        return numbers.follow(value, where) or value
    if isinstance(value, list):
        if len(value) == numbers.num_layers and all(isinstance(item, int | float) for item in value):
            raise InputError(
                f"{where} has {len(value)} numbers, as many as decoder layers; take it out if it is not of these."
            )
        followed = (
            numbers.follow(item, where) if isinstance(item, str) else rename_modules(item, numbers, where)
            for item in value
        )
        return [item for item in followed if item is not None]
    if not isinstance(value, dict):
        return value
    new: dict[str, Any] = {}
    for key, item in value.items():
        followed_item = rename_modules(item, numbers, f"{where}.{key}")
        lost = isinstance(item, dict) and item.get("targets") and not followed_item.get("targets")
        if not lost and (name := numbers.follow(key, where)) is not None:
            new[name] = followed_item
    return new
