"""Write the healed model: a plain checkpoint with merged adapters, or a PEFT adapter for the pruned model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from layercut.healing.adapters import merge_adapters, quantization
from layercut.healing.rounding import Judge, judged_by, write_weights
from layercut.models.loading import load_model
from layercut.models.quiet import quiet_transformers
from layercut.models.sources import ModelSource, describe_source
from layercut.models.weights import read_header, safetensors_files
from layercut.runs.atomic import new_directory, write_json
from layercut.runs.healing import healing_lines
from layercut.surgery.card import UNMEASURED
from layercut.surgery.checkpoint import EARLIER_PLANS_FILE, PLAN_FILE, earlier_plans, files_to_copy, read_plans
from layercut.surgery.plan import CutPlan
from layercut.text.markup import escape, escaped, table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.healing.examples import Data

CURVE_FILE = "healing_loss.jsonl"
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def stored_dtype(folder: Path) -> str:
    """The dtype of most numbers of a checkpoint, as torch names it; float32 for any other kind."""
    sizes: Counter[str] = Counter()
    for file in set(safetensors_files(folder).values()):
        for entry in read_header(file).tensors.values():
            sizes[entry.dtype] += entry.num_parameters
    return _DTYPES.get(sizes.most_common(1)[0][0], "float32")


class TrainedModel(NamedTuple):
    """The result of training as a whole model."""

    model: PreTrainedModel
    """In float32."""
    checked: str
    """How the merge was verified, as text; empty if there was nothing to verify."""
    judge: Judge | None


def trained_model(cut: ModelSource, final: Path, method: str, device: str, data: Data | None = None) -> TrainedModel:
    """The trained weights as a whole model; VerificationError if the merged model is not the adapter model.

    ``cut`` is the model before training, ``final`` that of ``layercut.healing.sft.Trained``; ``data`` has the examples
    that measure what rounding costs.
    """
    base = _dequantised(cut) if method == "qlora" else load_model(cut, dtype="float32", device=device).model
    judge = None if data is None else judged_by(base, data)
    if method in ("lora", "qlora"):
        merged = merge_adapters(base, final)
        return TrainedModel(merged.model, merged.describe(), judge)
    from transformers import AutoModelForCausalLM

    del base
    with quiet_transformers():
        whole: Any = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32, device_map=device)
    return TrainedModel(whole.eval(), "", judge)


def write_healed(
    model: PreTrainedModel,
    cut: ModelSource,
    *,
    out: Path,
    healing: Mapping[str, Any],
    curve: Path | None = None,
    dtype: str = "auto",
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Write the healed model as the pruned one's folder with other weights, complete or not at all.

    Tokenizer, generation config and chat template are copied; ``plan.json`` keeps the cut's plan, and its ``healing``
    list gets an entry, which is returned. The folder is reloaded with plain transformers and compared before it takes
    its name.

    Args:
        model: in float32; afterwards it holds the written weights.
        cut: the model before healing.
        out: the new folder.
        healing: the entry for plan.json; its ``checked`` gets what is verified here.
        curve: the loss curve, to be copied.
        dtype: of the weights; auto is that of the pruned checkpoint, or float32 where rounding costs, see ``rounding``.
        judge: measures what rounding costs.

    Raises:
        InputError: ``out`` is not empty.
        VerificationError: the reloaded model is another one.
    """
    with new_directory(out) as folder:
        written = write_weights(model, folder, stored=stored_dtype(cut.path), dtype=dtype, judge=judge)
        _copy_files(cut.path, folder)
        shared = {**healing, "written": written.to_dict(judge)}
        return _describe(cut.path, folder, shared, written.describe(judge), curve)


def write_adapter(
    cut: ModelSource, final: Path, *, out: Path, healing: Mapping[str, Any], curve: Path | None = None
) -> dict[str, Any]:
    """Write the adapters alone, as a PEFT folder that names the pruned model as its base; see ``write_healed``."""
    with new_directory(out) as folder:
        for name in _ADAPTER_FILES:
            shutil.copyfile(final / name, folder / name)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": cut.name})
        _copy_files(cut.path, folder)
        return _describe(cut.path, folder, healing, f"an adapter for {cut.name}, not merged", curve)


def _copy_files(source: Path, folder: Path) -> None:
    for name in files_to_copy(source):
        if name != "README.md":
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    if (source / EARLIER_PLANS_FILE).is_file():
        shutil.copyfile(source / EARLIER_PLANS_FILE, folder / EARLIER_PLANS_FILE)


def _describe(
    source: Path, folder: Path, healing: Mapping[str, Any], checked: str, curve: Path | None
) -> dict[str, Any]:
    """Write plan.json, the loss curve and the card; returns the entry of plan.json."""
    entry = {**healing, "checked": [*healing.get("checked", ()), checked]}
    if curve is not None and curve.is_file():
        shutil.copyfile(curve, folder / CURVE_FILE)
        entry["loss_curve"] = CURVE_FILE
    plan = _plan_data(source)
    write_json(folder / PLAN_FILE, plan | {"healing": [*plan.get("healing", []), entry]})
    card = source / "README.md"
    cut_card = card.read_text("utf-8") if card.is_file() and earlier_plans(source) else ""  # the original's is another
    (folder / "README.md").write_text(healed_card(cut_card, entry), encoding="utf-8")
    return entry


def _plan_data(source: Path) -> dict[str, Any]:
    """The cut's plan.json with earlier healing entries; for a folder without one, the plan of an original model."""
    if (source / PLAN_FILE).is_file():
        return read_plans(source)[-1]
    metadata = describe_source(ModelSource(name=source.name, path=source))
    return CutPlan(num_layers=metadata.num_layers, model=source.name, model_hash=metadata.model_hash).to_dict()


def _dequantised(cut: ModelSource) -> PreTrainedModel:
    """The weights that a qlora adapter was trained on: rounded to 4 bits and back."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        packed: Any = AutoModelForCausalLM.from_pretrained(cut.path, quantization_config=quantization())
        model: PreTrainedModel = packed.dequantize().float()
    return model


_IN_LINES = {"guard", "held_out_loss", "looks", "loss_tokens", "num_examples", "seams", "checked", "written"}
"""What the card says in lines, and not in its table."""
UNTRAINED = "Nothing was trained after the cut."
"""A line in the card of a pruned model."""


def healed_card(cut_card: str, healing: Mapping[str, Any]) -> str:
    """README.md of a healed checkpoint.

    Args:
        cut_card: README.md of the pruned checkpoint, whose text stays; empty where there is none.
        healing: the entry of plan.json.
    """
    text = cut_card.replace(UNTRAINED, "Healed after the cut: see below.").rstrip()
    if not text:
        front = "---\nlibrary_name: transformers\ntags: [layercut, depth-pruning]\n---"
        text = f"{front}\n\n# Healed model\n\n{UNMEASURED}"
    rows = [
        (name.replace("_", " "), _shown(value))
        for name, value in healing.items()
        if value not in (None, [], {}) and name not in _IN_LINES
    ]
    lines = [*(f"- {escaped(line)}" for line in healing_lines(healing)), ""]
    lines += table(["", ""], ((escape(name), escape(value)) for name, value in rows))
    return "\n".join([text, "", "## Healing", "", *lines, ""])


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "ids" in value:  # of items: their number
        return _shown(value["num_items"])
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items() if part not in (None, [], ()))
    if isinstance(value, list | tuple):
        return "; ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
