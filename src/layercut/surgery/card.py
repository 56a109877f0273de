"""The model card of a pruned checkpoint: what it is, how it was made, how to load it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from layercut.runs.environment import hide_home
from layercut.surgery.plan import HEAD_COPY, origin_of
from layercut.text.counting import counted
from layercut.text.markup import escape, table
from layercut.text.numbers import parameters
from layercut.text.removal import format_layers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from layercut.surgery.plan import CutPlan

UNMEASURED = "**Not measured.** This card says what was removed, not what the model can still do: `layercut eval` does."
"""The first line of a card, until scores of this very checkpoint are known."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


_WEIGHTS_ROW = re.compile(r"^\| weights \| .*$", re.MULTILINE)


def weights_size(folder: Path) -> str:
    """Bytes of the weight files in a model folder, headers included, in words."""
    return f"{sum(file.stat().st_size for file in folder.glob('model*.safetensors')):,} bytes, safetensors"


def with_weights_of(card: str, folder: Path) -> str:
    """The card of a pruned model with the bytes of the weight files in ``folder``."""
    return _WEIGHTS_ROW.sub(f"| weights | {weights_size(folder)} |", card)


def model_card(
    plan: CutPlan,
    *,
    source_name: str,
    num_parameters_before: int,
    num_parameters_after: int,
    size: str,
    warnings: Sequence[str] = (),
    layercut_version: str,
    revision: str | None = None,
    base_model: str | None = None,
    license_name: str | None = None,
    verified: str | None = None,
) -> str:
    """README.md of a pruned checkpoint, with the front matter that the Hugging Face hub reads.

    Args:
        plan: what was cut.
        source_name: the original model as it was given; a hub id or a local path, whose home folder is hidden.
        num_parameters_before: of the original model.
        num_parameters_after: of this one.
        size: of the weight files, see ``weights_size``.
        warnings: what the writer of the checkpoint noticed, one sentence each.
        layercut_version: that wrote it.
        revision: commit of the original model on the hub.
        base_model: hub id of the original model, where ``source_name`` is none.
        license_name: as the hub spells it, such as ``apache-2.0``; left out where unknown.
        verified: what was checked after writing and how it came out, one sentence; without it the card says that
            nothing was checked.
    """
    hub_id = base_model or (source_name if _HUB_ID.fullmatch(source_name) else None)
    front = {
        **({"base_model": hub_id} if hub_id else {}),
        **({"license": license_name} if license_name else {}),
        "library_name": "transformers",
        "tags": [
            "layercut",
            *(["depth-pruning"] if plan.removed or not (plan.channels or plan.tied) else []),
            *(["width-pruning"] if plan.channels else []),
        ],
    }
    name = hub_id or hide_home(source_name)
    share = len(plan.removed) / plan.num_layers
    change = num_parameters_after / num_parameters_before - 1
    whole = "model that was cut" if plan.earlier else "original model"
    facts = [
        (whole, name + (f", commit {revision}" if revision else "")),
        (f"weights of the {whole}", plan.model_hash or "not recorded"),
        *([("origin", origin_of(plan.to_dict()))] if plan.earlier or plan.chosen_on else []),
        ("decoder layers", f"{len(plan.kept)} of {plan.num_layers} ({share:.1%} removed)"),
        ("removed, in this order", ", ".join(map(str, plan.removed)) or "none"),
        ("kept", format_layers(plan.kept)),
        *([("MLP channels removed", plan.channels.describe())] if plan.channels else []),
        *([("output head", "the embeddings; its own copy was removed")] if plan.tied else []),
        ("chosen by", _criterion(plan)),
        (
            "parameters",
            f"{parameters(num_parameters_after)}, before {parameters(num_parameters_before)} ({change:+.1%})",
        ),
        ("weights", size),
        ("made with", f"layercut {layercut_version}"),
    ]
    title = "uncut" if plan.is_uncut else f"{_amount(plan)} removed"
    lines = ["---", *yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip("\n").split("\n"), "---", ""]
    lines += [f"# {escape(name.rstrip('/').rsplit('/', 1)[-1])}, {title}", "", UNMEASURED, ""]
    lines += [f"{_sentence(plan, name)} Nothing was trained after the cut.", ""]
    lines += [*table(["", ""], ((key, escape(value)) for key, value in facts)), ""]
    lines += [
        f"Layer numbers are zero-based and refer to the {whole}. `plan.json` holds the same data for programs.",
        "",
    ]
    lines += ["## Loading", "", "This is an ordinary transformers checkpoint; layercut is not needed.", ""]
    lines += [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
        "```",
        "",
    ]
    lines += ["## What was verified", "", verified or "Nothing was verified after writing.", ""]
    if warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    lines += [
        "## Limits",
        "",
        "Removing layers damages abilities unevenly. A pruned model often still picks the right option where it can no "
        "longer write the same answer. Arithmetic and long chains of steps fail first. Measure the tasks you need, for "
        "example with `layercut eval`.",
    ]
    return "\n".join(lines) + "\n"


def _sentence(plan: CutPlan, name: str) -> str:
    if plan.is_uncut:
        return f"{escape(name)}, written again without a cut."
    some = "layers" if len(plan.removed) > 1 else "layer"
    parts = [f"decoder {some} {format_layers(plan.removed)}"] if plan.removed else []
    parts += [plan.channels.describe()] if plan.channels else []
    parts += [HEAD_COPY] if plan.tied else []
    return f"{escape(name)} without {' and '.join(parts)}."


def _amount(plan: CutPlan) -> str:
    parts = [counted(len(plan.removed), "decoder layer")] if plan.removed else []
    parts += [f"{plan.channels.share:.1%} of the MLP channels"] if plan.channels else []
    return " and ".join([*parts, *(["a copy of the embeddings"] if plan.tied else [])])


def _criterion(plan: CutPlan) -> str:
    by = plan.settings.get("channels")
    thin = f"MLP channels by {by}" if plan.channels and isinstance(by, str) and by != plan.criterion else ""
    if plan.criterion == "explicit":
        return "; ".join(filter(None, ("hand (a list of layers)" if plan.removed else "", thin)))
    settings = ", ".join(
        f"{key} {value}" for key, value in plan.settings.items() if isinstance(value, (str, int, float))
    )
    return "; ".join(filter(None, (f"{plan.criterion} ({settings})" if settings else plan.criterion, thin)))
