"""Every per-layer field of a config follows the layers that stay; fields are known by name, for all families.

Of a quantised checkpoint so does what names modules by their layer, in the config or a file beside it: by names
(``modules_to_not_convert``), wildcards (ModelOpt's ``exclude_modules``) or regular expressions (compressed-tensors'
``targets``, GPTQ's ``dynamic``). An expression that picks layers by another way than their number is refused.
"""

# Words: L decoder layers of the original model; "old" indices count in it, "new" ones in the pruned model.

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.models.structure import Structure
from layercut.models.weights import read_object
from layercut.surgery.plan import CutPlan
from layercut.text import format_layers

LISTS = frozenset({
    "activation_sparsity_pattern", "attention_layers", "attn_layers", "attn_type_list", "hybrid_layer_pattern",
    "indexer_types", "is_moe_layer", "kv_sharing_modes", "layer_rope_theta", "layer_types", "layers_block_type",
    "layers_num_experts", "mlp_layer_types", "no_rope_layers", "num_attention_heads_per_layer",
    "num_key_value_heads_per_layer", "swiglu_limits", "swiglu_limits_shared",
})  # fmt: skip
"""Fields with one entry per layer."""
MAYBE_LISTS = frozenset({
    "block_configs", "ffn_multipliers", "head_dim", "intermediate_size", "moe_intermediate_size", "moe_layer_freq",
    "moe_topk", "num_attention_heads", "num_experts", "num_key_value_heads", "num_kv_heads", "num_query_heads",
    "num_shared_expert", "rope_theta", "sliding_window", "sliding_window_pattern",
})  # fmt: skip
"""Fields that hold one value for all layers in some models and one per layer in others; lists of length L are cut."""
INDEX_LISTS = frozenset({
    "attn_layer_indices", "cross_attention_layers", "full_attn_idxs", "global_attention_layers", "hybrid_layer_ids",
    "local_layer_ids", "mlp_only_layers", "moe_layers", "ple_layer_ids", "rope_scaling_layers",
})  # fmt: skip
"""Fields that list layer indices."""
INDEX_KEYED = frozenset({"per_layer_config", "pruned_heads"})  # dictionaries whose keys are layer indices
FIRST_COUNTS = frozenset(
    {"dense_mlp_idx", "first_k_dense_replace", "max_window_layers", "moe_layer_start_index", "num_dense_layers"}
)
"""Thresholds: that many layers, counted from the first, are of one kind and the rest of another."""
LAST_COUNTS = frozenset({"num_kv_shared_layers"})  # the same, counted from the last layer
LAST_INDICES = frozenset({"moe_layer_end_index"})  # the last layer of a kind; -1 for the model's last
STRINGS = frozenset({"hybrid_override_pattern"})  # strings with one letter per layer
REPEATED = frozenset({"block_types", "_block_types"})  # lists that the family repeats until they cover all layers
PERIODS: Mapping[str, str | None] = {
    "attn_layer_period": None,
    "expert_layer_period": None,
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "interleave_moe_layer_step": "moe_layers",
    "layer_group_size": "layer_types",
    "moe_layer_freq": "mlp_layer_types",
    "moe_layer_interval": None,
    "no_rope_layer_interval": "no_rope_layers",
    "sliding_window_pattern": "layer_types",
    "window_pattern": "layer_types",
}
"""Fields that decide a layer's kind by its position modulo a period, and the list that can say the same layer by layer.
With None there is no such list, and a plan that moves a layer to another phase of the period is refused."""
NOT_PER_LAYER = re.compile(r"architectures|.*_token_ids?|bad_words_ids|keys_to_ignore.*|.*languages?|tags")
"""Lists that have nothing to do with layers, should their length happen to be L."""


def cut_config(
    config: Mapping[str, Any], plan: CutPlan, structure: Structure, *, resolved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The config of the pruned model; fields that have nothing to do with layers come back as they are.

    ``resolved`` is what transformers makes of ``config``: per-layer lists that it derives from the position
    (``layer_types`` of gemma2) are made explicit, because derived again they would give layers that stay another kind.
    Raises InputError: the plan is for another number of layers; a per-layer list of another length, or of unknown
    meaning; a rule on positions that no config can express.
    """
    full = {**config, **{k: v for k, v in (resolved or {}).items() if config.get(k) is None}}
    check_depth(full, plan, structure)
    if plan.is_uncut:
        return dict(config)
    if full.get("scale_attn_by_inverse_layer_idx") and min(plan.removed) < max(plan.kept):
        raise InputError(
            "config field scale_attn_by_inverse_layer_idx is on, so only layers at the end can be removed; layer "
            f"{max(plan.kept)} stays."
        )
    known = frozenset().union(*(names for names, _, _ in _RULES))
    for name, value in full.items():
        is_suspect = isinstance(value, list) and len(value) == plan.num_layers and not NOT_PER_LAYER.fullmatch(name)
        if is_suspect and name not in known:
            raise InputError(
                f"config field {name} has {len(value)} entries, as many as decoder layers; add it to config_fields.py."
            )
    cut = _write_out(dict(config), full, plan)
    for name, value in cut.items():  # each field, cut to the layers that stay and counted in new indices
        for names, kind, rule in _RULES:
            if name in names and isinstance(value, kind) and not isinstance(value, bool):
                cut[name] = rule(name, value, plan)
                break
    _check_sources(full, plan)
    if cut.get("num_blocks") == plan.num_layers:  # another name of the number of layers
        cut["num_blocks"] = len(plan.kept)
    if isinstance(full.get("scale_depth"), float):  # which a model divides by the square root of its depth
        cut["scale_depth"] = full["scale_depth"] * math.sqrt(len(plan.kept) / plan.num_layers)
    if structure.num_layers_field in full:  # some types count an entry of another list instead
        cut[structure.num_layers_field] = len(plan.kept)
    if cut.get("num_hidden_layers") == 2 * plan.num_layers and structure.num_layers_field != "num_hidden_layers":
        cut["num_hidden_layers"] = 2 * len(plan.kept)  # two attention blocks a layer
    return cut


def check_depth(config: Mapping[str, Any], plan: CutPlan, structure: Structure) -> None:
    """Raise InputError if the plan is for another number of decoder layers than the config counts."""
    counted = config.get(structure.num_layers_field, plan.num_layers)
    if isinstance(counted, bool) or counted != plan.num_layers:
        raise plan.unfit(f"but this config says {structure.num_layers_field} = {counted!r}")


def _write_out(config: dict[str, Any], full: Mapping[str, Any], plan: CutPlan) -> dict[str, Any]:
    """Step one: what is decided by position is said layer by layer, in old indices."""
    # What config.json leaves to the family's default, and would come out differently for the pruned model.
    for name, value in sorted(full.items()):
        is_list = name in LISTS | MAYBE_LISTS | INDEX_LISTS | REPEATED and isinstance(value, list) and value
        most = plan.num_layers - 1 if name in FIRST_COUNTS else math.inf if name in LAST_COUNTS else 0
        if config.get(name) is None and (is_list or (isinstance(value, int) and 0 < value <= most)):
            config[name] = value
    step = full.get("decoder_sparse_step")
    if isinstance(step, int) and step > 1 and "mlp_only_layers" in full:
        named = set(full["mlp_only_layers"] or ())
        config["mlp_only_layers"] = [i for i in range(plan.num_layers) if i in named or (i + 1) % step]
        config["decoder_sparse_step"] = 1
    elif isinstance(step, int):
        _require_phase("decoder_sparse_step", step, plan)
    for name, explicit in PERIODS.items():
        period = len(full[name]) if isinstance(full.get(name), str) else full.get(name)
        if not isinstance(period, int) or _keeps_phase(period, plan):
            continue
        if explicit is None or not isinstance(config.get(explicit), list):
            _require_phase(name, period, plan)
        config.pop(name, None)  # the list speaks now; the period would contradict it
    return config


def _keeps_phase(period: int, plan: CutPlan) -> bool:
    """True if every layer that stays keeps its position modulo the period: then any rule of that period still holds."""
    return period <= 1 or all(old % period == new % period for new, old in enumerate(plan.kept))


def _require_phase(name: str, period: int, plan: CutPlan) -> None:
    if not _keeps_phase(period, plan):
        raise InputError(
            f"config field {name} = {period} sets the kind of a layer by its position, and this family has no "
            f"per-layer list to override it; remove layers from the end only, or whole periods of {period} layers."
        )


def _check_sources(full: Mapping[str, Any], plan: CutPlan) -> None:
    """Raise InputError if a layer stays that uses what a removed one gives: keys and values, or what to attend to."""
    first = plan.num_layers - (full.get("num_kv_shared_layers") or 0)
    kinds = full.get("layer_types") or [""] * plan.num_layers
    source = {kinds[i]: i for i in range(first)}
    indexers = full.get("indexer_types")
    if not isinstance(indexers, list) or len(indexers) != plan.num_layers:
        indexers = [""] * plan.num_layers
    for index in plan.kept:
        if index >= first and source.get(kinds[index]) in plan.removed:
            raise InputError(
                f"layer {index} reuses the keys and values of layer {source[kinds[index]]}, which the plan removes; "
                f"keep that one, or remove all of {format_layers([i for i in plan.kept if i >= first])} too."
            )
        if indexers[index] != "shared":
            continue
        indexer = max((i for i in range(index) if indexers[i] == "full"), default=-1)
        if indexer in plan.removed:
            raise InputError(
                f"layer {index} attends to what the indexer of layer {indexer} chooses (indexer_types), and the "
                f"plan removes that one; keep layer {indexer}, or remove layer {index} too."
            )


def with_older_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with ``rope_theta``, and ``rope_scaling`` where positions are scaled, also in ``text_config``.

    transformers 5 writes the base of rotary positions into ``rope_parameters`` alone. mlx-lm 0.32 reads ``rope_theta``
    for most families, takes its own default where that is missing, and writes other text without a warning.

    >>> with_older_fields({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}})["rope_theta"]
    100000.0
    """
    full = dict(config)
    if isinstance(inner := full.get("text_config"), dict):
        full["text_config"] = with_older_fields(inner)
    rope = full.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return full  # none, or one for each kind of layer, which older fields cannot say
    full.setdefault("rope_theta", rope["rope_theta"])
    if rope.get("rope_type", "default") != "default":
        full.setdefault("rope_scaling", rope)
    return full


def _entries(name: str, value: list[Any], plan: CutPlan) -> list[Any]:
    if value and len(value) != plan.num_layers:
        raise InputError(
            f"config field {name} has {len(value)} entries for {plan.num_layers} decoder layers; mend config.json."
        )
    return [value[i] for i in plan.kept] if value else value


def _indices(name: str, value: list[int], plan: CutPlan) -> list[int]:
    return [plan.kept.index(i % plan.num_layers) for i in value if i % plan.num_layers in plan.kept]


def _index_keyed(name: str, value: dict[Any, Any], plan: CutPlan) -> dict[Any, Any]:
    return {type(key)(plan.kept.index(int(key))): item for key, item in value.items() if int(key) in plan.kept}


_RULES: tuple[tuple[frozenset[str], type, Callable[[str, Any, CutPlan], Any]], ...] = (
    (LISTS, list, _entries),
    (MAYBE_LISTS, list, lambda name, v, plan: _entries(name, v, plan) if len(v) == plan.num_layers else v),
    (INDEX_LISTS, list, _indices),
    (REPEATED, list, lambda name, value, plan: [value[i % len(value)] for i in plan.kept] if value else value),
    (STRINGS, str, lambda name, value, plan: "".join(_entries(name, list(value), plan))),
    (INDEX_KEYED, dict, _index_keyed),
    (FIRST_COUNTS, int, lambda name, v, plan: sum(i < v for i in plan.kept) + max(0, v - plan.num_layers)),
    (LAST_COUNTS, int, lambda name, value, plan: sum(i >= plan.num_layers - value for i in plan.kept)),
    (LAST_INDICES, int, lambda name, value, plan: value if value < 0 else sum(i <= value for i in plan.kept) - 1),
    # gpt_neo: ``[[kinds, times], ...]``, each group of kinds repeated that often.
    (
        frozenset({"attention_types"}),
        list,
        lambda name, value, plan: [[_entries(name, [k for kinds, times in value for k in kinds * times], plan), 1]],
    ),
)
"""Which fields, of which type, follow the layers that stay, and by which rule of name, value and plan."""


QUANTIZED_FIELDS = (
    "compression_config",
    "quantization",
    "quantization_config",
)  # fields of config.json that name modules
QUANTIZED_FILES = ("hf_quant_config.json", "quant_config.json", "quantization_config.json", "quantize_config.json")
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
    return any(part.get(field) for part in parts for field in QUANTIZED_FIELDS)


def follow_config(config: Mapping[str, Any], raw: Mapping[str, Any], numbers: LayerNumbers) -> dict[str, Any]:
    """The config of a pruned model with the fields that name modules; ``raw`` is the original's config.json."""
    return {
        name: value
        if not isinstance(value, dict) or not isinstance(raw.get(name), dict)
        else rename_modules(raw[name], numbers, name)
        if name in QUANTIZED_FIELDS
        else follow_config(value, raw[name], numbers)
        for name, value in config.items()
    }


def follow_files(source: Path, numbers: LayerNumbers) -> dict[str, Any]:
    """Content of the files beside config.json that name modules, for the pruned model, by name."""
    there = [name for name in QUANTIZED_FILES if (source / name).is_file()]
    return {name: rename_modules(read_object(source / name), numbers, name) for name in there}


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
