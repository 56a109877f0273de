"""predict.md: which layers, and how many, generation can lose, as predicted, beside a real sweep where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.text import Text

from layercut.evidence.correlation import RankCorrelation, kendall_correlation, rank_correlation
from layercut.evidence.intervals import Estimate
from layercut.report.diagnosis.drawing import COLOURS, canvas, save, tidy
from layercut.report.diagnosis.page import provenance_lines
from layercut.report.markup import escape
from layercut.report.numbers import with_interval
from layercut.report.ranking import plain_table
from layercut.runs.atomic import write_text
from layercut.runs.counting import counted
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home
from layercut.runs.settings import read_format
from layercut.surgery.plan import format_layers

FORMAT_VERSION = 1
PREDICTION, REPORT, PLOT = "predict.json", "predict.md", "predict.png"
PREDICTORS: Mapping[str, str] = {"kl": "trace damage (KL)", "lost": "answers not kept", "influence": "block influence"}
"""What ranks the layers, and its name; higher means keep."""
_LISTED = ("layer", "KL", "top-1 changed", "answers kept", "block influence")


class Correlation(NamedTuple):
    """How far a predictor's order of the layers agrees with another one's."""

    first: str
    second: str
    spearman: RankCorrelation
    kendall: RankCorrelation


def load(folder: Path) -> dict[str, Any]:
    """What predict.json of a run folder holds.

    Raises:
        InputError: there is none, or it is damaged or of an unknown format.
    """
    return read_format(Path(folder) / PREDICTION, "prediction")


def prediction_report(folder: Path) -> Path:
    """Write predict.md and its picture again from what the run folder holds; gives the path of predict.md.

    Raises:
        InputError: no run folder, or no prediction in it.
    """
    run = RunFolder.open(folder)
    data = load(run.path)
    save(partial(figure, data), run.path / PLOT)
    write_text(run.path / REPORT, render(data, run))
    return run.path / REPORT


def render(data: Mapping[str, Any], run: RunFolder) -> str:
    """The text of predict.md."""
    lines = [f"# What generation can lose of {escape(hide_home(data['model']))}: a prediction", "", facts(data), ""]
    lines += [f"**{answer(data)}**", "", f"![Over the layers]({PLOT})", "", "## How many", ""]
    lines += _markdown(("layers", "removed", "KL", "answers kept word for word"), depth_rows(data))
    lines += ["", "## Which", "", "The predicted order, the first to go on top.", ""]
    lines += [*_markdown(_LISTED, layer_rows(data)), "", "## Agreement", ""]
    lines += [*_markdown(("ranking", "and", "layers", "Spearman's rho", "Kendall's tau"), _agreement_rows(data)), ""]
    lines += [*(f"- {escape(line)}" for line in legend(data)), ""]
    return "\n".join([*lines, *provenance_lines(run)]) + "\n"


def facts(data: Mapping[str, Any]) -> str:
    """What was read, in a sentence."""
    right = ", ".join(f"{label} {count}" for label, count in data["traces"].items())
    return (
        f"{data['num_layers']} decoder layers, each skipped alone, under {data['num_traces']} right answers of the "
        f"uncut model ({right}; {data['num_tokens']:,} tokens, selection items)."
    )


def answer(data: Mapping[str, Any]) -> str:
    """How many layers can go, and which."""
    safe, keep = data["safe"], f"{data['keep']:.0%}"
    if not safe:
        return (
            f"No layer is shown to leave at least {keep} of these answers word for word; the first to try is "
            f"{data['order'][0]}."
        )
    return (
        f"{counted(safe, 'layer')} can go with at least {keep} of these answers left word for word: "
        f"{format_layers(sorted(data['order'][:safe]))}."
    )


def legend(data: Mapping[str, Any]) -> list[str]:
    """What the numbers mean, one sentence each."""
    lines = [
        "KL: of the next-token distributions, uncut against without the layer, mean in nats per token of the answers; "
        "top-1 changed: tokens of which another is the likeliest then.",
        "answers kept: every token stays the likeliest, so greedy decoding writes the answer again (the stop token is "
        "not looked at). A model may be right in other words too: generation keeps at least this. Intervals: Wilson.",
        "Order: by KL. Layers that do little harm alone may do more together: that is what the table of depths reads.",
        "Correlations over layers; intervals by Fisher's z (Bonett and Wright 2000).",
    ]
    if data["sweep"]:
        lines.append("The sweep asks the items that the answers come from, with generation where a task is written.")
    else:
        lines.append("No sweep in this folder: `layercut sweep` with the same objective and --out adds the comparison.")
    return lines


def prediction_tables(data: Mapping[str, Any]) -> list[RenderableType]:
    """What the terminal shows, to be printed one after the other."""
    blocks: list[RenderableType] = [Text(facts(data))]
    for columns, rows in (
        (_LISTED, layer_rows(data)),
        (("layers", "removed", "KL", "answers kept"), depth_rows(data)),
        (("ranking", "and", "layers", "Spearman's rho", "Kendall's tau"), _agreement_rows(data)),
    ):
        table = plain_table()
        for name in columns:
            table.add_column(name)
        for cells in rows:
            table.add_row(*cells)
        blocks.append(table)
    return [*blocks, Text("\n".join(legend(data)), style="dim"), Text(answer(data), style="bold")]


def layer_rows(data: Mapping[str, Any]) -> list[list[str]]:
    """The layers in the predicted order."""
    layers = {one["layer"]: one for one in data["layers"]}
    return [
        [
            str(layer),
            f"{layers[layer]['kl']:.4f}",
            f"{100 * layers[layer]['top1']:.1f} %",
            with_interval(Estimate(**layers[layer]["kept"])) + " %",
            f"{layers[layer]['influence']:.4f}",
        ]
        for layer in data["order"]
    ]


def depth_rows(data: Mapping[str, Any]) -> list[list[str]]:
    """The first 1, 2, ... layers of the order, skipped together."""
    return [
        [
            str(len(one["removed"])),
            format_layers(sorted(one["removed"])),
            f"{one['kl']:.4f}",
            with_interval(Estimate(**one["kept"])) + " %",
        ]
        for one in data["depths"]
    ]


def correlations(data: Mapping[str, Any]) -> list[Correlation]:
    """Of the predictors with each other, and of each one with every task of the sweep, if there is one.

    A task ranks a layer the higher, the lower the score without it.
    """
    rankings = {name: _ranking(data, name) for name in PREDICTORS}
    found = [_correlation(PREDICTORS["kl"], rankings["kl"], PREDICTORS["influence"], rankings["influence"])]
    for curve in data["sweep"] or []:
        task = {int(layer): -score for layer, score in curve["scores"].items()}
        found += [_correlation(words, rankings[name], curve["name"], task) for name, words in PREDICTORS.items()]
    return found


def _ranking(data: Mapping[str, Any], name: str) -> dict[int, float]:
    return {one["layer"]: 1 - one["kept"]["value"] if name == "lost" else one[name] for one in data["layers"]}


def _correlation(first: str, one: Mapping[int, float], second: str, other: Mapping[int, float]) -> Correlation:
    layers = sorted(one.keys() & other.keys())
    pairs = [one[layer] for layer in layers], [other[layer] for layer in layers]
    return Correlation(first, second, rank_correlation(*pairs), kendall_correlation(*pairs))


def _agreement_rows(data: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            one.first,
            one.second,
            "-" if one.spearman.estimate is None else str(one.spearman.estimate.n),
            _coefficient(one.spearman),
            _coefficient(one.kendall),
        ]
        for one in correlations(data)
    ]


def _coefficient(found: RankCorrelation) -> str:
    estimate = found.estimate
    if estimate is None:
        return f"n/a: {found.refused}"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f} [n/a]"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return [*lines, *("| " + " | ".join(map(escape, cells)) + " |" for cells in rows)]


def figure(data: Mapping[str, Any]) -> Figure:
    """Above, answers kept and the scores of a sweep without each layer; below, what ranks the layers."""
    height = 4.6
    picture = canvas(height)
    layers = [one["layer"] for one in data["layers"]]
    upper = picture.add_axes((0.08, 2.75 / height, 0.64, 1.6 / height))
    upper.plot(layers, [100 * one["kept"]["value"] for one in data["layers"]], color=COLOURS[0], label="answers kept")
    for one in data["layers"]:
        upper.vlines(one["layer"], 100 * one["kept"]["low"], 100 * one["kept"]["high"], color=COLOURS[0], linewidth=0.8)
    for index, curve in enumerate(data["sweep"] or [], start=1):
        places = sorted(map(int, curve["scores"]))
        scores = [100 * curve["scores"][str(layer)] for layer in places]
        upper.plot(places, scores, color=COLOURS[index % len(COLOURS)], linestyle="--", label=f"sweep: {curve['name']}")
    upper.set_title("predicted, and measured where there is a sweep, in %", fontsize=9, loc="left")
    upper.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    lower = picture.add_axes((0.08, 0.5 / height, 0.64, 1.6 / height))
    for index, (name, words) in enumerate((("kl", "KL, nats a token"), ("influence", "block influence"))):
        lower.plot(layers, [one[name] for one in data["layers"]], color=COLOURS[index], marker=".", label=words)
    lower.set_yscale("log")
    lower.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    lower.set_xlabel("layer that is skipped", fontsize=9)
    for axes in (upper, lower):
        tidy(axes)
        axes.set_xlim(-0.7, data["num_layers"] - 0.3)
    return picture
