"""``layercut advise``: how deep a model can be cut for a use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import say, show


def advise(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The folder of a finished study, or of runs of `eval`, the original model's called uncut.",
            metavar="RUN",
        ),
    ],
    use: Annotated[
        str,
        typer.Option(
            help="What the model is for: all, classify (ranked), or math, code, summarize, chat, copy (written)."
        ),
    ] = "all",
    keep: Annotated[
        float, options.a_share("Share of the score above chance that has to be kept on every task of the use.")
    ] = 0.9,
    confidence: Annotated[float, options.a_share("Probability that a recommended plan does keep it.")] = 0.95,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Say how deep the model of a study can be cut for a use, by which plan, and at what cost.

    Plans are tested by lower confidence bounds in order of depth, until one does not pass; where none passes, none
    is named. The answer comes with the checkpoint's folder or the next command. The page is kept as advice.md in the
    study's folder. Needs no model and no torch.

    Example: layercut advise runs/quickstart --use math --keep 0.9
    """
    from layercut.evidence.uses import named_use

    named_use(use)

    from layercut.report.advice_text import FILE, write_advice
    from layercut.report.tables import advice_on_terminal

    found, _ = write_advice(folder, use=use, keep=keep, confidence=confidence, seed=seed)
    show(found.to_dict(), [advice_on_terminal(found)], json=json)
    if not json:
        say(f"advice: {folder / FILE}")
