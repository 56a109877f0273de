"""``layercut plan-size``: how many items a comparison needs."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import show
from layercut.requests.results import PlanSizeRequest


@options.command
def plan_size(request: PlanSizeRequest, json: options.Json = False) -> None:
    """Show the numbers of items."""
    from layercut.evidence.sample_size import expect, items_needed

    baseline, retention, chance, power, alpha = (
        request.baseline, request.retention, request.chance, request.power, request.alpha
    )  # fmt: skip
    half_width, comparisons = request.half_width, request.comparisons
    expected = expect(
        baseline=baseline,
        retention=retention,
        chance=chance,
        correlation=request.correlation,
        agreement=request.agreement,
    )
    needed = items_needed(expected, power=power, alpha=alpha, half_width=half_width, comparisons=comparisons)
    outcomes = expected.outcomes
    data = {
        "baseline": baseline, "cut": expected.cut, "retention": retention, "chance": chance,
        "correlation": expected.correlation, "agreement": outcomes.both + outcomes.neither,
        "outcomes": outcomes._asdict(), "power": power, "alpha": alpha, "comparisons": comparisons,
        "half_width": half_width, "items": needed._asdict(),
    }  # fmt: skip
    assumed = " (assumed)" if request.correlation is None and request.agreement is None else ""
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
