"""The metadata of a GGUF file for the layers that stay; a plan that no file can express is refused.

llama.cpp derives more from a layer's position than transformers does: its kind from a period that the file need not
name, a scale from the number of layers. ``ARCHITECTURES`` records that, from its ``load_hparams`` and ``load_tensors``.
"""

# Words: a block is a decoder layer, or one of the layers for multi-token prediction (NextN, MTP) behind them.

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from layercut.errors import CheckpointError, InputError
from layercut.models.gguf_file import GgufHead
from layercut.surgery.plan import CutPlan

WINDOW, WINDOWS = "attention.sliding_window", "attention.sliding_window_pattern"
INTERVAL, RECURRENT = "full_attention_interval", "attention.recurrent_layers"
PERIODS = (WINDOWS, INTERVAL, "interleave_moe_layer_step", "rescale_every_n_layers", "moe_every_n_layers")
"""Keys whose number is a period: every N-th layer is of another kind."""
NOT_PER_LAYER = frozenset({"rope.dimension_sections", "classifier.output_labels"})
"""Arrays that have nothing to do with layers, should their length happen to be the number of layers."""
_WHOLE = {
    "attention.shared_kv_layers": "makes the last layers use the keys and values of others",
    "embedding_length_per_layer_input": "says that tensors hold values for every layer",
}
"""Keys of models that are not cut in place, and why."""
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_ELSEWHERE = "cut the model's Hugging Face folder, and run the result in transformers"


class Architecture(NamedTuple):
    """The rule by which llama.cpp tells the layers of one architecture apart."""

    periods: Mapping[str, int] = {}  # periods that hold where the file does not name them
    needs_window: bool = False  # the window's period counts only in files that name a window
    depths: frozenset[int] = frozenset()  # numbers of layers at which llama.cpp computes something else
    mixed: bool = False  # it tells the kinds of layers apart by the tensors that they have


_ALIKE = Architecture()
ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(
        (
            "apertus", "arcee", "arctic", "bailingmoe", "bailingmoe2", "bitnet", "bloom", "chameleon", "chatglm",
            "codeshell", "dbrx", "deepseek", "dots1", "dream", "ernie4_5", "ernie4_5-moe", "exaone", "falcon",
            "falcon-h1", "gemma", "gemma4", "glm4", "glm4moe", "gpt2", "gptneox", "granite", "granitemoe", "grok",
            "grovemoe", "hunyuan-dense", "hunyuan-moe", "internlm2", "jais", "lfm2", "lfm2moe", "llada", "llada-moe",
            "llama", "mamba", "mamba2", "minimax-m2", "mistral3", "mpt", "nemotron", "olmo", "olmoe", "openelm",
            "orion", "phi2", "phi3", "phimoe", "plamo", "plm", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3",
            "qwen3moe", "qwen3vl", "qwen3vlmoe", "refact", "rwkv6", "rwkv6qwen2", "seed_oss", "stablelm", "starcoder",
            "starcoder2", "xverse",
        ),
        _ALIKE,
    ),
    **dict.fromkeys(
        ("deci", "granitehybrid", "jamba", "nemotron_h", "nemotron_h_moe", "plamo2"), Architecture(mixed=True)
    ),
    **dict.fromkeys(("qwen3next", "qwen35", "qwen35moe"), Architecture(periods={INTERVAL: 4})),
    "cohere2": Architecture(periods={WINDOWS: 4}),
    "deepseek2": Architecture(depths=frozenset({26, 27, 47, 48})),
    "exaone4": Architecture(periods={WINDOWS: 4}, needs_window=True, depths=frozenset({64})),
    "gemma2": Architecture(periods={WINDOWS: 2}, depths=frozenset({46})),
    "gemma3": Architecture(periods={WINDOWS: 6}, depths=frozenset({62})),
    "gpt-oss": Architecture(periods={WINDOWS: 2}),
    "llama4": Architecture(periods={WINDOWS: 4}),
    "olmo2": Architecture(periods={WINDOWS: 4}, needs_window=True),
    "smollm3": Architecture(periods={"no_rope_layer_step": 4}),
}  # fmt: skip


def block_tensor(name: str) -> tuple[int, str] | None:
    """Number of the block that a tensor belongs to, and the rest of its name; None for all other tensors.

    >>> block_tensor("blk.3.attn_q.weight")
    (3, 'attn_q.weight')
    """
    match = _BLOCK.fullmatch(name)
    return None if match is None else (int(match[1]), match[2])


def renumber_blocks(head: GgufHead, plan: CutPlan) -> dict[int, int]:
    """New number of each block that stays: the kept layers, then those for multi-token prediction."""
    assert head.num_blocks is not None
    stay = [*plan.kept, *range(plan.num_layers, head.num_blocks)]
    return {old: new for new, old in enumerate(stay)}


def cut_metadata(head: GgufHead, plan: CutPlan) -> dict[str, Any]:
    """The keys whose values change, with the new values: numbers, or tuples for arrays."""
    name = head.architecture
    # The file must count the layers of the plan, and hold what it counts.
    if head.num_layers != plan.num_layers:
        raise plan.unfit(f"but this file says {name}.block_count = {head.num_blocks}")
    assert head.num_blocks is not None
    held = {block[0] for tensor in head.tensors if (block := block_tensor(tensor.name))}
    if missing := set(range(plan.num_layers)) - held:
        raise CheckpointError(
            f"the file has no tensor of blk.{min(missing)}; its {name}.block_count is {head.num_blocks}."
        )
    if max(held) >= head.num_blocks:
        raise CheckpointError(f"the file holds blk.{max(held)}, but its {name}.block_count is {head.num_blocks}.")
    if not plan.removed:
        return {}
    if (arch := ARCHITECTURES.get(name)) is None:
        raise InputError(f"layercut does not know the layers of the GGUF architecture {name!r}; {_ELSEWHERE}.")
    of = {key.removeprefix(f"{name}."): value for key, value in head.metadata.items()}
    lists = {
        key.removeprefix(f"{name}."): value
        for key, value in head.arrays.items()
        if key.startswith((f"{name}.", "xielu."))
    }
    _check_depth(name, arch, of, plan)
    _check_periods(name, arch, of, lists, plan)
    _check_alike(name, arch, of, lists, head, plan)
    stay = renumber_blocks(head, plan)
    new: dict[str, Any] = {f"{name}.block_count": len(stay)}
    if (dense := f"{name}.leading_dense_block_count") in head.metadata:
        new[dense] = sum(old < head.metadata[dense] for old in plan.kept)
    for key, values in lists.items():
        if len(values) in (head.num_blocks, plan.num_layers) and key not in NOT_PER_LAYER:
            full_key = key if key in head.arrays else f"{name}.{key}"
            new[full_key] = tuple(values[old] for old in stay if old < len(values))
    return {key: value for key, value in new.items() if head.metadata.get(key, head.arrays.get(key)) != value}


def _refuse(key: str, why: str, instead: str) -> NoReturn:
    raise InputError(f"{key} {why}; {instead}, or {_ELSEWHERE}.")


def _check_depth(name: str, arch: Architecture, of: Mapping[str, Any], plan: CutPlan) -> None:
    """Raise where llama.cpp computes the kept layers otherwise in a model of fewer layers."""
    before, after = plan.num_layers, len(plan.kept)
    if special := {before, after} & arch.depths:
        raise InputError(
            f"{name}.block_count would go from {before} to {after}, and llama.cpp computes {name} otherwise in models "
            f"of {max(special)} layers, without a key for that; {_ELSEWHERE}."
        )
    for key, why in _WHOLE.items():
        if of.get(key):
            _refuse(f"{name}.{key} = {of[key]}", why, "keep all layers")
    if (deep := of.get("n_deepstack_layers", 0)) and plan.kept[:deep] != tuple(range(deep)):
        _refuse(f"{name}.n_deepstack_layers", f"= {deep}: images enter at the first {deep} layers", "keep these")


def _check_periods(
    name: str, arch: Architecture, of: Mapping[str, Any], lists: Mapping[str, Any], plan: CutPlan
) -> None:
    """Raise where a kept layer would take the place of one of another kind."""
    for key in dict.fromkeys((*PERIODS, *arch.periods)):
        if key == INTERVAL and RECURRENT in lists:
            continue
        if key == WINDOWS and (of.get(WINDOW) == 0 or (arch.needs_window and not of.get(WINDOW))):
            continue
        if key in lists and len(lists[key]) < plan.num_layers:
            _refuse(f"{name}.{key}", f"has {len(lists[key])} entries for {plan.num_layers} layers", "mend the file")
        # Where llama.cpp has a period of its own it reads a number here and no list; elsewhere the list is cut.
        period = of.get(key, arch.periods.get(key))
        if not isinstance(period, int) or isinstance(period, bool) or period <= 1:
            continue
        last = period - 1
        moved = next(
            (old for new, old in enumerate(plan.kept) if (old % period == last) != (new % period == last)), None
        )
        if moved is not None:
            said = "" if key in of else " (llama.cpp's own where the file names none)"
            _refuse(
                f"{name}.{key} = {period}{said}",
                f"sets the kind of a layer by its position, and layer {moved} would become layer "
                f"{plan.kept.index(moved)} of another kind",
                f"remove layers from the end, or whole periods of {period} layers",
            )


def _check_alike(
    name: str, arch: Architecture, of: Mapping[str, Any], lists: Mapping[str, Any], head: GgufHead, plan: CutPlan
) -> None:
    """Raise where layers have different tensors, and nothing that is known tells them apart."""
    known = (INTERVAL, "leading_dense_block_count", "interleave_moe_layer_step")
    if arch.mixed or any(of.get(key) for key in known) or lists.keys() - NOT_PER_LAYER or arch.periods:
        return
    kinds: list[set[str]] = [set() for _ in range(plan.num_layers)]
    for tensor in head.tensors:
        if (block := block_tensor(tensor.name)) and block[0] < plan.num_layers:
            kinds[block[0]].add(block[1])
    other = next((layer for layer, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        what = min(kinds[other] ^ kinds[0])
        raise InputError(
            f"blk.{other} and blk.0 differ in {what}, and no key of this {name} file tells them apart; {_ELSEWHERE}."
        )
