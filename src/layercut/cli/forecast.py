"""The forecast of a study on the terminal: ``layercut run --dry-run``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from layercut.engine.cost import between
from layercut.report.table import Styled, Table, terminal, texts
from layercut.runs.disk import size
from layercut.study.forecast import ArmForecast, Forecast
from layercut.text.counting import counted

MANY = 100
"""Timed items of a task from which the range is about a factor of two."""
_HEAD = ("arm", "cells done", "items", "tokens read", "written", "time", "disk")


def forecast_table(found: Forecast) -> RenderableType:
    """Lay out a line for each arm, and below it the time and disk of all."""
    total = _total(found.arms)
    rows = [[arm.name, *_numbers(arm)] for arm in found.arms]
    table = Table(
        name="forecast",
        caption="",
        columns=texts(
            *_HEAD,
            numeric=_HEAD[1:],
            narrow={"items": (2, 3), "tokens read": (1, 2, 3), "written": (3,)},
        ),
        rows=[*rows, [Styled(text, "strong") for text in ("all", *_numbers(total))]],
    )
    time = "no measurement of this model on this machine yet; a run with --limit 4 and another --out gives one"
    if found.seconds_range is not None:
        time = f"{between(*found.seconds_range)}, {_basis(found)}"
    if found.unknown_steps:
        time += f"; excluding steps that were never timed: {_unknown(found)}"
    lines = [
        *found.shortfalls,
        "Tokens are estimated from the length of the first items; items that are already answered are excluded.",
        f"time: {time}",
        f"disk: up to {size(total.checkpoint_bytes)} of checkpoints"
        + ("" if found.keeps_checkpoints else ", all deleted at the end (checkpoints: false)")
        + (f"; {size(found.training_bytes)} more while a model is trained" if found.training_bytes else ""),
        *found.beside,
        f"would write to {found.folder}",
    ]
    return Group(Text(found.model, style="bold"), terminal(table), *(Text(line) for line in lines))


def _basis(found: Forecast) -> str:
    timed = {name: num for name, num in found.timed.items() if num}
    guessed = [name for name in found.timed if name not in timed]
    if not found.timed:
        return "from timings of this model on this machine"
    if not timed:
        return f"from the speed of other tasks with this model on this machine; never timed: {', '.join(guessed)}"
    fewest = min(timed, key=lambda name: timed[name])
    text = f"from {counted(sum(timed.values()), 'item')} timed with this model on this machine"
    if len(timed) > 1:
        text += f" (fewest: {timed[fewest]:,} of {fewest})"
    if guessed:
        text += f"; estimated from tokens, because never timed: {', '.join(guessed)}"
    if timed[fewest] < MANY or guessed:
        text += f". A run with --limit {MANY} and another --out gives a narrower range"
    return text


def _unknown(found: Forecast) -> str:
    healings = sum(any(arm.name == step for arm in found.arms) for step in found.unknown_steps)
    choices = len(found.unknown_steps) - healings
    texts = [f"{choices} choice{'s' * (choices != 1)} of layers"] if choices else []
    return " and ".join([*texts, *([counted(healings, "healing")] if healings else [])])


def _total(arms: tuple[ArmForecast, ...]) -> ArmForecast:
    counts = ("cells", "done", "items", "prompt_tokens", "new_tokens", "checkpoint_bytes")
    seconds = [arm.seconds for arm in arms if arm.seconds is not None]
    ranges = [arm.seconds_range for arm in arms if arm.seconds_range is not None]
    return ArmForecast(
        name="all",
        **{name: sum(getattr(arm, name) for arm in arms) for name in counts},
        seconds=sum(seconds) if len(seconds) == len(arms) else None,
        seconds_range=(sum(low for low, _ in ranges), sum(high for _, high in ranges))
        if len(ranges) == len(arms)
        else None,
    )


def _numbers(arm: ArmForecast) -> list[str]:
    time = "?" if arm.seconds_range is None else between(*arm.seconds_range)
    disk = size(arm.checkpoint_bytes) if arm.checkpoint_bytes else "-"
    counts = (arm.items, arm.prompt_tokens, arm.new_tokens)
    return [f"{arm.done}/{arm.cells}", *(f"{count:,}" for count in counts), time, disk]
