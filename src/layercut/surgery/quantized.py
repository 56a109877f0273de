"""Quantised checkpoints: what names modules by their layer, in the config or a file beside it, follows the cut.

By names (``modules_to_not_convert``), wildcards (ModelOpt's ``exclude_modules``) or regular expressions
(compressed-tensors' ``targets``, GPTQ's ``dynamic``). An entry is right if it names the same modules of the files
as before. It stays if it is right unchanged; else its layer number is replaced; else it becomes the names themselves.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.models.weights import TensorSpan, read_object
from layercut.surgery.plan import CutPlan

FIELDS = ("compression_config", "quantization", "quantization_config")  # fields of config.json that name modules
FILES = ("hf_quant_config.json", "quant_config.json", "quantization_config.json", "quantize_config.json")
"""Files beside it: ModelOpt, AWQ, AutoRound, GPTQ."""
_SIGNS = ("re:", "+:", "-:")
"""Prefix of a regular expression: compressed-tensors, torchao; GPTQ's ``dynamic`` (take it, leave it out)."""
_META = re.compile(r"[\\^$|?+()\[\]{}*]")
_PLAIN_NAME = re.compile(r"[\w.]+")
_BOUNDARY = r"(?:(?<=\.)|(?=\.|$))"


class Modules:
    """The modules in the weight files of a checkpoint, and what becomes of them."""

    def __init__(self, before: Iterable[str], renamed: Mapping[str, str], plan: CutPlan) -> None:
        """``renamed`` gives the new name of each tensor of ``before`` that stays."""
        before = list(before)
        self._new_number = {old: new for new, old in enumerate(plan.kept)}
        self.num_layers = plan.num_layers
        self.renamed = {_module_of(name): _module_of(renamed[name]) for name in before if name in renamed}
        """Old to new name of each module that stays."""
        self.old, self.new = frozenset(map(_module_of, before)), frozenset(self.renamed.values())
        moved = [name for name in before if renamed.get(name) != name]
        self.stacks = frozenset(filter(None, map(_stack_of, moved)))
        """Names of the lists of decoder layers, such as ``model.layers``."""
        self._others = frozenset(filter(None, map(_stack_of, before))) - self.stacks

    def renumbered(self, text: str, *, is_name: bool) -> str | None:
        """A name, or a regular expression or wildcard, with its layer numbers replaced; None if one of them is removed.

        A name may lack parts at its beginning (``layers.3.mlp``), and need not be that of a module with weights.
        """
        stacks = "|".join(sorted({re.escape(path.rpartition(".")[2]) for path in self.stacks}))
        is_removed = False

        def replace(match: re.Match[str]) -> str:
            nonlocal is_removed
            number, head = int(match[2]), text[: match.start(2) - 1]
            # A name must be that of the decoder's list of layers, and not that of a vision tower.
            ends = [(f".{path}", f".{head}") for path in self.stacks]
            is_decoder = any(path.endswith(other) or other.endswith(path) for path, other in ends)
            if is_name and (head in self._others or not is_decoder):
                return match[0]
            is_removed = is_removed or (number < self.num_layers and number not in self._new_number)
            behind = number - self.num_layers + len(self._new_number) if is_name else number
            return match[1] + str(self._new_number.get(number, behind))

        pattern = rf"((?:^|\.)(?:{stacks})\.)(\d+)(?=\.|$)" if is_name else rf"(\b(?:{stacks})\\?\.)(\d+)(?!\d)"
        new = re.sub(pattern, replace, text) if stacks else text
        return None if is_removed else new


def modules_of_checkpoint(before: Iterable[TensorSpan], after: Iterable[TensorSpan], plan: CutPlan) -> Modules:
    """The modules of a checkpoint, from its tensors before and after the cut."""
    new = {(piece.file, piece.offset, piece.entry): piece.name for piece in after}
    keys = {piece.name: (piece.file, piece.offset, piece.entry) for piece in before}
    return Modules(keys, {name: new[key] for name, key in keys.items() if key in new}, plan)


def is_quantized(config: Mapping[str, Any]) -> bool:
    """True if a config speaks of quantised weights."""
    parts = [part for part in (config, *config.values()) if isinstance(part, dict)]
    return any(part.get(field) for part in parts for field in FIELDS)


def follow_config(config: Mapping[str, Any], raw: Mapping[str, Any], modules: Modules) -> dict[str, Any]:
    """The config of a pruned model with the fields that name modules, in nested sections too.

    ``raw`` is the original's config.json, and ``modules`` are of the original.
    Raises InputError: an entry that cannot be written for the pruned model; names the field.
    """
    return {
        name: value
        if not isinstance(value, dict) or not isinstance(raw.get(name), dict)
        else rename_modules(raw[name], modules, name)
        if name in FIELDS
        else follow_config(value, raw[name], modules)
        for name, value in config.items()
    }


def follow_files(source: Path, modules: Modules) -> dict[str, str]:
    """Text of the files beside config.json that name modules, for the pruned model, by name.
    Raises InputError: as ``follow_config``; CheckpointError: such a file holds no JSON.
    """
    texts = {}
    for name in FILES:
        if (source / name).is_file():
            followed = rename_modules(read_object(source / name), modules, name)
            texts[name] = json.dumps(followed, indent=2, ensure_ascii=False) + "\n"
    return texts


def rename_modules(value: Any, modules: Modules, where: str) -> Any:
    """One such field: strings in lists and keys of dictionaries name modules, wherever they stand."""
    if isinstance(value, str):
        return (modules.renumbered(value, is_name=True) or value) if _PLAIN_NAME.fullmatch(value) else value
    if isinstance(value, list):
        if len(value) == modules.num_layers and all(isinstance(item, int | float) for item in value):
            raise InputError(
                f"{where} has {len(value)} numbers, as many as the model has decoder layers, and whether they "
                "belong to the layers is not known; take the field out if they do not."
            )
        entries: list[Any] = []
        for item in value:
            entries += _names(item, modules, where) if isinstance(item, str) else [rename_modules(item, modules, where)]
        return list(dict.fromkeys(entries)) if all(isinstance(item, str) for item in entries) else entries
    if not isinstance(value, dict):
        return value
    new: dict[str, Any] = {}
    for key, item in value.items():
        followed = rename_modules(item, modules, f"{where}.{key}")
        lost = isinstance(item, dict) and item.get("targets") and not followed.get("targets")
        for name in [] if lost else _names(key, modules, where, is_key=True):
            new.setdefault(name, followed)
    return new


def _names(entry: str, modules: Modules, where: str, *, is_key: bool = False) -> list[str]:
    """The entry after the cut: nothing, itself with other numbers, or the names that it stood for."""
    sign = next((sign for sign in _SIGNS if entry.startswith(sign)), "")
    body = entry.removeprefix(sign)
    if not sign and not _META.search(body):
        kept = modules.renumbered(body, is_name=True)
        return [] if kept is None else [kept]
    try:
        matches = _matcher(body, sign)
        named = set(filter(matches, modules.old))
    except re.error as error:
        if not sign:
            return [entry]  # its reader cannot take it for an expression either
        raise InputError(
            f"{where} has the entry {entry!r}, which is no regular expression ({error}), so the layers that it names "
            "are not known; mend it."
        ) from error
    wanted = {modules.renamed[name] for name in named & modules.renamed.keys()}
    numbered = modules.renumbered(body, is_name=False)
    if not wanted and (named or numbered is None):
        return []  # all that it named is removed
    # What names no module of the weight files may name one that an engine fuses; the numbers are those of layers still.
    for candidate in (body, numbered) if named else (numbered,):
        if candidate is not None and set(filter(_matcher(candidate, sign), modules.new)) == wanted:
            return [sign + candidate]
    names = sorted(wanted)
    if sign in ("+:", "-:") or (is_key and not sign):
        return [f"{sign}^{re.escape(name)}$" for name in names]
    if all(_PLAIN_NAME.fullmatch(name) for name in names) and names:
        return names
    raise InputError(
        f"{where} has the entry {entry!r}, which depends on layer numbers and cannot be written for the kept layers; "
        "name the modules one by one in its place."
    )


def _matcher(body: str, sign: str) -> Callable[[str], bool]:
    """True if an entry names a module, as the readers of its format decide it.

    Regular expressions after a sign match from the beginning (compressed-tensors, GPTQ). A bare star is a wildcard
    (ModelOpt). Other expressions match up to the end of a part of the name (transformers).

    Raises re.error: no regular expression.
    """
    if not sign and not _META.search(body.replace("*", "")):
        return lambda name: fnmatch.fnmatchcase(name, body)
    regex = re.compile(body if sign else rf"(?:{body}){_BOUNDARY}")
    return lambda name: regex.match(name) is not None


def _module_of(tensor: str) -> str:
    """The module that a tensor belongs to.

    >>> _module_of("model.layers.3.mlp.up_proj.qweight"), _module_of("model.layers.3.mlp.up_proj.weight.absmax")
    ('model.layers.3.mlp.up_proj', 'model.layers.3.mlp.up_proj')
    """
    parts = tensor.split(".")
    if "weight" in parts[1:]:
        return ".".join(parts[: parts.index("weight", 1)])
    return ".".join(parts[:-1])


def _stack_of(tensor: str) -> str:
    """Prefix of the first number in a tensor's name; empty where there is none."""
    parts = tensor.split(".")
    first = next((at for at, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[:first])
