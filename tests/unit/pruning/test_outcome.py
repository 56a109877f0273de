"""What prune says before its search, checks outside the goal, and the checkpoint that was verified."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from layercut.errors import InputError
from layercut.pruning.budget import ITEMS, checks_for
from layercut.pruning.confirm import SIDE_EFFECTS
from layercut.runs.directory import RunFolder
from layercut.runs.prune import PruneResult
from layercut.tasks import load_task
from layercut.tasks.cells import Cell
from layercut.tasks.suites import SIDE_EFFECTS as TASKS
from tests.unit.pruning.conftest import DEPTHS, run
from tests.unit.pruning.test_job import found


def test_a_checkpoint_that_changed_is_noticed_and_one_that_is_gone_written_again(model, choices, tmp_path):
    settings: dict[str, Any] = {"smaller": DEPTHS[2], "heal": "none"}
    done = run(model, choices, tmp_path / "run", **settings)
    whole, checkpoint = found(done), tmp_path / "run" / "model"
    changed = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        changed.model.norm.weight.mul_(2)
    changed.save_pretrained(checkpoint)
    with pytest.raises(InputError, match=r"model are not those that were verified.*writes it again"):
        run(model, choices, tmp_path / "run", **settings)
    checkpoint.rename(tmp_path / "elsewhere")
    assert found(run(model, choices, tmp_path / "run", **settings)) == whole


@pytest.mark.parametrize(
    ("has_template", "context", "asked"), [(True, 512, TASKS[:3]), (True, None, TASKS[:3]), (True, 511, ()),
                                           (False, 512, ())]
)  # fmt: skip
def test_no_long_texts_and_no_model_that_takes_no_conversations(has_template, context, asked):
    model: Any = SimpleNamespace(has_chat_template=has_template, context_length=context)
    assert {cell.task.name: len(cell.samples) for cell in checks_for(model, [], 0)} == dict.fromkeys(asked, ITEMS)


@pytest.mark.parametrize(
    ("task", "readout", "items", "asked"),
    [("gsm_symbolic", "chain", 800, (48, 40, 48)), ("gsm_symbolic", "chain", 400, (37, 37, 37)),
     ("arithmetic", "short", 500, (24, 24, 24)), ("gsm_symbolic", "rank", 500, (24, 24, 24))],
)  # fmt: skip
def test_checks_have_more_items_where_these_cost_little_beside_those_of_the_goal(task, readout, items, asked):
    model: Any = SimpleNamespace(has_chat_template=True, context_length=None)
    asked_of_goal = [Cell(task=load_task(task), readout=readout, limit=items)]
    assert tuple(len(cell.samples) for cell in checks_for(model, asked_of_goal, 0)) == asked


def test_the_checkpoint_is_compared_with_the_original_on_the_same_items(model, choices, whole, tmp_path):
    done = run(model, choices, tmp_path / "run", no_side_effects=False)
    checked = done.result.side_effects
    assert [effect.task for effect in checked] == ["endings", "same_language", "instructions"]
    for effect in checked:
        models = [
            RunFolder.open(done.folder / "side_effects" / name).records(effect.task, "short")
            for name in ("uncut", done.result.chosen.name)
        ]
        assert [record["id"] for record in models[0]] == [record["id"] for record in models[1]]
        means = [sum(record["metrics"]["accuracy"] for record in records) / ITEMS for records in models]
        assert (effect.uncut.value, effect.cut.value, effect.cut.n) == (*means, ITEMS)
        assert not effect.is_shown  # its layers do nothing
    assert whole.result.side_effects == () and SIDE_EFFECTS in done.result.seconds
    ours, others = found(done), found(whole)
    both = ours.keys() & others.keys() - {"side_effects"}
    assert {name: ours[name] for name in both} == {name: others[name] for name in both}
    assert PruneResult.load(done.folder) == done.result
    assert done.checkpoint is not None
    card = (done.checkpoint / "README.md").read_text("utf-8")
    verdict, effects = card.split("\n---\n", 1)[1].split("\n\n")[1:3]
    assert verdict.startswith("**Passed")
    assert re.fullmatch(
        r"\*\*Side effects:\*\* 3 checks of 24 items: no loss shown; losses of up to [\d, ]+ and \d+ points are not "
        r"excluded\.",
        effects,
    )


def said(model: Path, file: Path, out: Path, **settings: Any) -> tuple[list[str], list[str]]:
    """Lines up to what the report items can show, and those that ``--verbose`` adds."""
    lines, details = list[str](), list[str]()

    def say(line: str) -> None:
        lines.append(line)
        if "too few" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, file, out, say=say, detail=details.append, items=12, smaller=DEPTHS[1], **settings)
    return lines, details


def test_general_requests_are_announced_with_their_reason_and_the_way_without(model, choices, tmp_path):
    lines, details = said(model, choices, tmp_path / "run")
    assert len(lines) == 1, "of items and power, one line before anything has happened"
    (line,) = (line for line in details if "general requests" in line)
    assert "24 general requests" in line and "other abilities" in line and "`goal_alone`" in line
    for name, settings in (("alone", {"goal_alone": True}), ("unhealed", {"heal": "none"})):
        assert not any("general" in line for line in said(model, choices, tmp_path / name, **settings)[1]), name
