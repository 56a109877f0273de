"""predict.md: which layers can be removed without loss in generation, as predicted, compared with a sweep if there is
one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from layercut.evidence.correlation import RankCorrelation
from layercut.evidence.intervals import Estimate
from layercut.evidence.prediction import correlations, load
from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures import charts
from layercut.report.figures.picture import save
from layercut.report.provenance import write_report
from layercut.report.table import Column, Part, Table, terminal
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home
from layercut.text.counting import counted
from layercut.text.markup import escape
from layercut.text.numbers import two_decimals, with_interval
from layercut.text.removal import format_layers

REPORT, PLOT = "predict.md", "predict.png"
_RISES = "How far -ln p rises without the layer, in nats a token, by kind of token."


def prediction_report(folder: Path) -> Path:
    """Write predict.md and its picture again from what the run folder holds; gives the path of predict.md.

    Raises:
        InputError: no run folder, or no prediction in it.
    """
    run = RunFolder.open(folder)
    data = load(run.path)
    save(figure(data), run.path / PLOT)
    lines: list[Part] = [f"# What generation can lose of {escape(hide_home(data['model']))}: a prediction", ""]
    lines += [scope(data), ""]
    lines += [f"**{answer(data)}**", "", f"![Over the layers]({PLOT})", "", "## How many", ""]
    depths, order, kinds, agreement = _tables(data)
    lines += [depths, "", "## Which", "", "The predicted order; the layer to remove first is on top.", ""]
    lines += [order, "", "## Which tokens", "", _RISES, "", kinds, ""]
    lines += ["## Agreement", "", agreement, ""]
    return write_report(run, REPORT, [*lines, *(f"- {escape(line)}" for line in legend(data)), ""])


def scope(data: Mapping[str, Any]) -> str:
    """Name the answers that were read, in a sentence."""
    right = ", ".join(f"{label} {count}" for label, count in data["traces"].items())
    return (
        f"{data['num_layers']} decoder layers, each skipped alone, on {data['num_traces']} right answers of the "
        f"original model ({right}; {data['num_tokens']:,} tokens, selection items)."
    )


def answer(data: Mapping[str, Any]) -> str:
    """Number of layers that can be removed, and their indices."""
    safe, keep = data["safe"], f"{data['keep']:.0%}"
    if not safe:
        return (
            f"No layer can be removed with at least {keep} of these answers kept word for word. Try layer "
            f"{data['order'][0]} first."
        )
    return (
        f"{counted(safe, 'layer')} can be removed with at least {keep} of these answers kept word for word: "
        f"{format_layers(sorted(data['order'][:safe]))}."
    )


def legend(data: Mapping[str, Any]) -> list[str]:
    """Meaning of the numbers, one sentence each."""
    lines = [
        "KL: from the original model's next-token distributions to those without the layer, mean in nats a token. "
        "top-1 changed: tokens that are no longer the likeliest.",
        "sure tokens: rise of -ln p in nats at the tokens that the original model gives 0.9 or more, over all tokens. "
        "Elsewhere another token is often another wording.",
        "kinds of tokens: result is the number behind an equals sign of the answer. Intervals: bootstrap over the "
        "answers, seed 0. Means over all tokens hardly show a layer that one kind alone needs.",
        "answers kept: every token stays the likeliest, so greedy decoding writes the same answer (the stop token is "
        "not checked). A model may also be right in other words, so generation keeps at least this. Intervals: Wilson.",
        "Order: by KL. Layers that do little harm alone may do more together; the table of depths measures this.",
        "Correlations over layers; intervals by Fisher's z (Bonett and Wright 2000).",
    ]
    if data["sweep"]:
        lines.append("The sweep uses the items that the answers come from, and generates where the readout is written.")
    else:
        lines.append("No sweep in this folder: `layercut sweep` with the same objective and --out adds the comparison.")
    return lines


def prediction_tables(data: Mapping[str, Any]) -> list[RenderableType]:
    """Tables and lines for the terminal, to be printed one after the other."""
    depths, order, kinds, agreement = map(terminal, _tables(data))
    last = Text("\n".join(legend(data)), style="dim"), Text(answer(data), style="bold")
    return [Text(scope(data)), order, Text(_RISES), kinds, depths, agreement, *last]


def _coefficient(found: RankCorrelation) -> str:
    estimate = found.estimate
    return f"n/a: {found.refused}" if estimate is None else two_decimals(estimate)


def _kept(one: Mapping[str, Any]) -> str:
    return f"{with_interval(Estimate(**one['kept']))} %"


def _tables(data: Mapping[str, Any]) -> tuple[Table, Table, Table, Table]:
    """Number of layers, their order, the kinds of tokens that each one needs, and the agreement of rankings."""
    layers = {one["layer"]: one for one in data["layers"]}
    kinds = data["layers"][0]["kinds"]
    depths = [
        Column("layers", lambda one: str(len(one["removed"]))),
        Column("removed", lambda one: format_layers(sorted(one["removed"]))),
        Column("KL", lambda one: f"{one['kl']:.4f}"),
        Column("answers kept word for word", _kept),
    ]
    order = [
        Column("layer", lambda one: str(one["layer"])),
        Column("KL", lambda one: f"{one['kl']:.4f}"),
        Column("sure tokens", lambda one: f"{one['sure']:.4f}"),
        Column("top-1 changed", lambda one: f"{100 * one['top1']:.1f} %"),
        Column("answers kept", _kept),
        Column("block influence", lambda one: f"{one['influence']:.4f}"),
    ]
    agreement = [
        Column("ranking", lambda one: one.first),
        Column("and", lambda one: one.second),
        Column("layers", lambda one: "-" if one.spearman.estimate is None else str(one.spearman.estimate.n)),
        Column("Spearman's rho", lambda one: _coefficient(one.spearman)),
        Column("Kendall's tau", lambda one: _coefficient(one.kendall)),
    ]
    of_kinds = [Column("layer", lambda one: str(one["layer"]), numeric=True), *map(_of_kind, kinds, kinds.values())]
    in_order = [layers[layer] for layer in data["order"]]
    return (
        Table(name="depths", caption="How many layers", columns=depths, rows=data["depths"]),
        Table(name="order", caption="Which layers", columns=order, rows=in_order),
        Table(name="kinds", caption="Which tokens", columns=of_kinds, rows=data["layers"]),
        Table(name="agreement", caption="Agreement of rankings", columns=agreement, rows=correlations(data)),
    )


def _of_kind(kind: str, rise: Mapping[str, Any]) -> Column:
    return Column(
        f"{kind} (n {rise['n']:,})",
        lambda one: two_decimals(Estimate(**one["kinds"][kind])),
        numeric=True,
        narrow=(1,) if kind == "other digit" else (),
    )


def figure(data: Mapping[str, Any]) -> Figure:
    """Answers kept and the scores of a sweep without each layer; below, what ranks the layers, and kinds of tokens."""
    layers, sweep = data["layers"], data["sweep"] or []
    kept = "answers kept, predicted"
    kinds = {f"-ln p: {kind}": kind for kind in layers[0]["kinds"]}
    every = charts.colours([kept, *(f"sweep: {curve['name']}" for curve in sweep), *kinds])
    colours = {name: colour for name, colour in every.items() if name not in kinds}
    points = [charts.point(one["layer"], Estimate(**one["kept"]), kept, 100) for one in layers]
    for curve in sweep:
        for layer in sorted(map(int, curve["scores"])):
            value = (curve["scores"][str(layer)], None, None)
            points.append(charts.point(layer, value, f"sweep: {curve['name']}", 100))
    panels = [_panel(points, "%", "Predicted, and measured where there is a sweep", colours, data["num_layers"])]
    for name, words in (("kl", "KL, nats a token"), ("influence", "block influence")):
        points = [charts.point(one["layer"], (one[name], None, None), words) for one in layers if one[name] > 0]
        panels.append(_panel(points, words, "", {words: charts.UNCUT}, data["num_layers"], scale="log"))
    points = [
        charts.point(one["layer"], (one["kinds"][kind]["value"], None, None), name)
        for name, kind in kinds.items()
        for one in layers
        if 0 < one["kinds"][kind]["value"] < math.inf
    ]
    if points:
        words, of_kinds = "rise of -ln p, nats a token", {name: every[name] for name in kinds}
        panels.append(_panel(points, words, "", of_kinds, data["num_layers"], scale="log"))
    return Figure(
        name="prediction",
        title="Each layer skipped alone",
        panels=panels,
        caption="Bars: 95 % intervals (Wilson). Where a kind of token has no point, its -ln p does not rise.",
        legend=[Key(label=name, colour=colour) for name, colour in every.items()],
        columns=1,
    )


def _panel(
    points: Sequence[Mapping[str, Any]],
    y_title: str,
    title: str,
    colours: Mapping[str, str],
    num_layers: int,
    *,
    scale: str = "linear",
) -> Panel:
    reach = charts.reach([point["y"] for point in points], scale) if scale == "log" else (-4.0, 104.0)
    spec = charts.curves(
        points, x_title="layer that is skipped", y_title=y_title, x=(-0.5, num_layers - 0.5), y=reach, colours=colours,
        scale=scale, height=170,
    )  # fmt: skip
    return Panel(spec=spec, title=title, label=f"Line plot over layers: {y_title}.")
