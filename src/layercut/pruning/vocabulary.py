"""Tokens that go before layers and channels: which stay, the bytes that this saves, and the model without them.

The plans of a run are then plans of that model, while the original answers in its own tokens. So what the tokens cost
is measured with the rest, also where an item needs one that is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.sources import resolve_source
from layercut.pruning.settings import ASCII
from layercut.runs.disk import size_text
from layercut.runs.prune import GGUF
from layercut.selection.answers import ObjectiveTask
from layercut.selection.vocabulary import choose_vocabulary
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.gguf import cut_gguf_file, gguf_file
from layercut.surgery.plan import CutPlan

TRIMMED = "without-tokens"  # run folder of the model without them, inside the folder of prune
TRIMMED_FILES = "without-tokens-files"  # the folder of its files
UNUSED = "unused tokens"  # a note: their bytes, in words
_LEAST = 0.01  # share of the bytes from which on unused tokens are worth a line


def plan_tokens(model: ModelHandle, parts: Sequence[ObjectiveTask], tokens: str) -> CutPlan:
    """The plan that keeps the tokens which ``tokens`` names and those of the goal's selection items.

    Raises:
        InputError: tokens that are none, or a vocabulary that cannot be trimmed.
    """
    samples = [sample for part in parts for sample in part.task.samples("selection", part.limit)]
    texts = [text for sample in samples for text in (sample.question, sample.gold, *sample.options)]
    return replace(model.plan(), vocabulary=choose_vocabulary(model.source.path, tokens, texts))


def describe_unused_tokens(model: ModelHandle, parts: Sequence[ObjectiveTask]) -> str:
    """The bytes of tokens that are neither ASCII nor in the goal's items, in a sentence; empty where they are few."""
    with suppress(InputError):
        plan = plan_tokens(model, parts, ASCII)
        report = plan_cut(model.source.path, plan)
        saved = report.bytes_before - report.bytes_after
        if saved >= _LEAST * report.bytes_before:
            size = f"{size_text(saved)} ({saved / report.bytes_before:.1%} of the weights)"
            return f"{describe_tokens(plan)} are neither ASCII nor in the goal's items: {size}"
    return ""


def trimmed_model(model: ModelHandle, plan: CutPlan, folder: Path) -> ModelHandle:
    """The model without the tokens, written into ``folder`` and compared with the original, where that is not done."""
    file = gguf_file(model.settings.model)
    out = folder / TRIMMED_FILES / ("model" if file is None else GGUF)
    if not out.exists():
        out.parent.mkdir(exist_ok=True)
        from layercut.surgery.cut import cut_model

        if file is None:
            cut_model(model.source, plan, out, uncut=lambda: model.loaded)
        else:
            cut_gguf_file(model.settings, lambda **_: plan, file, out, verify=True)
        model.release()
    source = replace(resolve_source(str(out)), name=model.source.name)
    return ModelHandle(model.settings.replace(model=str(out), revision=None), source=source)


def describe_tokens(plan: CutPlan) -> str:
    """``57,152 of 151,936 tokens (37.6 %)``."""
    assert plan.vocabulary is not None, "tokens go"
    return plan.vocabulary.describe()


def describe_trimmed(plan: CutPlan | None) -> str:
    """``original without 57,152 tokens``; ``original`` where all stay."""
    return "original" if plan is None else f"original without {describe_tokens(plan).partition(' of ')[0]} tokens"
