"""``advise``, ``compare``, ``report`` and ``plan-size``: what is asked of finished runs, or of no run at all."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from layercut.base_settings import Share
from layercut.requests.base import ASeed, Flag, Folder, Request

_RUN = Flag("RUN", argument=True)


class AdviseRequest(Request):
    """Say how deep the model of a study can be cut for a use, by which plan, and at what cost.

    Plans are tested by lower confidence bounds in order of depth, until one does not pass; where none passes, none
    is named. The answer comes with the checkpoint's folder or the next command. The page is kept as advice.md in the
    study's folder. Needs no model and no torch.

    Example: layercut advise runs/quickstart --use math --keep 0.9
    """

    VERB = "advise"

    folder: Annotated[Folder, _RUN] = Field(
        description="The folder of a finished study, or of runs of `eval`, the original model's called uncut."
    )
    use: str = Field(
        "all",
        description="What the model is for: all, classify (ranked), or math, code, summarize, chat, copy (written).",
    )
    keep: Share = Field(
        0.9, ge=0, le=1, description="Share of the score above chance that has to be kept on every task of the use."
    )
    confidence: Share = Field(0.95, ge=0, le=1, description="Probability that a recommended plan does keep it.")
    seed: ASeed = 0


class CompareRequest(Request):
    """Compare two runs item by item: which of two cut, healed or whole models is better, and is that shown?

    Two runs of layercut, or two logs of lm-eval (samples_*.jsonl or their folder), inspect_ai (.eval) or EvalPlus
    (*_eval_results.json), of any models. The items must be the same, and of runs the decoding. Of two models on this
    disk, the layers that the second lost are named.
    Below the scores stand what the written answers look like (loops, repetition, no end) and how programs fail.

    Example: layercut compare runs/quickstart/reverse-3 runs/quickstart/random-3
    """

    VERB = "compare"

    first: Annotated[Folder, _RUN] = Field(
        description="A run: of a study's plan, or of an eval; or a log of lm-eval, inspect_ai or EvalPlus."
    )
    second: Annotated[Folder, _RUN] = Field(description="Another one, of the same items.")
    page: Annotated[Folder | None, Flag("FILE")] = Field(
        None, description="Write a page for a browser, with both answers to every item."
    )
    seed: ASeed = 0


class ReportRequest(Request):
    """Write the reports of a run again from what its folder holds: report.html for a browser, and Markdown.

    The page is one file that needs no network. Needs no model and no torch. Of a healing, and of an eval without a
    comparison, there is Markdown alone; two evals are compared by layercut compare.

    Example: layercut report runs/quickstart --with runs/sweep --with runs/diagnose
    """

    VERB = "report"

    folder: Annotated[Folder, _RUN] = Field(description="Folder of a study, prune, sweep, diagnosis, heal or eval.")
    more: Annotated[tuple[Folder, ...], Flag("RUN", spelled="--with", repeated=True)] = Field(
        (), description="A sweep or diagnosis of the same model, shown on the same page. May be repeated."
    )
    texts: Annotated[bool, Flag(spelled="--texts/--no-texts")] = Field(
        True,
        description="Show questions and answers. Without them a report can be shared where its data set cannot.",
    )


class PlanSizeRequest(Request):
    """Say how many items are needed to see a loss, and to know the retention to a given width.

    Both models answer the same items. The test is McNemar's exact one; items that share a context count for less.

    Example: layercut plan-size --retention 0.9 --baseline 0.6
    """

    VERB = "plan-size"

    baseline: Share = Field(ge=0, le=1, description="Expected score of the original model, a share: 0.6.")
    retention: Share = Field(
        ge=0, le=2, description="Share of the score above chance that the pruned model is expected to keep."
    )
    chance: Share = Field(0.0, ge=0, le=1, description="Score of guessing.")
    power: Share = Field(0.8, ge=0, le=1, description="Probability of seeing a difference that is there.")
    alpha: Share = Field(0.05, ge=0, le=1, description="Level of the test; the interval has 1 - alpha.")
    half_width: Share = Field(0.1, ge=0, le=1, description="Half of the width of the retention's interval.")
    comparisons: int = Field(1, ge=1, description="How many comparisons are judged together, plans times tasks (Holm).")
    correlation: float | None = Field(
        None, description="Of the two models' right answers over items; 0.5 if left out, or the most that can be."
    )
    agreement: Share | None = Field(
        None, ge=0, le=1, description="Share of items on which both are right or both wrong, in its place."
    )
