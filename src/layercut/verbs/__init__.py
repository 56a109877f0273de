"""Verbs: one class each, with its fields, checks, what it does and how it is shown; flags, YAML and Python build it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layercut.verbs.base import Verb

VERBS = {
    "prune": ("prune:PruneVerb", "Make MODEL smaller for a use, and write the smallest that is shown to keep it."),
    "select": ("select:SelectVerb", "Choose the layers of MODEL that go, and write plan.json."),
    "cut": ("cut:CutVerb", "Write MODEL without some of its decoder layers, as a Hugging Face folder or a GGUF file."),
    "eval": ("measure:EvalVerb", "Score MODEL on tasks, whole or without some layers."),
    "generate": ("heal:GenerateVerb", "Let MODEL answer prompts, whole or without some layers."),
    "heal": ("heal:HealVerb", "Train MODEL, a pruned checkpoint, on the original model's answers."),
    "draft": ("prune:DraftVerb", "Find a pruned MODEL that drafts for MODEL and makes it write faster."),
    "quantise": (
        "quantise:QuantiseVerb",
        "Write MODEL as a GGUF file of a given size, with more bits where your task needs them.",
    ),
    "run": ("run:RunVerb", "Run a study: plans, criteria, healing, tasks and seeds."),
    "sweep": ("measure:SweepVerb", "Skip each layer of MODEL alone and measure what tasks keep."),
    "diagnose": ("measure:DiagnoseVerb", "Find out what exactly broke in each CUT of MODEL, item by item."),
    "plan-size": ("results:PlanSizeVerb", "Say how many items are needed to see a loss."),
    "compare": ("results:CompareVerb", "Compare two runs item by item: is one better, or as good within a margin?"),
    "report": ("results:ReportVerb", "Write the reports of a run again: HTML and Markdown."),
    "push": ("results:PushVerb", "Push a checkpoint to the Hugging Face hub, with its evidence."),
    "ls": ("results:LsVerb", "List runs with their state, and what killed writes left; or the models in the cache."),
    "env": ("results:EnvVerb", "Print versions, machine and devices, for a bug report."),
}
"""By name, in the order of ``--help``: the class, which is imported on first use, and its summary."""


def verb_class(name: str) -> type[Verb]:
    """The class of a verb."""
    module, _, kind = VERBS[name][0].partition(":")
    verb: type[Verb] = getattr(importlib.import_module(f"layercut.verbs.{module}"), kind)
    return verb
