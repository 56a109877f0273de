"""Verbs: one class each, with its fields, checks, what it does and how it is shown; flags, YAML and Python build it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layercut.verbs.base import Verb

VERBS = {
    "prune": (
        "prune:PruneVerb",
        "Make MODEL smaller for a use, and write the checkpoint of the smallest plan that is shown to keep it.",
    ),
    "select": (
        "select:SelectVerb",
        "Choose the layers of MODEL that go, and write plan.json, which cut, eval and run take.",
    ),
    "cut": (
        "cut:CutVerb",
        "Write MODEL without some of its decoder layers, as a plain Hugging Face checkpoint or a GGUF file.",
    ),
    "eval": ("evaluate:EvalVerb", "Score MODEL on tasks, whole or without the layers that --remove names."),
    "generate": ("generate:GenerateVerb", "Let MODEL answer prompts, whole or without the layers that --remove names."),
    "heal": (
        "heal:HealVerb",
        "Heal MODEL, a pruned checkpoint: the original model answers prompts, and MODEL is trained on the answers.",
    ),
    "draft": (
        "draft:DraftVerb",
        "Find a pruned MODEL that makes MODEL itself write faster, as a draft whose tokens it checks: nothing is lost.",
    ),
    "run": (
        "run:RunVerb",
        "Run a whole study: criteria, depths, healing arms, tasks, readouts and seeds, and report what was lost.",
    ),
    "sweep": ("sweep:SweepVerb", "Skip each layer of MODEL alone and measure what every task keeps."),
    "diagnose": (
        "diagnose:DiagnoseVerb",
        "Find out what exactly broke in each CUT of MODEL, item by item beside the original model.",
    ),
    "plan-size": (
        "results:PlanSizeVerb",
        "Say how many items are needed to see a loss, and to know the retention to a given width.",
    ),
    "advise": (
        "results:AdviseVerb",
        "Say how deep the model of a study can be cut for a use, by which plan, and at what cost.",
    ),
    "compare": (
        "results:CompareVerb",
        "Compare two runs item by item: which of two cut, healed or whole models is better, and is that shown?",
    ),
    "report": (
        "results:ReportVerb",
        "Write the reports of a run again from what its folder holds: report.html for a browser, and Markdown.",
    ),
    "push": ("results:PushVerb", "Push the checkpoint of FOLDER to the Hugging Face hub, with its evidence."),
    "ls": ("results:LsVerb", "List runs with their state, age and headline, and what killed writes left."),
    "env": ("results:EnvVerb", "Print versions, machine and devices, to paste into a bug report."),
}
"""By name, in the order of ``--help``: the class, which is imported on first use, and its summary."""


def verb_class(name: str) -> type[Verb]:
    """The class of a verb."""
    module, _, kind = VERBS[name][0].partition(":")
    verb: type[Verb] = getattr(importlib.import_module(f"layercut.verbs.{module}"), kind)
    return verb
