"""Requests: one a verb, with its fields and checks; flags, YAML and Python build it alike, and it runs itself."""

from __future__ import annotations

import importlib
from typing import Any

REQUESTS = {
    "prune": "prune:PruneRequest",
    "draft": "draft:DraftRequest",
    "select": "select:SelectRequest",
    "cut": "cut:CutRequest",
    "eval": "evaluate:EvalRequest",
    "generate": "generate:GenerateRequest",
    "heal": "heal:HealRequest",
    "run": "study:StudyRequest",
    "sweep": "sweep:SweepRequest",
    "diagnose": "diagnose:DiagnoseRequest",
    "plan-size": "results:PlanSizeRequest",
    "advise": "results:AdviseRequest",
    "compare": "results:CompareRequest",
    "report": "results:ReportRequest",
    "push": "push:PushRequest",
}
"""By verb; imported on first use."""


def request_of(verb: str) -> Any:
    """The class of a verb's request."""
    module, _, name = REQUESTS[verb].partition(":")
    return getattr(importlib.import_module(f"layercut.requests.{module}"), name)
