"""``layercut advise``: how deep a model can be cut for a use."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import say, show
from layercut.requests.results import AdviseRequest


@options.command
def advise(request: AdviseRequest, json: options.Json = False) -> None:
    """Decide, write advice.md and show it."""
    from layercut.evidence.uses import named_use

    named_use(request.use)

    from layercut.report.advice_text import FILE, write_advice
    from layercut.report.runs import advice_on_terminal

    found, _ = write_advice(
        request.folder, use=request.use, keep=request.keep, confidence=request.confidence, seed=request.seed
    )
    show(found.to_dict(), [advice_on_terminal(found)], json=json)
    if not json:
        say(f"advice: {request.folder / FILE}")
