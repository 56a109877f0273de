"""Report of a healing: training data, loss over the steps, held-out questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from layercut.evidence.intervals import Estimate, proportion_interval
from layercut.report import charts
from layercut.report.elements import Block, Figure, Panel, Section, bullet_list, legend_keys
from layercut.report.source import Source
from layercut.report.table import Table, text_columns
from layercut.runs.environment import hide_home
from layercut.runs.healing import CHECKPOINT, ON_POLICY, healing_lines, is_graded
from layercut.runs.records import read_records
from layercut.text import count_of, escaped_markdown, format_layers, with_interval

Line = Mapping[str, Any]
"""A line of the loss curve, or the entry of a healing in plan.json."""
PLOT = "report.png"
_POINTS = 60  # most points of the training loss in the plot; of more steps, each point is a mean
_ANSWERS = {
    "self": "the original model's own answers",
    "original": "the data's answers",
    "own": "the pruned model's own graded answers",
    ON_POLICY: "the pruned model's own answers",
}
_LEFT_OUT = {"contaminated": "hold report items", "too_long_with_prompt": "too long with the prompt"}


def healing_section(source: Source) -> Section:
    """Make the section of the plan, the method and the training data."""
    entry = source.value
    layers = f"layers {format_layers(entry['removed'])} removed" if entry["removed"] else ""
    thinner = "thinner MLPs" if entry.get("channels") else ""
    removed = " and ".join(filter(None, (layers, thinner))) or "no layer removed"
    how = entry["method"] if "seams" in entry else f"{entry['method']}, {entry['objective']}"
    data = _ANSWERS[ON_POLICY if entry["objective"] == ON_POLICY else entry["responses"]]
    return Section(
        name="healing",
        title="Method and training data",
        lead=f"{removed.capitalize()}; {how}, on {data}. Original model: {hide_home(str(entry['teacher']))}.",
        blocks=(bullet_list(map(escaped_markdown, healing_lines(entry))), _facts(entry)),
    )


def _facts(entry: Line) -> Table:
    """Counts of the examples, and what was left out."""
    is_own = is_graded(entry) or entry["objective"] == ON_POLICY
    left_out = {**entry.get("dropped", {}), **{name: entry[key] for key, name in _LEFT_OUT.items() if entry.get(key)}}
    facts = {
        "trained on": count_of(entry["num_examples"], "prompt" if is_own else "answer"),
        "tokens in the loss": "" if entry["objective"] == ON_POLICY else f"{entry.get('loss_tokens', 0):,}",
        "held out": count_of(entry["num_held_out"], "prompt" if is_graded(entry) else "answer"),
        "left out": ", ".join(f"{name} {count:,}".replace("_", " ") for name, count in left_out.items()) or "none",
        **{name: f"{entry[name]:,}" for name in ("steps", "tokens", "seconds") if name in entry},
    }
    rows = [(name, text) for name, text in facts.items() if text not in ("", "0")]
    return Table(name="examples", caption="Examples", columns=text_columns("", ""), rows=rows)


def training_section(source: Source) -> Section | None:
    """Make the section of what was measured while it trained; None where nothing was."""
    entry = source.value
    if "loss_curve" not in entry:
        return None
    curve = read_records(source.runs[0].path / CHECKPOINT / entry["loss_curve"])
    blocks: list[Block] = [figure] if (figure := _figure(entry, curve)) else []
    if is_graded(entry):
        rows = [[str(step), with_interval(share)] for step, share in _held_out(entry, curve).items()]
        head, note = "held out", "Answers in % with 95 % intervals; they do not decide when training stops."
    else:
        rows = [[str(line["step"]), f"{line['held_out_loss']:.4f}"] for line in curve if "held_out_loss" in line]
        head, note = "held-out loss", "Held-out loss: mean over the held-out examples, in nats a token."
    if rows:
        heads = ("step", f"{head}, n={entry['num_held_out']}")
        columns = text_columns(*heads, numeric=heads)
        blocks += [Table(name="evaluations", caption="Evaluations", columns=columns, rows=rows), note]
    return Section(name="training", title="While it trained", blocks=blocks) if blocks else None


def _held_out(entry: Line, curve: Sequence[Line]) -> dict[int, Estimate]:
    """Shares of held-out prompts that were answered right, by step."""
    n = entry["num_held_out"]
    evaluated = [line for line in curve if "held_out_loss" in line]
    return {line["step"]: proportion_interval(round((1 - line["held_out_loss"]) * n), n) for line in evaluated}


def _figure(entry: Line, curve: Sequence[Line]) -> Figure | None:
    """Losses over the steps, or shares of right answers of a graded training; None where nothing was trained."""
    if not curve:
        return None
    if is_graded(entry):
        drawn, name = "answers drawn in training", f"held out, n={entry['num_held_out']}"
        points = [
            charts.chart_point((100 * share, None, None), drawn, x=step) for step, share in _means(curve, "reward")
        ]
        points += [charts.chart_point(share, name, 100, x=step) for step, share in _held_out(entry, curve).items()]
        y_title, reach = "right, %", (-4.0, 104.0)
    else:
        held_out = [(line["step"], line["held_out_loss"]) for line in curve if "held_out_loss" in line]
        values = {"training loss": _means(curve, "loss"), "held-out loss": held_out}
        points = [
            charts.chart_point((loss, None, None), name, x=step) for name in values for step, loss in values[name]
        ]
        y_title, reach = "nats a token", charts.axis_reach([point["y"] for point in points])
    if not points:
        return None
    colours = charts.series_colours(point["series"] for point in points)
    last = max(1, *(point["x"] for point in points))
    spec = charts.curve_chart(
        points, x_title="step", y_title=y_title, x=(0, last), y=reach, colours=colours, height=170
    )
    return Figure(
        name="healing",
        title="While it trained",
        panels=[Panel(spec=spec, title="", label=f"Line plot over the steps: {y_title}.")],
        caption="",
        legend=legend_keys(colours),
        columns=1,
        picture=PLOT,
    )


def _means(curve: Sequence[Line], name: str) -> list[tuple[int, float]]:
    """A value at each step; of many steps, the mean over as many as give ``_POINTS`` points."""
    steps = [line for line in curve if name in line]
    width = max(1, -(-len(steps) // _POINTS))
    parts = [steps[start : start + width] for start in range(0, len(steps), width)]
    return [(part[-1]["step"], fmean(line[name] for line in part)) for part in parts]
