"""What a reader of advice does next: the folder of a checkpoint, and the command that makes one or measures more."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layercut.runs.json_text import load
from layercut.text.markup import code, escape

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparedRun

CHECKPOINT = "checkpoint"


class FoundCheckpoint(NamedTuple):
    """A folder, or a command."""

    checkpoint: Path | None
    """Of the plan; None where it is not on the disk."""
    command: str
    """That writes it; empty where it is there."""


def checkpoint_of(folder: Path, arm: ComparedRun) -> FoundCheckpoint:
    """The checkpoint of a plan of a study, or the command that writes it there.

    A healed arm's lies beside the healed cut: ``CUT/heal-ARM/checkpoint``, any other in ``ARM/checkpoint``. Where a
    study kept none, a cut is written from its plan, and a healed arm by the study itself, with ``checkpoints: true``. A
    run of a checkpoint that was cut before has that one.
    """
    if arm.checkpoint:
        return FoundCheckpoint(Path(arm.checkpoint), "")
    cut = arm.plan or arm.name
    healed = arm.name.removeprefix(f"{cut}+") if arm.is_healing_arm else ""
    place = folder / cut / f"heal-{healed}" / CHECKPOINT if healed else folder / arm.name / CHECKPOINT
    if place.is_dir():
        return FoundCheckpoint(place, "")
    if healed:
        file, out = study_file(folder), f"{folder}-checkpoints"
        return FoundCheckpoint(None, shlex.join(["layercut", "run", file, "--out", out]))
    plan = folder / arm.name / "plan.json"
    words = ["layercut", "cut", _model(plan), "--remove", str(plan), "--out", str(place)]
    return FoundCheckpoint(None, shlex.join(words))


def more_items(folder: Path, items: int, use: str, keep: float) -> str:
    """What measures a study's plans on more items and asks again, in Markdown. Answers that are there are taken from
    this study's folder; single runs of ``layercut eval`` are repeated.

    Args:
        folder: of the study.
        items: report items of each task, in all.
        use: what is asked.
        keep: share to be kept.
    """
    out = str(folder.with_name(f"{folder.name}-{items}"))
    ask = shlex.join(["layercut", "advise", out, "--use", use, "--keep", f"{keep:g}"])
    if _is_of_single_runs(folder):
        return f"{ask_more(folder, items)} and `--out` in {code(out)}, then `{ask}`"
    again = shlex.join(["layercut", "run", study_file(folder), "--out", out])
    return f"{ask_more(folder, items)}, then `{again} && {ask}`"


def ask_more(folder: Path, items: int) -> str:
    """Where the number of items is raised, in Markdown."""
    if _is_of_single_runs(folder):
        return f"repeat the commands of the runs with `--limit {items}`"
    return f"raise `limit` to {items} in {escape(study_file(folder))}"


def _is_of_single_runs(folder: Path) -> bool:
    return _command(folder).startswith("layercut eval ")


def study_file(folder: Path) -> str:
    """The YAML file that a study was run from, as far as its folder records it."""
    made = shlex.split(_command(folder))
    return made[2] if made[:2] == ["layercut", "run"] and len(made) > 2 else "STUDY.yaml"


def _command(folder: Path) -> str:
    """What made the study, as its folder records it; empty where it does not."""
    for place in (folder, folder / "uncut"):
        try:
            made = load(place / "environment.json")["command"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return str(made)
    return ""


def _model(plan: Path) -> str:
    try:
        return str(load(plan).get("model") or "MODEL")
    except (OSError, ValueError, AttributeError):
        return "MODEL"
