"""``layercut plan-size``: how many items a comparison needs."""

from __future__ import annotations

from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import show


def plan_size(
    baseline: Annotated[float, options.a_share("Expected score of the original model, a share: 0.6.")],
    retention: Annotated[
        float, options.a_share("Share of the score above chance that the pruned model is expected to keep.", most=2)
    ],
    chance: Annotated[float, options.a_share("Score of guessing.")] = 0.0,
    power: Annotated[float, options.a_share("Probability of seeing a difference that is there.")] = 0.8,
    alpha: Annotated[float, options.a_share("Level of the test; the interval has 1 - alpha.")] = 0.05,
    half_width: Annotated[float, options.a_share("Half of the width of the retention's interval.")] = 0.1,
    comparisons: Annotated[
        int, typer.Option(min=1, help="How many comparisons are judged together, plans times tasks (Holm).")
    ] = 1,
    correlation: Annotated[
        float | None,
        typer.Option(help="Of the two models' right answers over items; 0.5 if left out, or the most that can be."),
    ] = None,
    agreement: Annotated[
        float | None, options.a_share("Share of items on which both are right or both wrong, in its place.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Say how many items are needed to see a loss, and to know the retention to a given width.

    Both models answer the same items. The test is McNemar's exact one; items that share a context count for less.

    Example: layercut plan-size --retention 0.9 --baseline 0.6
    """
    from layercut.evidence.sample_size import expect, items_needed

    expected = expect(
        baseline=baseline, retention=retention, chance=chance, correlation=correlation, agreement=agreement
    )
    needed = items_needed(expected, power=power, alpha=alpha, half_width=half_width, comparisons=comparisons)
    outcomes = expected.outcomes
    data = {
        "baseline": baseline, "cut": expected.cut, "retention": retention, "chance": chance,
        "correlation": expected.correlation, "agreement": outcomes.both + outcomes.neither,
        "outcomes": outcomes._asdict(), "power": power, "alpha": alpha, "comparisons": comparisons,
        "half_width": half_width, "items": needed.to_dict(),
    }  # fmt: skip
    assumed = " (assumed)" if correlation is None and agreement is None else ""
    together = f", the strictest of {comparisons} together" if comparisons > 1 else ""
    lines = [
        f"uncut {100 * baseline:.4g} %, cut {100 * expected.cut:.4g} %, chance {100 * chance:.4g} %",
        f"correlation {expected.correlation:.2f}{assumed}: the models agree on "
        f"{100 * (outcomes.both + outcomes.neither):.3g} % of the items, {100 * outcomes.lost:.3g} % are lost, "
        f"{100 * outcomes.gained:.3g} % gained",
        "",
        f"{'items':>9}  what they show",
        f"{needed.to_see_the_difference:>9,}  the difference, with a power of {100 * power:.3g} % at alpha {alpha:g}"
        f"{together} (McNemar's exact test; by Connor's formula {needed.by_formula:,})",
        f"{needed.to_pin_the_retention:>9,}  the retention as {100 * retention:.4g} +- {100 * half_width:.3g} points "
        f"({100 * (1 - alpha):.4g} % interval)",
    ]
    show(data, lines=lines, json=json)
