"""Cut a checkpoint with verification and a model card: write it, reload it, compare it, and only then name it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml

from layercut import __version__
from layercut.errors import CheckpointError, InputError
from layercut.models.loading import LoadedModel
from layercut.models.sources import ModelSource, with_weights
from layercut.models.weights import read_config
from layercut.runs.environment import hide_home
from layercut.surgery.checkpoint import CutReport, cut_checkpoint, plan_cut
from layercut.surgery.config_fields import is_quantized
from layercut.surgery.plan import CutPlan, list_removed, origin_of_plan
from layercut.text import PURPOSE, count_of, escape_inline, format_layers, markdown_table, parameters_text

UNMEASURED = "**Not measured.** This card says what was removed, not what the model can still do: `layercut eval` does."
"""The first line of a card, until scores of this very checkpoint are known."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS_ROW = re.compile(r"^\| weights \| .*$", re.MULTILINE)
_CARD = """\
---
{front}---

# {title}

{unmeasured}

{sentence} Nothing was trained after the cut.

{rows}

Layer numbers are zero-based and refer to the {whole}. `plan.json` holds the same data for programs.

## Loading

This is an ordinary transformers checkpoint; layercut is not needed.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## What was verified

{verified}

{warnings}## Limits

Removing layers damages abilities unevenly. A pruned model often still picks the right option where it can no longer \
write the same answer. Arithmetic and long chains of steps fail first. Measure the tasks you need, for example with \
`layercut eval`.
"""


def cut_model(
    source: ModelSource,
    plan: CutPlan,
    out: Path | None,
    *,
    uncut: Callable[[], LoadedModel] | None,
    say: Callable[[str], None] = lambda text: None,
) -> CutReport:
    """Write the pruned checkpoint, named after its comparison with ``uncut`` (None: none); ``out`` None: a dry run."""
    if plan.is_uncut:
        raise InputError("the plan removes nothing, so there is nothing to cut.")
    if out is None:
        return plan_cut(source.path, plan)
    source = with_weights(source)
    loaded: LoadedModel | None = None
    verified = ""
    if uncut is not None and is_quantized(read_config(source.path)):
        try:  # before a byte is written: many formats need a library or an accelerator to run
            loaded = uncut()
        except CheckpointError as error:
            raise CheckpointError(
                f"{str(error).rstrip('.')}. Its layers can be cut without running it: `verify=false` writes the "
                "checkpoint and checks names, shapes, dtypes and the index, but no logits."
            ) from error

    def check(folder: Path, expected: CutReport) -> None:
        nonlocal verified
        verified = f"{expected.checked}; no logits were compared"
        if uncut is not None:
            from layercut.surgery.verify import verify_checkpoint

            say("reloading the checkpoint and comparing it with the bypassed model ...")
            verified = verify_checkpoint(loaded or uncut(), plan, folder).describe()
        card = model_card(replace(expected, verified=verified), source, weights_size(folder))
        (folder / "README.md").write_text(card, encoding="utf-8")

    return replace(cut_checkpoint(source.path, plan, out, check=check), verified=verified)


def weights_size(folder: Path) -> str:
    """Bytes of the weight files in a model folder, headers included, in words."""
    return f"{sum(file.stat().st_size for file in folder.glob('model*.safetensors')):,} bytes, safetensors"


def with_weights_of(card: str, folder: Path) -> str:
    """The card of a pruned model with the bytes of the weight files in ``folder``."""
    return _WEIGHTS_ROW.sub(f"| weights | {weights_size(folder)} |", card)


def model_card(report: CutReport, source: ModelSource, size: str) -> str:
    """README.md of a pruned checkpoint for the hub; the home folder of a local path is hidden."""
    plan = report.plan
    channels, vocabulary = plan.channels, plan.vocabulary
    hub_id = source.origin.get("base_model") or (source.name if _HUB_ID.fullmatch(source.name) else None)
    kinds = {"depth-pruning": plan.removed, "width-pruning": channels, "vocabulary-trimming": vocabulary}
    front = {
        "base_model": hub_id,
        "license": source.origin.get("license"),
        "library_name": "transformers",
        "tags": ["layercut", *(tag for tag, lost in kinds.items() if lost)],
    }
    by = plan.settings.get("channels")
    thin = f"MLP channels by {by}" if channels and isinstance(by, str) and by != plan.criterion else ""
    plain = {key: value for key, value in plan.settings.items() if isinstance(value, (str, int, float))}
    listed = ", ".join(f"{key} {value}" for key, value in plain.items())
    chosen = f"{plan.criterion} ({listed})" if listed else plan.criterion
    if plan.criterion == "explicit":
        chosen = "hand (a list of layers)" if plan.removed else ""
    name = hub_id or hide_home(source.name)
    share = len(plan.removed) / plan.num_layers
    before, after = report.parameters_before, report.parameters_after
    whole = "model that was cut" if plan.earlier else "original model"
    facts = {
        whole: name + (f", commit {source.revision}" if source.revision else ""),
        f"weights of the {whole}": plan.model_hash or "not recorded",
        "origin": origin_of_plan(plan.to_dict()) or None,
        "decoder layers": f"{len(plan.kept)} of {plan.num_layers} ({share:.1%} removed)",
        "removed, in this order": ", ".join(map(str, plan.removed)) or "none",
        "kept": format_layers(plan.kept),
        "MLP channels removed": channels.describe() if channels else None,
        "tokens removed": vocabulary.describe() if vocabulary else None,
        "chosen by": "; ".join(filter(None, (chosen, thin))),
        "parameters": f"{parameters_text(after)}, before {parameters_text(before)} ({after / before - 1:+.1%})",
        "weights": size,
        "made with": f"layercut {__version__}, which {PURPOSE}",
    }
    amounts = [count_of(len(plan.removed), "decoder layer")] if plan.removed else []
    amounts += [f"{channels.share:.1%} of the MLP channels"] if channels else []
    amounts += [f"{vocabulary.share:.1%} of the tokens"] if vocabulary else []
    some = f"decoder {'layers' if len(plan.removed) > 1 else 'layer'} {format_layers(plan.removed)}"
    warnings = [*report.warnings, *([report.copy] if report.copy else [])]
    noted = "".join(f"- {warning}\n" for warning in warnings)
    return _CARD.format(
        front=yaml.safe_dump(
            {key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True
        ),
        title=f"{escape_inline(name.rstrip('/').rsplit('/', 1)[-1])}, {' and '.join(amounts)} removed",
        unmeasured=UNMEASURED,
        sentence=f"{escape_inline(name)} without {' and '.join(list_removed(plan, some))}.",
        rows="\n".join(
            markdown_table(["", ""], ((key, escape_inline(text)) for key, text in facts.items() if text is not None))
        ),
        whole=whole,
        verified=report.verified or "Nothing was verified after writing.",
        warnings=f"## Warnings\n\n{noted}\n" if noted else "",
    )
