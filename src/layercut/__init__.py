"""layercut finds the smallest or fastest version of your model that is shown to do your task: fewer layers, MLP
channels, tokens or bits.

    result = layercut.prune(model, tokenizer, use="math", keep=0.9)     # a loaded model, or its name
    smaller = layercut.remove_layers(model, "24-26")                    # in place

The public names are resolved on first use, so that ``import layercut`` and ``layercut --help`` do not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.3.0"

_PUBLIC = {
    # a model in memory
    "load_model": "layercut.models.loading",
    "CutPlan": "layercut.surgery.plan",
    "bypass": "layercut.surgery.remove",
    "remove_layers": "layercut.surgery.remove",
    "PlainEngine": "layercut.engine.plain",
    "SharedEngine": "layercut.engine.shared",
    "load_task": "layercut.tasks",
    "evaluate": "layercut.api",
    "evaluate_task": "layercut.api",
    "compare_paired": "layercut.evidence.paired",
    # steps that are kept in run folders
    "prune": "layercut.api",
    "draft": "layercut.api",
    "quantise": "layercut.api",
    "draft_view": "layercut.drafting.assisted",
    "ModelSettings": "layercut.settings",
    "select_layers": "layercut.api",
    "cut": "layercut.api",
    "cut_checkpoint": "layercut.surgery.checkpoint",
    "diagnose": "layercut.api",
    "heal": "layercut.api",
    "generate": "layercut.api",
    "sweep": "layercut.api",
    "run_study": "layercut.api",
    "compare": "layercut.api",
    "push": "layercut.api",
    "write_reports": "layercut.report.reports",
    # what they take and return
    "CalibrationSettings": "layercut.settings",
    "DecodingSettings": "layercut.settings",
    "TaskSettings": "layercut.settings",
    "StudySettings": "layercut.study.settings",
    "InputError": "layercut.errors",
    "LoadedModel": "layercut.models.loading",
    "TaskResult": "layercut.tasks.evaluate",
    "Comparison": "layercut.evidence.paired",
    "Pruned": "layercut.pruning.job",
    "DraftDone": "layercut.drafting.job",
    "Quantised": "layercut.quantising.job",
    "Swept": "layercut.selection.sweep",
    "Evaluated": "layercut.tasks.cells",
    "AnswerRecord": "layercut.healing.prompts",
    "Diagnosed": "layercut.diagnostics.diagnose",
    "StudyOutcome": "layercut.study.job",
    "ComparisonRow": "layercut.evidence.comparison",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'layercut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
