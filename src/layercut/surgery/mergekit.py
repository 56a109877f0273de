"""mergekit's passthrough slices of one model, read as a plan and written from one.

mergekit's ranges are half-open: ``layer_range: [0, 24]`` is layers 0 to 23.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from layercut.errors import InputError
from layercut.runs.json_text import load_yaml
from layercut.surgery.plan import CutPlan

SUFFIXES = (".yaml", ".yml")
MARK = "# written by layercut cut\n"


def read_slices(file: Path) -> tuple[range, ...]:
    """The layers that stay, in the file's order; what only a merge can make is refused."""
    try:
        data = load_yaml(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a mergekit configuration ({error}).") from error
    config: dict[Any, Any] = data if isinstance(data, dict) else {}
    if config.get("merge_method") != "passthrough" or not isinstance(config.get("slices"), list):
        raise InputError(f"{file} is no mergekit configuration of the merge method passthrough with slices.")

    def refuse_more(part: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
        if more := ", ".join(sorted(str(key) for key in part if key not in known)):
            raise InputError(f"{file}: {more} of {where} changes more than layers; only layers can be removed here.")

    refuse_more(config, ("merge_method", "slices", "dtype", "out_dtype"), "the file")
    models, kept = set(), []
    for entry in config["slices"]:
        sources = entry.get("sources") if isinstance(entry, dict) else None
        source: Any = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
        ends = source.get("layer_range") if isinstance(source, dict) else None
        if not (isinstance(ends, list) and len(ends) == 2 and all(type(end) is int and end >= 0 for end in ends)):
            raise InputError(
                f"{file}: a slice needs one source with a layer_range of two numbers from 0, such as [0, 24]."
            )
        refuse_more(entry, ("sources",), "a slice")
        refuse_more(source, ("model", "layer_range"), "a source")
        model = source.get("model")
        if not isinstance(model, str) or "+" in model:
            raise InputError(f"{file}: the model of a slice must be one name without an adapter (+), not {model!r}.")
        models.add(model)
        kept.append(range(*ends))
    if len(models) > 1:
        raise InputError(f"{file} takes layers of {len(models)} models, {', '.join(sorted(models))}; give one of one.")
    if any(not part for part in kept) or any(late.start < early.stop for early, late in pairwise(kept)):
        raise InputError(f"{file} repeats layers, or names them out of order; a plan only removes layers.")
    return tuple(kept)


def removed_by_slices(kept: tuple[range, ...], num_layers: int, file: str) -> tuple[int, ...]:
    """The layers that no slice keeps. Raises InputError: a slice goes past the last layer."""
    if not kept or kept[-1].stop > num_layers:
        raise InputError(f"{file} keeps layers up to {kept[-1].stop - 1 if kept else 0}; this model has {num_layers}.")
    stays = {layer for part in kept for layer in part}
    return tuple(layer for layer in range(num_layers) if layer not in stays)


def to_mergekit(plan: CutPlan, model: str, dtype: str) -> str:
    """A plan as a configuration for ``mergekit-yaml``. Raises InputError: it removes MLP channels or tokens."""
    if plan.channels is not None or plan.vocabulary is not None:
        raise InputError("mergekit removes no MLP channels and no tokens; write such plans with layercut cut.")
    starts = [layer for layer in plan.kept if layer - 1 not in plan.kept]
    ends = [layer + 1 for layer in plan.kept if layer + 1 not in plan.kept]
    slices = [{"sources": [{"model": model, "layer_range": [*pair]}]} for pair in zip(starts, ends, strict=True)]
    text: str = yaml.safe_dump(
        {"slices": slices, "merge_method": "passthrough", "dtype": dtype}, sort_keys=False, default_flow_style=None
    )
    return MARK + text
